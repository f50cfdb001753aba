"""Which work on CUDA waits for which: between streams, around captured graphs, and before memory
goes back to the pool. Only the emulation knows (tests/emulation/order.h)."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from cuda_support import numbers

core = fc._core.cuda

After = Callable[[Any, Any], bool]


@pytest.fixture(scope="module")
def after() -> Iterator[After]:
    """Whether what `later` is given from here on comes after all that `earlier` has been given."""
    library = ctypes.CDLL(fc._core.__file__)
    if not hasattr(library, "emulation_comes_after"):
        pytest.skip("not the emulation")
    ask = library.emulation_comes_after
    ask.argtypes, ask.restype = [ctypes.c_void_p, ctypes.c_void_p], ctypes.c_bool
    yield lambda later, earlier: ask(later.ptr, earlier.ptr)
    fc.cuda.synchronize()


def work(stream: fc.cuda.Stream) -> None:
    """Gives the stream something to do."""
    with stream:
        fc.cuda.zeros(3)


def elsewhere(function: Callable[[], Any]) -> None:
    """In another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_call_waits_for_its_operands_home(after: After) -> None:
    home, other = fc.cuda.Stream(), fc.cuda.Stream()
    with home:
        x = fc.cuda.zeros(3)
    assert not after(other, home)
    with other:
        x.copy()
    assert after(other, home)
    work(other)
    assert not after(home, other)
    del x
    assert after(home, other)
    other.wait(home)
    work(home)
    assert not after(other, home)
    home.synchronize()
    assert after(other, home)


# ---- graphs -------------------------------------------------------------------------------------


def test_a_launch_waits_for_the_arrays_that_the_graph_uses(after: After) -> None:
    home, launching = fc.cuda.Stream(), fc.cuda.Stream()
    with home:
        x = fc.cuda.zeros(3)
    with fc.cuda.capture() as graph:
        y = fc.relu(x)
    with home:
        x.fill(3)
    with launching:
        graph.launch()
    assert after(launching, home)
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), 3)
    work(launching)
    del x, y, graph
    assert after(home, launching)


def test_results_of_a_graph_come_after_its_launch(after: After) -> None:
    x = fc.cuda.zeros(3)
    with fc.cuda.capture() as graph:
        capturing = fc.cuda.Stream(ptr=core.current_stream())
        y, z = fc.relu(x), x.copy()
    for _ in range(2):
        launching, reading = fc.cuda.Stream(), fc.cuda.Stream()
        with launching:
            graph.launch()
        with reading:
            y.copy()
        assert after(reading, launching)
        assert after(capturing, launching)
    del z  # on the stream that captured it
    used = {fc.cuda.Stream().ptr for _ in range(50)}
    assert capturing.ptr not in used  # nobody else's as long as the graph is there
    graph.launch()


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"max_version": (1, 0)}, {"copy": True}])
def test_exported_memory_goes_back_after_its_consumers_work(
    options: dict[str, Any], after: After
) -> None:
    home, consumer = fc.cuda.Stream(), fc.cuda.Stream()
    with home:
        x = fc.cuda.zeros(3)
        capsule = x.__dlpack__(stream=consumer.ptr, **options)
        del x
    assert after(consumer, home)
    work(consumer)
    assert not after(home, consumer)
    del capsule
    gc.collect()
    assert after(home, consumer)


def test_memory_that_waited_for_a_capture_waits_for_its_other_users_too(after: After) -> None:
    home, other = fc.cuda.Stream(), fc.cuda.Stream()
    with home:
        x = fc.cuda.zeros(3)
    with other:
        x.copy()
    core.begin_capture(home.ptr)
    work(other)
    del x
    core.end_capture(home.ptr)
    assert after(home, other)


def test_memory_waits_for_a_capture_on_any_stream_that_used_it(after: After) -> None:
    home, other = fc.cuda.Stream(), fc.cuda.Stream()
    with home:
        x = fc.cuda.zeros(1 << 20)
    with other:
        x.copy()
    used = fc.cuda.memory_stats()["used"]
    core.begin_capture(other.ptr)
    del x
    assert fc.cuda.memory_stats()["used"] == used
    core.end_capture(other.ptr)
    assert fc.cuda.memory_stats()["used"] <= used - (4 << 20)
    assert after(home, other)


def test_memory_waits_for_the_captures_of_other_threads() -> None:
    stream = fc.cuda.Stream()
    with stream:
        x = fc.cuda.zeros(3)
    core.begin_capture(stream.ptr)
    del x

    def capture_another() -> None:
        with fc.cuda.capture():
            fc.cuda.zeros(3)

    elsewhere(capture_another)
    core.end_capture(stream.ptr)  # was not spoilt


@pytest.mark.parametrize("ask", ["memory", "release"])
def test_memory_of_a_spoilt_capture_comes_back(ask: str) -> None:
    stream = fc.cuda.Stream()
    with stream:
        x = fc.cuda.zeros(1 << 20)
    used = fc.cuda.memory_stats()["used"]
    core.begin_capture(stream.ptr)
    del x
    with pytest.raises(RuntimeError):
        stream.synchronize()
    with pytest.raises(RuntimeError):
        core.end_capture(stream.ptr)
    if ask == "memory":
        fc.cuda.empty(3)
    else:
        fc.cuda.release_memory()
    assert fc.cuda.memory_stats()["used"] <= used - (4 << 20)


def test_out_of_memory_while_another_thread_captures() -> None:
    x = fc.cuda.asarray(numbers((5, 6)))
    with fc.cuda.capture() as graph:
        y = x.copy()
        with pytest.raises(MemoryError, match="asked for"):
            elsewhere(lambda: fc.cuda.empty((1 << 44,)))
    graph.launch()
    np.testing.assert_array_equal(fc.cuda.asnumpy(y), numbers((5, 6)))


# ---- other libraries ----------------------------------------------------------------------------


class On:
    """An array on a stream of another library."""

    def __init__(self, array: Any, stream: fc.cuda.Stream) -> None:
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | {"stream": stream.ptr}


def test_a_call_waits_for_the_streams_of_all_its_operands(after: After) -> None:
    streams = [fc.cuda.Stream() for _ in range(3)]
    shapes = (1, 2, 4, 4), (3, 2, 1, 1), (1, 3, 4, 4)
    operands = [On(fc.cuda.zeros(shape), stream) for shape, stream in zip(shapes, streams)]
    x, weight, residual = map(fc.cuda.asarray, operands)
    for stream in streams:
        work(stream)
    fc.conv2d(x, weight, residual=residual)
    assert after(streams[0], streams[1])
    assert after(streams[0], streams[2])
    assert not after(streams[1], streams[0])
