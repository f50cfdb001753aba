"""Arithmetic and concatenations between layers, for NumPy's arrays and on a device.

NumPy's own expressions where they will do; arrays on a CUDA device have none and go through kernels
and copies of slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import ops
from fastconv.ops.devices import cuda_core, new, on_device
from fastconv.ops.elementwise import empty_like
from fastconv.ops.families import give, import_any


def add(a: Any, b: Any) -> Any:
    """a + b, arrays of one shape, in a's memory order."""
    if not on_device(a):
        return a + b
    result = empty_like(a)
    cuda_core.add(a, b, result)
    return result


def subtract(a: Any, b: Any) -> Any:
    """a - b, arrays of one shape, in a's memory order."""
    if not on_device(a):
        return a - b
    result = empty_like(a)
    cuda_core.subtract(a, b, result)
    return result


def multiply(a: Any, b: Any) -> Any:
    """a * b element by element, arrays of one shape, in a's memory order."""
    if not on_device(a):
        return a * b
    result = empty_like(a)
    cuda_core.multiply(a, b, result)
    return result


def multiply_into(product: Any, factor: Any) -> None:
    """product *= factor."""
    if not on_device(product):
        product *= factor
        return
    cuda_core.multiply(product, factor, product)


def add_into(total: Any, term: Any) -> None:
    """total += term."""
    if not on_device(total):
        total += term
        return
    term = import_any("accumulate", "grad", term)
    if term.dtype != total.dtype:
        term = term.astype(total.dtype)
    cuda_core.add(total, term, total)


def add_to_each(x: Any, bias: Any) -> Any:
    """x (N, ...) + bias (...)."""
    if not on_device(bias):
        return x + bias
    array = import_any("add_to_each", "x", x)
    spread = empty_like(array)
    spread[...] = bias
    cuda_core.add(array, spread, spread)
    return give(spread, x)


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
    """Arrays (N, C, ...) one after another along the channels."""
    first = import_any("concatenate", "parts", parts[0])
    if not on_device(first):
        return np.concatenate(parts, axis=1)
    channels = sum(part.shape[1] for part in parts)
    if ops.is_channels_last(first) if first.ndim == 4 else False:
        n, _, h, w = first.shape
        result: Any = new((n, h, w, channels), first.dtype, first).transpose(0, 3, 1, 2)
    else:
        result = new((first.shape[0], channels, *first.shape[2:]), first.dtype, first)
    begin = 0
    for part in parts:
        array = import_any("concatenate", "parts", part)
        result[:, begin : begin + array.shape[1]] = array
        begin += array.shape[1]
    return give(result, parts[0])
