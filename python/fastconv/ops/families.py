"""What a user hands in becomes a NumPy or device array here, and results become his kind again.

The only module that knows array families: NumPy and `fastconv.cuda.Array`; PyTorch, CuPy, JAX and
others through DLPack. Memory is shared, never copied.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..cuda_exchange import give_like, import_array, is_torch
from .devices import Array, DeviceArray

_TORCH_DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8")
# DLPack's device types; on the CPU also CUDA's pinned and managed memory.
_CUDA, _CPU = (2,), (1, 3, 13)


def import_any(function: str, name: str, value: Any) -> Array:
    if type(value) is DeviceArray:
        return value
    if getattr(value, "is_cuda", False) and is_torch(value):
        return import_array(function, name, value, for_call=True)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: {name} is a masked array, whose mask no function here knows; pass "
            f"{name}.filled(0) or {name}.data"
        )
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if not hasattr(value, "__dlpack__"):
        if hasattr(value, "__cuda_array_interface__"):
            return import_array(function, name, value)
        raise TypeError(
            f"{function}: {name} is a {type(value).__name__}, not an array; "
            f"wanted a NumPy array or one that exports __dlpack__ (try numpy.asarray)"
        )
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{function}: {name} is a tensor that requires grad, which fastconv does not record; "
            f"pass {name}.detach()"
        )
    try:
        device_type = int(value.__dlpack_device__()[0])
    except (ValueError, RuntimeError, BufferError) as error:  # PyTorch's meta and nested tensors
        raise ValueError(f"{function}: {name} has no memory to share: {error}") from None
    if device_type in _CUDA:
        return import_array(function, name, value)
    if device_type not in _CPU:
        raise ValueError(
            f"{function}: {name} is on a device without kernels (DLPack device type "
            f"{device_type}); move it to the CPU or a CUDA device first"
        )
    if is_torch(value):  # its DLPack export is read-only in some NumPy versions
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in _TORCH_DTYPES:
            have = "float32 and float64 have"
            raise TypeError(no_kernels(function, name, dtype, value, have))
        try:
            array: Array = value.numpy()
        except (RuntimeError, TypeError) as error:  # sparse, or to be negated when read
            raise TypeError(f"{function}: {name} is no plain array: {error}") from None
        return array
    try:
        return np.from_dlpack(value)
    except (BufferError, TypeError, RuntimeError) as error:
        raise TypeError(
            f"{function}: {name} ({type(value).__name__}) could not be imported by DLPack: {error}"
        ) from error


def give(result: Array, like: Any) -> Any:
    """`result` as an array of the family of `like`, sharing its memory."""
    if isinstance(like, np.ndarray) or type(like) is DeviceArray:
        return result
    if type(result) is DeviceArray:
        return give_like(result, like)
    if is_torch(like):
        return sys.modules["torch"].from_numpy(result)
    package = type(like).__module__.partition(".")[0]
    module = sys.modules.get("jax.numpy" if package in ("jax", "jaxlib") else package)
    from_dlpack = getattr(module, "from_dlpack", None)
    return result if from_dlpack is None else from_dlpack(result)


def no_kernels(function: str, name: str, dtype: Any, value: Any, which: str) -> str:
    remedy = f"{name}.float()" if is_torch(value) else f"{name}.astype(numpy.float32)"
    return (
        f"{function}: {name} has dtype {dtype}, which has no kernels; {which}: convert it with "
        f"{remedy}"
    )
