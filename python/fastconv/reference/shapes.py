"""The shapes of results, by counting windows (see `windows`).

Along an axis the count is what the formula floor((size + padding - extent) / stride) + 1 gives:
the (N - F) / S + 1 of the lecture, with padding and dilation.
"""

from __future__ import annotations

from collections.abc import Sequence

from .conv import conv_axes
from .max_pool import pool_axes
from .windows import Padding, Pair, pair


def conv2d_output_shape(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> tuple[int, int, int, int]:
    """(N, K, P, Q) of `conv2d` over (N, C, H, W) with a kernel (K, C // groups, R, S).

    Examples
    --------
    >>> conv2d_output_shape((1, 3, 227, 227), (96, 3, 11, 11), stride=4)
    (1, 96, 55, 55)
    """
    rows, cols = conv_axes(input_shape, weight_shape, stride, padding, dilation)
    return int(input_shape[0]), int(weight_shape[0]), rows.count, cols.count


def pool2d_output_shape(
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[int, int, int, int]:
    """(N, C, P, Q) of `max_pool2d` and `avg_pool2d` over (N, C, H, W).

    Examples
    --------
    >>> pool2d_output_shape((1, 96, 55, 55), 3, stride=2)
    (1, 96, 27, 27)
    """
    kernel = pair(kernel_size, "kernel_size")
    rows, cols = pool_axes(input_shape, kernel, stride, padding, dilation, ceil_mode)
    return int(input_shape[0]), int(input_shape[1]), rows.count, cols.count
