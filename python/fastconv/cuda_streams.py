"""Streams, events and captured graphs: `fc.cuda.Stream`, `Event`, `capture`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from . import _core

_cuda = _core.cuda
_entered = threading.local()  # .stack: what each `with` of this thread returns to


@contextlib.contextmanager
def on_device(index: int | None) -> Iterator[None]:
    """Make a GPU current within a ``with`` block; None changes nothing."""
    if index is None:
        yield
        return
    before = _cuda.current_device()
    _cuda.set_device(index)
    try:
        yield
    finally:
        _cuda.set_device(before)


def _current(device: int | None) -> int:
    return int(_cuda.current_device()) if device is None else device


class Stream:
    """A queue of work on a GPU. ``with fc.cuda.Stream() as stream:`` puts there what this thread
    does with `Array`, after what the stream before has been given so far.

    Parameters
    ----------
    device : int, optional
        The GPU's number; the current one if not given.
    ptr : int, optional
        A cudaStream_t of another library, which keeps it alive; 0 is the default stream.
    """

    def __init__(self, device: int | None = None, *, ptr: int | None = None) -> None:
        self.device = _current(device)
        self._own = ptr is None
        self.ptr: int = _cuda.create_stream(self.device) if ptr is None else ptr

    def __enter__(self) -> Stream:
        before = _cuda.set_current_stream(self.device, self.ptr)
        _entered.__dict__.setdefault("stack", []).append(before)
        self._wait_for(before)
        return self

    def __exit__(self, *error: object) -> None:
        _cuda.set_current_stream(self.device, _entered.stack.pop())

    def __del__(self) -> None:
        if getattr(self, "_own", False) and hasattr(self, "ptr"):
            _cuda.destroy_stream(self.ptr)

    def __repr__(self) -> str:
        return f"<fastconv.cuda.Stream {self.ptr:#x} on device {self.device}>"

    def synchronize(self) -> None:
        """Wait until all work given to the stream is done."""
        _cuda.synchronize_stream(self.ptr)

    def wait(self, other: Stream) -> None:
        """Let what this stream is given later run after what `other` has been given so far."""
        self._wait_for(other.ptr)

    def _wait_for(self, ptr: int) -> None:
        with on_device(self.device):
            _cuda.wait_for(self.ptr, ptr)


class Event:
    """A point in a stream's work, with its time: ``begin.record() ... end.record()``, then
    ``begin.elapsed(end)``."""

    def __init__(self) -> None:
        self._event: int = _cuda.create_event()

    def __del__(self) -> None:
        if hasattr(self, "_event"):
            _cuda.destroy_event(self._event)

    def record(self, stream: Stream | None = None) -> Event:
        """Mark the end of what the stream (the current one if not given) has been given so far."""
        _cuda.record_event(self._event, _cuda.current_stream() if stream is None else stream.ptr)
        return self

    def elapsed(self, end: Event) -> float:
        """Milliseconds from this event to `end`; waits for `end`."""
        return float(_cuda.elapsed_milliseconds(self._event, end._event))


class Graph:
    """What `capture` recorded: launched as one, for a fraction of the calls' time on the host."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._stream: Stream | None = None  # its results' home: nobody else's until it is gone

    def launch(self) -> None:
        """Run it again on the current stream: it reads and writes the same arrays, after what the
        streams that these were made on have been given so far."""
        if self._graph is None:
            raise RuntimeError("Graph.launch: the capture is not finished")
        self._graph.launch()


@contextlib.contextmanager
def capture(device: int | None = None) -> Iterator[Graph]:
    """Record the calls of a ``with`` block, without running them, as a `Graph`.

    Arrays that the block uses are kept by the graph; those it makes hold values after
    `Graph.launch`. Make every kind of call once before, so that kernels are loaded; do not wait
    inside for anything (`asnumpy`, `float`, `synchronize`), and copy from and to no host memory but
    `pinned`, which every launch reads and writes anew. Tensors of other libraries are captured
    by their library, not by this.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> def twice(x):
    ...     with fc.cuda.capture() as graph:
    ...         y = fc.relu(x)
    ...     graph.launch()
    ...     return y
    """
    index = _current(device)
    with on_device(index):
        _cuda.empty([1], "float32")  # the pool must exist before
        with Stream(index) as stream:
            graph = Graph()
            graph._stream = stream
            _cuda.begin_capture(stream.ptr)
            try:
                yield graph
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    _cuda.end_capture(stream.ptr)
                raise
            graph._graph = _cuda.end_capture(stream.ptr)
