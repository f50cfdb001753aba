"""Times of calls on the device, by events, after a cold cache; and per call of a replayed graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = Callable[[int], Any]  # the number of the operand set -> whatever the library returns

GRAPH_CALLS = 8
HIDDEN_CYCLES = 500_000  # about 0.3 ms in which the device waits and the host runs ahead


class Clock:
    """Measures on the current device and stream."""

    def __init__(self) -> None:
        l2 = torch.cuda.get_device_properties(0).L2_cache_size
        self._others = torch.ones(max(3 * l2, 64 << 20) // 4, dtype=torch.float32, device="cuda")

    def cold(self, calls: Sequence[Call], sets: int, samples: int) -> list[list[float]]:
        """Seconds of ``samples`` calls of each, interleaved. Before each, other memory is read, so
        that L2 holds nothing of the operands and nothing that is still to be written back."""
        events = []
        for sample in range(samples):
            for number, call in enumerate(calls):
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._others.sum()
                torch.cuda._sleep(HIDDEN_CYCLES)
                begin.record()
                call(sample % sets)
                end.record()
                events.append((number, begin, end))
        torch.cuda.synchronize()
        times: list[list[float]] = [[] for _ in calls]
        for number, begin, end in events:
            times[number].append(begin.elapsed_time(end) / 1e3)
        return times

    def replayed(self, call: Call, sets: int, replays: int = 5) -> float:
        """Seconds a call in a graph of several: no launch gaps; the caches stay as they are."""
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            call(0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for number in range(GRAPH_CALLS):
                call(number % sets)
        graph.replay()
        times = []
        for _ in range(replays):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / GRAPH_CALLS)
        return statistics.median(times)

    def host(self, call: Call, calls: int = 300) -> float:
        """Seconds that the host spends in a call, the device being kept out of its way."""
        for _ in range(20):
            call(0)
        torch.cuda.synchronize()
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            for _ in range(calls):
                call(0)
            best = min(best, (time.perf_counter() - begin) / calls)
            torch.cuda.synchronize()
        return best

    def copy_of(self, size: int) -> Call:
        """A call that moves ``size`` bytes, half of them read and half written."""
        source = torch.zeros(max(size // 2, 1), dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        return lambda _: target.copy_(source)

    def steady(
        self, calls: Sequence[Callable[[], Any]], rounds: int, seconds: float = 0.05
    ) -> list[list[float]]:
        """Seconds a call where several follow each other, as they do in training: what the host
        cannot hide counts too. A round takes one sample of each."""
        times: list[list[float]] = [[] for _ in calls]
        counts = [0] * len(calls)
        for number in range(-1, rounds):
            for place, call in enumerate(calls):
                count = counts[place] or 2
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                torch.cuda.synchronize()
                begin.record()
                for _ in range(count):
                    call()
                end.record()
                end.synchronize()
                taken = begin.elapsed_time(end) / 1e3 / count
                if number < 0:
                    counts[place] = max(2, min(100, int(seconds / taken)))
                else:
                    times[place].append(taken)
        return times

    def copy_bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy of 1 GiB on the device."""
        source = torch.randn(1 << 28, device="cuda")
        target = torch.empty_like(source)
        times = self.cold([lambda _: target.copy_(source)], 1, 7)[0]
        return 2 * source.numel() * 4 / statistics.median(times)

    def matrix_peak(self, dtype: torch.dtype) -> float:
        """Floating-point operations a second of PyTorch's 8192 x 8192 x 8192 product."""
        size = 8192
        a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
        torch.mm(a, b)
        times = self.cold([lambda _: torch.mm(a, b)], 1, 5)[0]
        return 2 * size**3 / statistics.median(times)
