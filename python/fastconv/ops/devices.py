"""Where arrays live: NumPy's on the CPU, `fastconv.cuda.Array` (here: a device array) on a GPU.

What differs between the two for the rest of `ops` is here: the module of kernels, new memory beside
an array, which dtypes have kernels. Device arrays answer to NumPy's names (shape, strides, flags,
transpose, basic indexing), so that the checks are the same lines for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core

Array = npt.NDArray[Any]

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
INT64 = np.dtype(np.int64)
ON_DEVICE = ("float32", "float16", "bfloat16")
POOLED = 1 << 14  # elements: from 64 KB of float32 on; NumPy keeps small arrays' memory itself
POOLED_BELOW = 1 << 48  # beyond it sizes in bytes may not fit 64 bits, which NumPy checks
cuda_core: Any = _core.cuda
DeviceArray: Any = cuda_core.Array


def kernels_for(array: Array) -> Any:
    """The compiled functions for arrays that live where `array` does; both modules have the same
    names."""
    return _core if type(array) is np.ndarray else cuda_core


def on_device(array: Any) -> bool:
    return type(array) is DeviceArray


def has_kernels(array: Any) -> bool:
    """Whether there are kernels for the dtype of `array`."""
    if type(array) is DeviceArray:
        return bool(array.has_kernels)  # the name of one of NumPy's dtypes takes 1.5 us to make
    return array.dtype in (FLOAT32, FLOAT64)


def dtypes_with_kernels(array: Array) -> str:
    """In words, for errors."""
    if type(array) is DeviceArray:
        return "float32, float16 and bfloat16 have on a CUDA device"
    return "float32 and float64 have"


def same_device(a: Array, b: Array) -> bool:
    if type(a) is not type(b):
        return False
    return type(a) is np.ndarray or a.device == b.device


def same_kind(a: Any, b: Any) -> bool:
    """Whether two device arrays have one dtype and device."""
    return bool(a.is_like(b))


def refuse_devices(function: str, name: str, array: Array, first_name: str, first: Array) -> None:
    remedy = (
        "; move one with fc.cuda.asarray or fc.cuda.asnumpy"
        if type(array) is not type(first)
        else ""
    )
    raise ValueError(
        f"{function}: {name} is on {device_name(array)}, but {first_name} is on "
        f"{device_name(first)}: all arrays of a call share one device{remedy}"
    )


def device_name(array: Any) -> str:
    return "the CPU" if isinstance(array, np.ndarray) else f"CUDA device {array.device}"


def new(shape: Sequence[int], dtype: npt.DTypeLike, beside: Array, *, function: str = "") -> Array:
    """Uninitialised memory in C order where `beside` lives (on a device: for its stream).

    Large arrays have memory that comes back when the last view of them is gone: fresh pages from
    the system would cost more than many a kernel that fills them.
    """
    if type(beside) is not np.ndarray:
        return cuda_core.empty(shape, dtype, beside)
    try:
        if POOLED <= math.prod(shape) < POOLED_BELOW:
            return _core.empty(shape, np.dtype(dtype))
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):  # ValueError: more than 64 bits can address
        raise no_memory(function, shape) from None


def no_memory(function: str, shape: Sequence[int]) -> MemoryError:
    named = f"{function}: " if function else ""
    return MemoryError(f"{named}a result of shape {tuple(shape)} fits into no memory")


def contiguous(array: Array) -> Array:
    """`array` in C order, copied only where it is not."""
    return array if array.flags.c_contiguous else array.copy()


def span(array: Any) -> tuple[int, int]:
    """The first address of a device array and the one after its last."""
    low = high = array.ptr
    for size, stride in zip(array.shape, array.strides, strict=True):
        if size == 0:
            return low, low
        if stride > 0:
            high += (size - 1) * stride
        else:
            low += (size - 1) * stride
    return low, high + array.itemsize


def address(array: Any) -> Any:
    """An array of NumPy's at the same addresses, to compare memory with; on a device they lead
    nowhere and are never followed."""
    return array if type(array) is np.ndarray else np.asarray(_Addresses(array))


class _Addresses:
    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (array.ptr, True),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
        }
