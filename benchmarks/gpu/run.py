"""One session on the device: check, time, print a line, keep everything for the JSON file."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

from .. import machine, results, shapes
from ..problems import Problem, problems

DTYPES = ("bfloat16", "float16", "float32", "tf32")
#: relative L2 distance from float64 beyond which a row is wrong
TOLERANCE = {"bfloat16": 5e-3, "float16": 1e-3, "float32": 1e-5, "tf32": 1e-3}


def run(options: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 something wrong, 2 nothing can be measured here."""
    import fastconv as fc

    if torch is None or not torch.cuda.is_available():
        print(
            "python -m benchmarks --device cuda: needs PyTorch with a CUDA device", file=sys.stderr
        )
        return 2
    if not fc.cuda.is_available():
        print(f"python -m benchmarks: {fc.cuda.why_unavailable()}", file=sys.stderr)
        return 2
    session = Session(options)
    try:
        session.measure()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    session.summarize()
    if options.json is not None:
        results.write(options.json, session.content())
        print(f"wrote {options.json}", flush=True)
    return 1 if session.wrong else 0


class Session:
    """What was asked for, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from .clock import Clock

        self.options, self.clock = options, Clock()
        self.began = time.monotonic()
        self.wrong: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.complete = False
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(options.seed)
        _allow_tf32(False)
        self.limits = {
            "copy_bytes_per_second": self.clock.copy_bandwidth(),
            "matrix_flops": {
                name: self.clock.matrix_peak(getattr(torch, name))
                for name in ("bfloat16", "float32")
            },
        }
        copy = self.limits["copy_bytes_per_second"] / 1e12
        print(f"{torch.cuda.get_device_name()}: copy {copy:.2f} TB/s", flush=True)
        self.limits["host_seconds"] = self._host()
        for name, seconds in self.limits["host_seconds"].items():
            print(f"host time of a small conv2d, {name}: {seconds * 1e6:.1f} us", flush=True)
        for name, flops in self.limits["matrix_flops"].items():
            print(f"matrix product of PyTorch, {name}: {flops / 1e12:.0f} TFLOP/s", flush=True)

    def _host(self) -> dict[str, float]:
        import fastconv as fc

        x = torch.randn(1, 8, 4, 4, device="cuda").contiguous(memory_format=torch.channels_last)
        w = torch.randn(8, 8, 1, 1, device="cuda")
        a, b = fc.cuda.asarray(x), fc.cuda.asarray(w)
        calls = {
            "fastconv": lambda _: fc.conv2d(a, b),
            "fastconv on tensors": lambda _: fc.conv2d(x, w),
            "pytorch": lambda _: torch.nn.functional.conv2d(x, w),
        }
        return {name: self.clock.host(call) for name, call in calls.items()}

    def measure(self) -> None:
        """All problems, until the time limit."""
        options = self.options
        layers = [layer for name in options.suite for layer in shapes.suite(name)]
        for dtype in options.dtypes:
            _allow_tf32(dtype == "tf32")
            for problem in problems(layers, options.batch, options.direction, options.pattern):
                if options.time_limit and time.monotonic() - self.began > options.time_limit:
                    print("time limit: the rest is not begun", flush=True)
                    return
                self._one(problem, dtype)
            if options.memory_bound and dtype != "tf32":
                self._memory_bound(dtype)
        self.complete = True

    def _one(self, problem: Problem, dtype: str) -> None:
        from .rows import prepare

        try:
            prepared = prepare(problem, _torch_dtype(dtype))
        except (LookupError, torch.cuda.OutOfMemoryError):
            return
        about = {"id": problem.identity, "title": problem.title, "kind": problem.shape.kind,
                 "operation": problem.shape.operation, "direction": problem.direction,
                 "batch": problem.batch}  # fmt: skip
        self._time(prepared, dtype, about)

    def _memory_bound(self, dtype: str) -> None:
        from .rows import memory_bound

        batch = max(self.options.batch)
        for name, prepared in memory_bound(batch, _torch_dtype(dtype)).items():
            about = {"id": f"{name}.n{batch}", "title": name, "kind": "memory-bound",
                     "operation": name, "direction": "forward", "batch": batch}  # fmt: skip
            self._time(prepared, dtype, about)

    def _time(self, prepared: Any, dtype: str, about: dict[str, Any]) -> None:
        import fastconv as fc

        names: dict[str, Callable[[Any], Any]] = {
            "fastconv": prepared.ours,
            "pytorch": prepared.theirs,
        }
        if self.options.kernels and prepared.direction:
            function = {"forward": fc.conv2d, "grad_input": fc.conv2d_grad_input,
                        "grad_weight": fc.conv2d_grad_weight}[prepared.direction]  # fmt: skip
            for kernel in fc.cuda.kernels(function):
                if kernel not in ("naive", "depthwise"):
                    names[kernel] = _forced(prepared.ours, kernel)
        row: dict[str, Any] = {**about, "dtype": dtype, "bytes": prepared.bytes_moved,
                               "flops": prepared.flops, "times": {}, "errors": {}, "refused": {},
                               "graph": {}}  # fmt: skip
        precision = "tf32" if dtype == "tf32" else "highest"
        with fc.float32_precision(precision):
            if prepared.plan is not None:
                plan = prepared.plan(prepared.sets[0])
                row["plan"] = {"kernel": plan.kernel, "splits": plan.splits}
            expected = _exactly(prepared, dtype)
            for name, call in list(names.items()):
                try:
                    result = call(prepared.sets[0])
                except (ValueError, NotImplementedError) as error:
                    row["refused"][name] = str(error)
                    del names[name]
                    continue
                error = _distance(result, expected)
                row["errors"][name] = error
                if not error < TOLERANCE[dtype] and name != "pytorch":
                    self.wrong.append(f"{about['id']} {dtype} {name}: {error:.3g}")
            calls = [self._on_set(call, prepared.sets) for call in names.values()]
            for call in calls:
                call(0)
            cold = self.clock.cold(calls, len(prepared.sets), self.options.samples)
            row["times"] = dict(zip(names, cold, strict=True))
            if self.options.graph:
                for name in ("fastconv", "pytorch"):
                    call = self._on_set(names[name], prepared.sets)
                    row["graph"][name] = self.clock.replayed(call, len(prepared.sets))
        self.rows.append(row)
        print(self._line(row), flush=True)

    @staticmethod
    def _on_set(call: Callable[[Any], Any], sets: list[Any]) -> Callable[[int], Any]:
        return lambda number: call(sets[number])

    def _line(self, row: dict[str, Any]) -> str:
        medians = {name: statistics.median(times) for name, times in row["times"].items()}
        ours, theirs = medians["fastconv"], medians["pytorch"]
        rate = f"{row['flops'] / ours / 1e12:6.1f} TFLOP/s" if row["flops"] else ""
        share = row["bytes"] / ours / self.limits["copy_bytes_per_second"]
        text = f"{row['dtype']:8} {row['direction']:15} n{row['batch']:<3} {row['title']:38} "
        text += f"{ours * 1e6:8.1f} us {rate} {share:4.0%} of copy  x{theirs / ours:5.2f}"
        if "plan" in row:
            text += f"  {row['plan']['kernel']} / {row['plan']['splits']}"
        if row["graph"]:
            text += f"  graph x{row['graph']['pytorch'] / row['graph']['fastconv']:.2f}"
        forced = {n: t for n, t in medians.items() if n not in ("fastconv", "pytorch")}
        if forced:
            best = sorted(forced, key=forced.__getitem__)[:3]
            text += "  " + " ".join(f"{name} {ours / forced[name]:.2f}" for name in best)
        return text

    def summarize(self) -> None:
        """Geometric means of PyTorch's time over ours."""
        groups: dict[tuple[str, ...], list[float]] = {}
        for row in self.rows:
            medians = {name: statistics.median(times) for name, times in row["times"].items()}
            key = (row["operation"], row["direction"], row["dtype"], self._arithmetic(row, medians))
            groups.setdefault(key, []).append(medians["pytorch"] / medians["fastconv"])
        for key, ratios in groups.items():
            mean = statistics.geometric_mean(ratios)
            print(f"{' '.join(key):60} {len(ratios):3} rows  x{mean:.3f}  lowest {min(ratios):.2f}")
        for text in self.wrong:
            print(f"WRONG {text}")

    def _arithmetic(self, row: dict[str, Any], medians: dict[str, float]) -> str:
        """What is known of PyTorch's algorithm: no direct one is faster than its matrix product."""
        peak = self.limits["matrix_flops"]["float32"]
        fewer = row["dtype"] == "float32" and row["flops"] / medians["pytorch"] > 1.05 * peak
        return "(PyTorch's by Winograd or FFT)" if fewer else ""

    def content(self) -> dict[str, Any]:
        """Everything as JSON values."""
        import fastconv as fc

        return {
            "schema": results.SCHEMA,
            "complete": self.complete,
            "device": _device_facts(),
            "limits": self.limits,
            "versions": {
                "fastconv": fc.__version__,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "python": sys.version.split()[0],
            },
            "commit": os.environ.get("BENCHMARK_COMMIT") or machine.commit(),
            "taken": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv[1:],
            "wrong": self.wrong,
            "rows": self.rows,
        }


def _forced(call: Callable[[Any], Any], kernel: str) -> Callable[[Any], Any]:
    import fastconv as fc

    def forced(operands: Any) -> Any:
        with fc.cuda.kernel(kernel):
            return call(operands)

    return forced


def _exactly(prepared: Any, dtype: str) -> Any:
    """What PyTorch computes of the first set in a wider type: float64 for float32 operands, else
    float32, and where it has no room or no function for float64."""
    wider = torch.float32 if dtype in ("bfloat16", "float16") else torch.float64
    torch.backends.cudnn.benchmark = False
    allowed = torch.backends.cudnn.allow_tf32
    _allow_tf32(False)
    try:
        for wide in (wider, torch.float32):
            operands = {
                name: tensor.to(wide) if tensor.is_floating_point() else tensor
                for name, tensor in prepared.sets[0].items()
            }
            try:
                return prepared.theirs(operands)
            except RuntimeError:  # no memory among them
                continue
        raise LookupError("PyTorch has nothing to compare with")
    finally:
        torch.backends.cudnn.benchmark = True
        _allow_tf32(allowed)


def _torch_dtype(name: str) -> Any:
    return torch.float32 if name == "tf32" else getattr(torch, name)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _distance(result: Any, expected: Any) -> float:
    """Relative L2 distance; NaN anywhere is NaN."""
    a, b = result.double(), expected.double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _device_facts() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    wanted = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        answer = ""
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        **dict(zip(wanted.split(","), (v.strip() for v in answer.split(",")), strict=False)),
    }
