"""Which CUDA kernel computes a convolution, chosen by name: for tests, benchmarks and the curious.

`fc.cuda.kernels(fc.conv2d)` lists the names of a direction and `with fc.cuda.kernel(name):` forces
one; without it the plan's cost model picks (`fc.explain` says which and why).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .ops.devices import cuda_core

_DIRECTIONS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")
_forced: ContextVar[str] = ContextVar("cuda_kernel", default="")


def kernels(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names that `kernel` takes for `function`, best first; they are known without a GPU.

    Parameters
    ----------
    function : conv2d, conv2d_grad_input or conv2d_grad_weight

    Raises
    ------
    ValueError
        If it is another function.
    RuntimeError
        In a build without CUDA.
    """
    name = getattr(function, "__name__", repr(function))
    if name not in _DIRECTIONS:
        raise ValueError(
            f"kernels: {name} has no choice of kernels; these have: {', '.join(_DIRECTIONS)}"
        )
    return tuple(cuda_core.conv_kernels(_DIRECTIONS.index(name)))


@contextmanager
def kernel(name: str) -> Iterator[None]:
    """Force a convolution kernel by name inside a ``with`` block, for this thread and context only.

    A call whose direction has no such kernel, or whose problem it cannot do, raises a ValueError
    with the reason.

    Parameters
    ----------
    name : str
        One of `kernels(function)`; "" leaves the choice to the plan again.

    Raises
    ------
    ValueError
        If no direction has a kernel of that name.
    """
    known = {one for direction in range(3) for one in cuda_core.conv_kernels(direction)}
    if name and name not in known:
        raise ValueError(f"kernel: {name!r} is none of {', '.join(sorted(known))}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_kernel() -> str:
    """The name that `kernel` forces here, or ""."""
    return _forced.get()
