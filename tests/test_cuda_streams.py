"""CUDA memory, streams, events, captured graphs, devices."""

from __future__ import annotations

import gc
import threading

import fastconv as fc
import numpy as np
import pytest
from cuda_support import numbers

core = fc._core.cuda


def test_memory_is_counted_and_comes_back() -> None:
    gc.collect()
    before = fc.cuda.memory_stats()
    a = fc.cuda.empty((1 << 20,), "float32")
    during = fc.cuda.memory_stats()
    assert during["used"] - before["used"] >= 4 << 20
    view = a[5:]
    del a
    assert fc.cuda.memory_stats()["used"] == during["used"]
    del view
    after = fc.cuda.memory_stats()
    assert after["used"] == before["used"]
    assert after["used_peak"] >= during["used"]
    fc.cuda.release_memory()


def test_out_of_memory_says_how_much() -> None:
    with pytest.raises(MemoryError, match=r"\d+ MB asked for, \d+ MB of \d+ MB free"):
        fc.cuda.empty((1 << 44,), "float32")
    with pytest.raises(MemoryError):
        fc.cuda.empty((1 << 40, 1 << 40), "float32")
    fc.cuda.zeros(3)  # the error is not sticky


def test_streams_are_of_the_thread() -> None:
    assert core.current_stream() == 0
    seen = []
    with fc.cuda.Stream() as outer:
        assert core.current_stream() == outer.ptr
        with fc.cuda.Stream() as inner, outer:
            assert core.current_stream() == outer.ptr
            assert inner.ptr != outer.ptr
        thread = threading.Thread(target=lambda: seen.append(core.current_stream()))
        thread.start()
        thread.join()
        assert core.current_stream() == outer.ptr
        x = fc.cuda.asarray(numbers((5, 6)))
        outer.synchronize()
    assert seen == [0]
    assert core.current_stream() == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(x.T), numbers((5, 6)).T)
    with fc.cuda.Stream(ptr=outer.ptr) as same:
        same.wait(fc.cuda.Stream())
        x.fill(1)
    np.testing.assert_array_equal(fc.cuda.asnumpy(x), 1)


def test_events_measure_time() -> None:
    begin, end = fc.cuda.Event(), fc.cuda.Event()
    begin.record()
    fc.cuda.zeros((64, 64)).T.copy()
    assert begin.elapsed(end.record()) >= 0


def test_a_captured_graph_runs_again_on_new_values() -> None:
    x = fc.cuda.asarray(numbers((6, 70, 5, 5)))
    temporary = fc.cuda.zeros(8)
    with fc.cuda.capture() as graph:
        half = x.astype("float16")
        y = half.copy("channels_last")
        half[:] = 0
        y[..., 0] = 3
        y[0, 0, 0, :2] = temporary[:2]
        del half, temporary
    for scale in (1, 2):
        x[...] = fc.cuda.asarray(numbers((6, 70, 5, 5)) * scale)
        graph.launch()
        wanted = (numbers((6, 70, 5, 5)) * scale).astype(np.float16)
        wanted[..., 0] = 3
        wanted[0, 0, 0, :2] = 0
        np.testing.assert_array_equal(fc.cuda.asnumpy(y), wanted)
    del x  # the graph keeps it
    gc.collect()
    graph.launch()
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), wanted)


def test_a_capture_refuses_what_its_graph_could_not_repeat() -> None:
    """Without being spoilt by it."""
    x, number = fc.cuda.asarray(numbers((5, 6))), fc.cuda.full(1, 3)
    with fc.cuda.capture() as graph:
        with pytest.raises(RuntimeError, match=r"asarray: .* host memory, .*cuda\.pinned"):
            fc.cuda.asarray(numbers((5, 6)))
        with pytest.raises(RuntimeError, match=r"asnumpy: .* waited for .* Graph\.launch"):
            fc.cuda.asnumpy(x)
        with pytest.raises(RuntimeError, match=r"asnumpy: .* ordinary host memory"):
            fc.cuda.asnumpy(x, np.empty((5, 6), np.float32), wait=False)
        with pytest.raises(RuntimeError, match=r"item: .* Graph\.launch"):
            float(number)
        y = x.copy()
    graph.launch()
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), numbers((5, 6)))


def test_a_capture_copies_pinned_memory_at_every_launch() -> None:
    given, out = fc.cuda.pinned((5, 6)), fc.cuda.pinned((5, 6))
    kept, results = given[:], out[:]
    with fc.cuda.capture() as graph:
        fc.cuda.asnumpy(fc.relu(fc.cuda.asarray(given)), out, wait=False)
    del given, out
    for scale in (1, 2):
        kept[...] = numbers((5, 6)) * scale
        graph.launch()
        fc.cuda.synchronize()
        np.testing.assert_array_equal(results, np.maximum(numbers((5, 6)) * scale, 0))
    del kept, results  # the graph has them
    gc.collect()
    graph.launch()
    fc.cuda.synchronize()


def test_captures_that_fail_leave_the_thread_as_it_was() -> None:
    with pytest.raises(TypeError, match="asarray"), fc.cuda.capture() as graph:
        fc.cuda.zeros(3)[...] = "x"
    with pytest.raises(RuntimeError, match="not finished"):
        graph.launch()
    with fc.cuda.capture(), pytest.raises(RuntimeError, match="already"), fc.cuda.capture():
        pass
    assert core.current_stream() == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(fc.cuda.full(3, 2)), 2)


def test_devices() -> None:
    assert fc.cuda.device_count() >= 1
    info = fc.cuda.device_info()
    assert info["index"] == fc.cuda.current_device()
    assert info["compute_capability"] >= (7, 5)
    with pytest.raises(ValueError, match=r"no GPU 99: this machine has \d+"):
        fc.cuda.set_device(99)


def test_a_second_gpu() -> None:
    if fc.cuda.device_count() < 2:
        pytest.skip("one GPU")
    x = fc.cuda.asarray(numbers((3, 4, 2)), device=1)
    assert (x.device, fc.cuda.current_device()) == (1, 0)
    y = fc.cuda.asarray(x.T, device=0)
    assert y.device == 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), numbers((3, 4, 2)).T)
    with pytest.raises(ValueError, match="different devices"):
        x[...] = y.T
