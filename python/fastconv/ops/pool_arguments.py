"""What the pooling functions share: their windows, indices, gradients' shapes, and the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .arguments import take_flag
from .arrays import (
    Array,
    check_device,
    check_shape,
    empty,
    take_int64,
    take_like,
    take_out,
)
from .devices import cuda_core, new
from .geometry import Padding, Pair, are_keys, pair, window_geometry

MAX, AVERAGE, MAX_BACKWARD, AVERAGE_BACKWARD = range(4)  # csrc/core/pool_plan.h, PoolOperation


class Windows(NamedTuple):
    """Where pooling windows stand."""

    output: tuple[int, int, int, int]  # (N, C, P, Q)
    numbers: tuple[int, ...]  # kernel, stride, dilation, padding before and after; height, width


def windows_over(
    function: str,
    shape: Sequence[int],
    kernel_size: Pair,
    stride: Pair | None,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool,
) -> Windows:
    """The windows over images of `shape`, checked, and remembered."""
    known = type(ceil_mode) is bool and are_keys(kernel_size, stride, padding, dilation)
    find = _known_windows if known else _windows
    return find(function, shape, kernel_size, stride, padding, dilation, ceil_mode)


def _windows(
    function: str,
    shape: Sequence[int],
    kernel_size: Pair,
    stride: Pair | None,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool,
) -> Windows:
    ceil_mode = take_flag(function, "ceil_mode", ceil_mode)
    n, c, h, w = shape
    kernel = pair(function, "kernel_size", kernel_size, 1)
    strides = kernel if stride is None else stride
    geometry = window_geometry(function, (h, w), kernel, strides, padding, dilation, ceil_mode)
    numbers: list[int] = []
    for a, axis in enumerate(("height", "width")):
        low, high = geometry.padding[2 * a : 2 * a + 2]
        extent = (kernel[a] - 1) * geometry.dilation[a] + 1
        if max(low, high) >= extent:
            raise ValueError(
                f"{function}: padding is {padding!r}, {max(low, high)} along the {axis}; wanted "
                f"less than the window's extent ({kernel[a]} - 1) * {geometry.dilation[a]} + 1 = "
                f"{extent}: a window wholly in padding has nothing to pool"
            )
        numbers += (kernel[a], geometry.stride[a], geometry.dilation[a], low, high)
    return Windows((n, c, *geometry.output), tuple(numbers))


_known_windows = lru_cache(maxsize=1024)(_windows)


def adaptive_size(
    function: str, output_size: int | Sequence[int | None] | None, size: tuple[int, int]
) -> tuple[int, int]:
    """(P, Q) from an int, (height, width) or None, which stands for the input's own size."""
    both = output_size
    if both is None or hasattr(both, "__index__"):
        both = (both, both)  # type: ignore[assignment]
    try:
        height, width = (
            s if v is None else int(v.__index__())
            for v, s in zip(both, size, strict=True)  # type: ignore[arg-type]
        )
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"{function}: output_size is {output_size!r}; wanted an int or (height, width), each "
            f"an int or None for the input's own size"
        ) from None
    if min(height, width) < 1 or min(size) < 1:
        raise ValueError(
            f"{function}: output_size is {output_size!r} over images {size[0]} x {size[1]}; wanted "
            f"at least 1 of both"
        )
    return height, width


def take_indices(
    function: str, value: Any, shape: Sequence[int], like: str, single: bool, beside: Array
) -> Array:
    """`value` as int64 indices (N, C, P, Q) of `shape`, on the device of `beside`."""
    indices = take_int64(function, "indices", value)
    if type(indices) is not np.ndarray or type(beside) is not np.ndarray:
        check_device(function, "indices", indices, like, beside)
    wanted = tuple(shape[1:] if single else shape)
    if indices.shape != wanted:
        check_shape(function, "indices", indices, wanted, f"{like}'s shape")
    return indices[None] if single else indices


def new_indices(function: str, shape: Sequence[int], images: Array) -> Array:
    """Where maximum pooling of `images` puts its indices."""
    height, width = images.shape[2:]
    if height * width >= 2**31 and images.dtype == np.float32 and type(images) is np.ndarray:
        raise ValueError(
            f"{function}: return_indices over images of {height} x {width} = {height * width} "
            f"elements; float32 kernels count to 2**31 - 1: use float64, or cut the images"
        )
    return empty(shape, np.int64, images)


def check_gradient(
    function: str, grads: Array, input_shape: Sequence[int], wanted: tuple[int, ...]
) -> None:
    """grad_output against `wanted`, the shape that pooling `input_shape` gives."""
    if grads.shape != wanted:
        why = f"the output for input_shape {input_shape}"
        check_shape(function, "grad_output", grads, wanted, why)


def gradient_result(
    function: str,
    shape: Sequence[int],
    grads: Array,
    single: bool,
    out: Any,
    inputs: Mapping[str, Array],
) -> Array:
    """grad_input (N, C, H, W): `out` checked, or a new array in the order of grad_output."""
    if out is not None:
        given = take_like(function, "out", out, grads, "grad_output")
        wanted = shape[1:] if single else shape
        checked = take_out(function, given, wanted, grads.dtype, inputs)
        return checked[None] if single else checked
    if grads.shape[2:] == (1, 1):
        # Both orders are the same memory then, but NumPy keeps the strides of lengths of 1, and
        # what pooling of channels-last images returned says so by them.
        _, channel, _, col = grads.strides
        if abs(channel) < abs(col):
            n, c, h, w = shape
            return new((n, h, w, c), grads.dtype, grads).transpose(0, 3, 1, 2)
    return empty(shape, grads.dtype, grads)


def pool(
    operation: int,
    x: Array,
    y: Array,
    indices: Array | None,
    numbers: tuple[int, ...],
    count_include_pad: bool = True,
    divisor: int = 0,
) -> None:
    """One call into _core; `numbers` is empty for adaptive windows."""
    kernels = _core if type(x) is np.ndarray else cuda_core
    kernels.pool2d(operation, x, y, indices, numbers, count_include_pad, divisor)
