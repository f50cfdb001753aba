"""Max and average pooling over sequences (N, C, L): the two-dimensional functions with H = 1."""

from __future__ import annotations

from typing import Any

from .arguments import take_integer
from .arrays import give, take
from .one_dimension import beside, named
from .pool import avg_pool2d, max_pool2d


def max_pool1d(
    x: Any,
    kernel_size: int,
    *,
    stride: int | None = None,
    padding: Any = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """`max_pool2d` over sequences: x (N, C, L) or (C, L), images of height 1.

    Parameters
    ----------
    x : array (N, C, L) or (C, L)
    padding : int, (left, right), "valid" or "same"
    kernel_size, stride, dilation, ceil_mode, return_indices
        As `max_pool2d`'s, in one dimension; indices count along L.

    Returns
    -------
    array (N, C, Q) or (C, Q), and indices with return_indices

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.max_pool1d(np.array([[1.0, 2.0, 4.0, 3.0]]), 2)
    array([[2., 4.]])
    """
    name = "max_pool1d"
    with named(name, "max_pool2d", padding):
        found = max_pool2d(
            _with_height(name, x), _along(name, "kernel_size", kernel_size),
            stride=None if stride is None else _along(name, "stride", stride),
            padding=beside(name, padding), dilation=_along(name, "dilation", dilation),
            ceil_mode=ceil_mode, return_indices=return_indices,
        )  # fmt: skip
    if isinstance(found, tuple):
        return give(found[0][..., 0, :], x), give(found[1][..., 0, :], x)
    return give(found[..., 0, :], x)


def avg_pool1d(
    x: Any,
    kernel_size: int,
    *,
    stride: int | None = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """`avg_pool2d` over sequences: x (N, C, L) or (C, L), images of height 1.

    Parameters
    ----------
    x : array (N, C, L) or (C, L)
    padding : int, (left, right), "valid" or "same"
    kernel_size, stride, ceil_mode, count_include_pad, divisor_override
        As `avg_pool2d`'s, in one dimension.

    Returns
    -------
    array (N, C, Q) or (C, Q)

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool1d(np.array([[1.0, 2.0, 4.0, 3.0]]), 2)
    array([[1.5, 3.5]])
    """
    name = "avg_pool1d"
    with named(name, "avg_pool2d", padding):
        y = avg_pool2d(
            _with_height(name, x), _along(name, "kernel_size", kernel_size),
            stride=None if stride is None else _along(name, "stride", stride),
            padding=beside(name, padding), ceil_mode=ceil_mode,
            count_include_pad=count_include_pad, divisor_override=divisor_override,
        )  # fmt: skip
    return give(y[..., 0, :], x)


def _along(function: str, name: str, value: Any) -> tuple[int, int]:
    return (1, take_integer(function, name, value, 1))


def _with_height(function: str, x: Any) -> Any:
    array = take(function, "x", x)
    if array.ndim not in (2, 3):
        raise ValueError(f"{function}: x has shape {array.shape}; wanted (N, C, L) or (C, L)")
    return array[..., None, :]
