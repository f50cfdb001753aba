"""What functions of one array shape share: taking operands, allocating the result, `out=`."""

from __future__ import annotations

from typing import Any

from .arrays import Array, check_shape, empty, take_like, take_out
from .devices import new


def empty_like(x: Array) -> Array:
    """A result of x's shape: channels last if x is an image or a batch of images in that order,
    else C order."""
    if x.ndim == 4 and not x.flags.c_contiguous:
        return empty(x.shape, x.dtype, x)
    if x.ndim == 3 and not x.flags.c_contiguous:
        return empty((1, *x.shape), x.dtype, x[None])[0]
    return new(x.shape, x.dtype, x)


def result_for(function: str, like: Array, out: Any, **inputs: Array | None) -> Array:
    """Where the result goes: `out`, checked against `inputs`, or a new array like `like`."""
    if out is None:
        return empty_like(like)
    return take_out(function, out, like.shape, like.dtype, dict(inputs))


def take_pair(
    function: str, name: str, value: Any, first: Array, first_name: str, why: str
) -> Array:
    """`value`, of the dtype and shape of `first`."""
    array = take_like(function, name, value, first, first_name)
    check_shape(function, name, array, first.shape, why)
    return array
