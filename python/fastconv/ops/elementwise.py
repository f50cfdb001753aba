"""What functions of one array shape share: taking operands, allocating the result, `out=`, the call
of the kernel, which has the function's name."""

from __future__ import annotations

from typing import Any

from .arrays import Array, check_shape, empty, give, take_like, take_out
from .devices import kernels_for, new


def empty_like(x: Array, *, function: str = "") -> Array:
    """A result of x's shape: channels last if x is an image or a batch of images in that order,
    else C order."""
    if x.ndim == 4 and not x.flags.c_contiguous:
        return empty(x.shape, x.dtype, x, function=function)
    if x.ndim == 3 and not x.flags.c_contiguous:
        return empty((1, *x.shape), x.dtype, x[None], function=function)[0]
    return new(x.shape, x.dtype, x, function=function)


def result_for(function: str, like: Array, out: Any, **inputs: Array | None) -> Array:
    """Where the result goes: `out`, checked against `inputs`, or a new array like `like`."""
    if out is None:
        return empty_like(like, function=function)
    return take_out(function, out, like.shape, like.dtype, dict(inputs))


def take_pair(
    function: str, name: str, value: Any, first: Array, first_name: str, why: str
) -> Array:
    """`value`, of the dtype and shape of `first`."""
    array = take_like(function, name, value, first, first_name)
    check_shape(function, name, array, first.shape, why)
    return array


def apply(function: str, x: Any, array: Array, out: Any, *parameters: Any) -> Any:
    """The kernel `function` over `array`, which is the caller's `x` taken."""
    result = result_for(function, array, out, x=array)
    getattr(kernels_for(array), function)(array, result, *parameters)
    return give(result, x) if out is None else out


def apply_backward(
    function: str, grad_output: Any, grads: Array, output: Any, out: Any, *parameters: Any
) -> Any:
    """The kernel `function` over `grads`, which is the caller's `grad_output` taken, and the stored
    `output` of the forward function."""
    stored = take_pair(function, "output", output, grads, "grad_output", "grad_output's shape")
    result = result_for(function, grads, out, grad_output=grads, output=stored)
    getattr(kernels_for(grads), function)(grads, stored, result, *parameters)
    return give(result, grad_output) if out is None else out
