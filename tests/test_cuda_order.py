"""Which work on CUDA waits for which: between streams, around captured graphs, and before memory
goes back to the pool. Only the emulation knows (tests/emulation/order.h)."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from typing import Any

import fastconv as fc
import pytest

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
