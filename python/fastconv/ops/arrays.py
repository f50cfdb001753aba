"""Operands and results: dtypes, memory order, `out=`. Nothing is copied and nothing is cast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .devices import (
    FLOAT32,
    FLOAT64,
    INT64,
    DeviceArray,
    address,
    contiguous,
    cuda_core,
    dtypes_with_kernels,
    has_kernels,
    no_memory,
    refuse_devices,
    same_device,
    same_kind,
    span,
)
from .devices import Array as Array
from .families import give as give
from .families import import_any, no_kernels


def take(function: str, name: str, value: Any) -> Array:
    """`value` as a NumPy or device array, of a floating dtype with kernels, that shares its memory.

    Raises
    ------
    TypeError
        If it is no array, requires grad (PyTorch) or has another dtype.
    """
    array = value if type(value) is np.ndarray else import_any(function, name, value)
    dtype = array.dtype
    if dtype is not FLOAT32 and dtype is not FLOAT64 and not has_kernels(array):
        raise TypeError(no_kernels(function, name, dtype, value, dtypes_with_kernels(array)))
    if type(array) is not np.ndarray or array.flags.aligned:  # device arrays always are
        return array
    return _refuse_unaligned(function, name, array)


def take_like(function: str, name: str, value: Any, first: Array, first_name: str) -> Array:
    """As `take`, and of the same device and dtype as `first`."""
    if type(first) is np.ndarray:
        if type(value) is np.ndarray and value.dtype is first.dtype and value.flags.aligned:
            return value
        array = take(function, name, value)
    else:
        array = value if type(value) is DeviceArray else take(function, name, value)
        if type(array) is DeviceArray and same_kind(array, first):
            return array
        array = take(function, name, array)
    check_device(function, name, array, first_name, first)
    if array.dtype != first.dtype:
        raise TypeError(
            f"{function}: {name} has dtype {array.dtype}, but {first_name} has {first.dtype}; "
            f"all arrays of a call share one dtype (convert one with .astype)"
        )
    return array


def check_device(function: str, name: str, array: Array, first_name: str, first: Array) -> None:
    if not same_device(array, first):
        refuse_devices(function, name, array, first_name, first)


def take_int64(function: str, name: str, value: Any) -> Array:
    """`value`, an array of indices, as an array of int64 that shares its memory."""
    array = value if type(value) is np.ndarray else import_any(function, name, value)
    if array.dtype is not INT64 and array.dtype != INT64:
        raise TypeError(
            f"{function}: {name} has dtype {array.dtype}, wanted int64; "
            f"convert it with {name}.astype(numpy.int64)"
        )
    return array if array.flags.aligned else _refuse_unaligned(function, name, array)


def _refuse_unaligned(function: str, name: str, array: Array) -> Array:
    raise ValueError(
        f"{function}: {name} has an address or strides {array.strides} that split its elements of "
        f"{array.itemsize} bytes (a field of a structured array, or an odd offset into a buffer?); "
        f"pass {name}.copy()"
    )


# ---- memory order --------------------------------------------------------------------------------


def prefers_channels_last(x: Array) -> bool | None:
    """Whether channels of (N, C, H, W) vary fastest; None if the shape leaves that open."""
    _, channels, height, width = x.shape
    if channels == 1 or height * width == 1:
        return None
    _, channel, row, col = x.strides
    return abs(channel) < abs(col if width > 1 else row)


def empty(
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    x: Array,
    weight: Array | None = None,
    *,
    function: str = "",
) -> Array:
    """An (N, C, H, W) result for a call on `x`: channels last if x is, where x is both the order of
    `weight`, else C order."""
    if type(x) is DeviceArray:
        return cuda_core.empty_images(shape, dtype, x, weight)
    try:
        return _core.empty_images(shape, dtype, x, weight)
    except (MemoryError, ValueError):  # ValueError: more than 64 bits can address
        raise no_memory(function, shape) from None


def empty_like_order(shape: Sequence[int], model: Array, *, function: str = "") -> Array:
    """An array of `shape` in the memory order of `model`, for gradients of `model`."""
    return empty(shape, model.dtype, model, function=function)


def channels_last(x: Any) -> Any:
    """`x` (N, C, H, W) or (C, H, W) with channels varying fastest in memory: the kernels' native
    order. The shape stays; x itself is returned if it is so already.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.channels_last(np.zeros((2, 3, 4, 5))).strides
    (480, 8, 120, 24)
    """
    array = x if isinstance(x, np.ndarray) else import_any("channels_last", "x", x)
    if array.ndim not in (3, 4):
        raise ValueError(
            f"channels_last: x has shape {array.shape}; wanted (N, C, H, W) or (C, H, W)"
        )
    if is_channels_last(array):
        return x
    if array.ndim == 3:
        return give(contiguous(array.transpose(1, 2, 0)).transpose(2, 0, 1), x)
    return give(contiguous(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), x)


def is_channels_last(x: Any) -> bool:
    """Whether `x` (N, C, H, W) or (C, H, W) lies in memory without gaps, channels fastest."""
    array = x if isinstance(x, np.ndarray) else import_any("is_channels_last", "x", x)
    if array.ndim == 3:
        return bool(array.transpose(1, 2, 0).flags.c_contiguous)
    if array.ndim != 4:
        raise ValueError(
            f"is_channels_last: x has shape {array.shape}; wanted (N, C, H, W) or (C, H, W)"
        )
    return bool(array.transpose(0, 2, 3, 1).flags.c_contiguous)


# ---- images --------------------------------------------------------------------------------------


def take_images(function: str, name: str, value: Any) -> tuple[Array, bool]:
    """`value` as `take` has it, as (N, C, H, W), and whether it was one image (C, H, W)."""
    if type(value) is np.ndarray and value.ndim == 4:  # what follows, in one look: 0.2 us less
        dtype = value.dtype
        if (dtype is FLOAT32 or dtype is FLOAT64) and value.flags.aligned:
            return value, False
    array = take(function, name, value)
    return as_images(function, name, array), array.ndim == 3


def as_images(function: str, name: str, array: Array) -> Array:
    """(N, C, H, W) as it is, (C, H, W) as a batch of one."""
    if array.ndim == 4:
        return array
    if array.ndim == 3:
        return array[None]
    raise ValueError(
        f"{function}: {name} has {array.ndim} dimensions (shape {array.shape}); "
        f"wanted (N, C, H, W), or (C, H, W) for one image"
    )


def check_shape(function: str, name: str, array: Array, wanted: Sequence[int], why: str) -> None:
    if array.shape != tuple(wanted):
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, but {why} is {tuple(wanted)}"
        )


# ---- out= ----------------------------------------------------------------------------------------


def take_out(
    function: str,
    out: Any,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    inputs: Mapping[str, Array | None],
    residual: Array | None = None,
) -> Array:
    """`out` checked: shape, dtype, writable, without overlap with itself or with `inputs`; it may
    be `residual` itself. Nothing has been written when this raises."""
    array = take(function, "out", out)
    check_shape(function, "out", array, shape, "the result's shape")
    if array.dtype != dtype:
        raise TypeError(f"{function}: out has dtype {array.dtype}, but the result has {dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{function}: out is read-only; pass an array that may be written")
    if array.size and any(
        size > 1 and stride == 0 for size, stride in zip(array.shape, array.strides, strict=True)
    ):
        raise ValueError(
            f"{function}: out has a stride of 0 (a broadcast array): its elements overlap"
        )
    if not array.flags.c_contiguous and _may_overlap_itself(array):
        raise ValueError(
            f"{function}: out has strides {array.strides} for shape {array.shape}: its elements "
            f"overlap"
        )
    for name, other in inputs.items():
        if other is None:
            continue
        if type(array) is not np.ndarray or type(other) is not np.ndarray:
            check_device(function, "out", array, name, other)
        if overlap(array, other):
            raise ValueError(
                f"{function}: out overlaps {name} in memory; pass an array of its own (only "
                f"`residual` may be out itself)"
            )
    if residual is not None and not same_memory(array, residual) and overlap(array, residual):
        raise ValueError(
            f"{function}: out overlaps residual in part; it may be residual itself or apart from it"
        )
    return array


def _may_overlap_itself(array: Array) -> bool:
    """Whether some stride is less than what lies within it: never so for slices and transposes."""
    within = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape) if n > 1):
        if stride < within:
            return array.size > 0
        within += stride * (size - 1)
    return False


def lie_alike(a: Array, b: Array) -> bool:
    """Whether shapes and strides are the same, those along an axis of one element aside."""
    if a.strides == b.strides:
        return bool(a.shape == b.shape)
    pairs = zip(a.shape, a.strides, b.strides, strict=True)
    return a.shape == b.shape and all(s == t for size, s, t in pairs if size > 1)


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places."""
    pointers = [address(array).__array_interface__["data"][0] for array in (a, b)]
    return pointers[0] == pointers[1] and lie_alike(a, b)


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one device have memory in common."""
    if type(a) is not np.ndarray:
        (low, high), (other_low, other_high) = span(a), span(b)
        if high <= other_low or other_high <= low:  # far cheaper than what follows
            return False
        a, b = address(a), address(b)
    if not np.may_share_memory(a, b):
        return False
    try:  # exact, for interleaved slices of one buffer; bounded, since the question is NP-hard
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]  # NumPy's stub
    except np.exceptions.TooHardError:
        return True
