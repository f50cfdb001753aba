"""Arithmetic and concatenations between layers, for NumPy's arrays and on a device.

Arrays of the kernels' dtypes go through kernels, which use all threads, on either device; others
through NumPy's own expressions, of which arrays on a CUDA device have none.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastconv import ops
from fastconv.ops.arrays import take, take_like
from fastconv.ops.devices import FLOAT32, FLOAT64, cuda_core, kernels_for, new, on_device
from fastconv.ops.elementwise import empty_like
from fastconv.ops.families import give, import_any


def add(a: Any, b: Any) -> Any:
    """a + b, arrays of one shape, in a's memory order."""
    return _combined("add", a, b, operator.add)


def add_relu(a: Any, b: Any) -> Any:
    """max(a + b, 0), arrays of one shape, in a's memory order."""
    return _combined("add_relu", a, b, lambda x, y: ops.relu(x + y))


def subtract(a: Any, b: Any) -> Any:
    """a - b, arrays of one shape, in a's memory order."""
    return _combined("subtract", a, b, operator.sub)


def multiply(a: Any, b: Any) -> Any:
    """a * b element by element, arrays of one shape, in a's memory order."""
    return _combined("multiply", a, b, operator.mul)


def multiply_into(product: Any, factor: Any) -> None:
    """product *= factor."""
    if not _has_kernels(product, factor):
        product *= factor
        return
    kernels_for(product).multiply(product, factor, product)


def has_cpu_kernels(a: Any, b: Any) -> bool:
    """Whether a kernel on the CPU takes both: NumPy's arrays of one shape and dtype."""
    return not on_device(a) and _has_kernels(a, b)


def _has_kernels(a: Any, b: Any) -> bool:
    if on_device(a):
        return True
    return (
        type(a) is type(b) is np.ndarray
        and a.dtype == b.dtype
        and a.dtype in (FLOAT32, FLOAT64)
        and a.shape == b.shape
        and a.flags.aligned
        and b.flags.aligned
    )


def _combined(kernel: str, a: Any, b: Any, plain: Callable[[Any, Any], Any]) -> Any:
    """By the kernel of that name, on arrays of any family, else by ``plain``."""
    x, y = import_any(kernel, "a", a), import_any(kernel, "b", b)
    if not _has_kernels(x, y):
        return plain(a, b)
    result = empty_like(x)
    getattr(kernels_for(x), kernel)(x, y, result)
    return give(result, a)


def add_into(total: Any, term: Any) -> None:
    """total += term."""
    if not on_device(total):
        if _has_kernels(total, term):
            kernels_for(total).add(total, term, total)
        else:
            total += term
        return
    term = import_any("accumulate", "grad", term)
    if term.dtype != total.dtype:
        term = term.astype(total.dtype)
    cuda_core.add(total, term, total)


def add_to_each(x: Any, bias: Any) -> Any:
    """x (N, ...) + bias (...), in x's memory order."""
    array = take("add_to_each", "x", x)
    bias = take_like("add_to_each", "bias", bias, array, "x")
    result = empty_like(array)
    if not on_device(array):
        return give(np.add(array, bias, out=result), x)
    result[...] = bias
    cuda_core.add(array, result, result)
    return give(result, x)


def sum_over_batch(grad: Any) -> Any:
    """(N, ...) -> (...)."""
    if isinstance(grad, np.ndarray):
        return grad.sum(axis=0)
    # A matrix (N, K) is one image of K channels, N high and 1 wide.
    array = import_any("sum_over_batch", "grad", grad)
    rows = array.reshape(array.shape[0], math.prod(array.shape[1:]))
    sums = ops.conv2d_grad_bias(rows.T[None, :, :, None])
    return give(sums.reshape(*array.shape[1:]), grad)


def concatenate(parts: Sequence[Any]) -> Any:
    """Arrays (N, C, ...), or (C, H, W) or (C,) of one image, one after another along C."""
    arrays = [import_any("concatenate", "parts", part) for part in parts]
    first = arrays[0]
    if not on_device(first):
        return give(np.concatenate(arrays, axis=channel_axis(first.shape)), parts[0])
    if channel_axis(first.shape) == 0:
        return give(concatenate([array[None] for array in arrays])[0], parts[0])
    channels = sum(array.shape[1] for array in arrays)
    if ops.is_channels_last(first) if first.ndim == 4 else False:
        n, _, h, w = first.shape
        result: Any = new((n, h, w, channels), first.dtype, first).transpose(0, 3, 1, 2)
    else:
        result = new((first.shape[0], channels, *first.shape[2:]), first.dtype, first)
    begin = 0
    for array in arrays:
        result[:, begin : begin + array.shape[1]] = array
        begin += array.shape[1]
    return give(result, parts[0])


def channel_axis(shape: Sequence[int]) -> int:
    """Where C stands: before it is N, but not in one image (C, H, W) nor one vector (C,)."""
    return 0 if len(shape) in (1, 3) else 1
