"""Convolution and pooling over sequences (N, C, L): the two-dimensional functions with H = 1.

Formulas: those of `conv`, `max_pool` and `avg_pool`, with R = 1. `padding` is an int,
((left, right),), (left, right), "valid" or "same"; the other numbers are ints. One sequence is
(C, L). Kernels are (K, C // groups, S); max pooling's indices count along L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from .avg_pool import avg_pool2d
from .conv import conv2d
from .max_pool import max_pool2d
from .windows import Array, no_warnings, pair

Padding1d: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]


@no_warnings
def conv1d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int = 1,
    padding: Padding1d = 0,
    dilation: int = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Array | None = None,
) -> Array:
    """`conv2d` over sequences: x (N, C, L), weight (K, C // groups, S) -> (N, K, Q).

    Examples
    --------
    >>> import numpy as np
    >>> conv1d(np.array([[1.0, 2.0, 4.0]]), np.array([[[-1.0, 1.0]]]))
    array([[1., 2.]])
    """
    y = conv2d(
        with_height(x),
        np.asarray(weight)[:, :, None, :],
        bias,
        stride=(1, stride),
        padding=beside(padding),
        dilation=(1, dilation),
        groups=groups,
        activation=activation,
        residual=None if residual is None else with_height(residual),
    )
    return without_height(y)


@no_warnings
def max_pool1d(
    x: Array,
    kernel_size: int,
    *,
    stride: int | None = None,
    padding: Padding1d = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """`max_pool2d` over sequences: x (N, C, L) -> (N, C, Q).

    Examples
    --------
    >>> import numpy as np
    >>> max_pool1d(np.array([[1.0, 2.0, 4.0, 3.0]]), 2)
    array([[2., 4.]])
    """
    found = max_pool2d(
        with_height(x),
        (1, kernel_size),
        stride=(1, kernel_size if stride is None else stride),
        padding=beside(padding),
        dilation=(1, dilation),
        ceil_mode=ceil_mode,
        return_indices=return_indices,
    )
    if isinstance(found, tuple):
        return without_height(found[0]), without_height(found[1])
    return without_height(found)


@no_warnings
def avg_pool1d(
    x: Array,
    kernel_size: int,
    *,
    stride: int | None = None,
    padding: Padding1d = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """`avg_pool2d` over sequences: x (N, C, L) -> (N, C, Q).

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool1d(np.array([[1.0, 2.0, 4.0, 3.0]]), 2)
    array([[1.5, 3.5]])
    """
    y = avg_pool2d(
        with_height(x),
        (1, kernel_size),
        stride=(1, kernel_size if stride is None else stride),
        padding=beside(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor_override,
    )
    return without_height(y)


def with_height(x: Array) -> Array:
    """(N, C, L) -> (N, C, 1, L), (C, L) -> (C, 1, L)."""
    x = np.asarray(x)
    if x.ndim not in (2, 3):
        raise ValueError(f"x has shape {x.shape}: wanted (N, C, L) or (C, L)")
    return x[..., None, :]


def without_height(y: Array) -> Array:
    """(N, C, 1, L) -> (N, C, L), (C, 1, L) -> (C, L)."""
    return y[..., 0, :]


def beside(padding: Padding1d) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """Padding along L as padding along W, none along H."""
    if isinstance(padding, str):
        return padding
    both = padding
    if not isinstance(both, (int, np.integer)) and len(both) == 1:
        both = both[0]  # ((left, right),) or (both,)
    return (0, 0), pair(both, "padding", 0)  # type: ignore[arg-type]
