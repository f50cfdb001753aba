"""Arrays of other libraries on a GPU (PyTorch, CuPy, JAX, Numba) as `fastconv.cuda.Array` and back,
without a copy. Nothing is imported for it: a library whose array arrives is loaded already."""

from __future__ import annotations

import sys
from typing import Any

from . import _core

_core_cuda = _core.cuda
Array = _core_cuda.Array


def import_array(function: str, name: str, value: Any, for_call: bool = False) -> Any:
    """`value` as an `Array` that shares its memory, for the stream its library works on now.

    An operand `for_call` lives as long as one call: memory that is allocated beside it is PyTorch's
    where it is.

    Raises
    ------
    TypeError
        If it is no array, lies on another device, requires grad or has a dtype without kernels.
    """
    if type(value) is Array:
        return value
    package = _package(value)
    if is_torch(value):
        if not value.is_cuda:
            raise TypeError(f"{function}: {name} is a tensor on {value.device}, not on a GPU")
        try:
            return _core_cuda.from_torch(sys.modules["torch"], value, function, name, for_call)
        except RuntimeError as error:  # sparse or nested: no strides
            raise TypeError(f"{function}: {name} is no plain array: {error}") from None
    try:
        # JAX's arrays have an interface without a stream; DLPack's has one.
        if package not in ("jax", "jaxlib"):
            interface = getattr(value, "__cuda_array_interface__", None)
            if interface is not None:
                return _core_cuda.from_interface(value, interface)
        array = _from_dlpack(value)
    except TypeError as error:
        raise TypeError(f"{function}: {name} ({type(value).__name__}): {error}") from None
    except (BufferError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{function}: {name} ({type(value).__name__}) could not be imported by DLPack: {error}"
        ) from error
    return array.read_only() if package in ("jax", "jaxlib") else array


def _from_dlpack(value: Any) -> Any:
    if not hasattr(value, "__dlpack__"):
        raise TypeError("not an array on a GPU: it exports neither __dlpack__ nor "
                        "__cuda_array_interface__")  # fmt: skip
    kind, device = value.__dlpack_device__()
    if int(kind) not in (2, 13):  # DLPack: CUDA, CUDA managed
        raise TypeError(f"not an array on a GPU (DLPack device type {int(kind)})")
    stream = _stream_of(device) or 1  # DLPack: 1 is the legacy default stream
    try:
        capsule = value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:  # from before DLPack 1.0
        capsule = value.__dlpack__(stream=stream)
    return _core_cuda.from_dlpack(capsule)


def _stream_of(device: int) -> int:
    before = _core_cuda.current_device()
    if before == device:
        return int(_core_cuda.current_stream())
    _core_cuda.set_device(device)
    try:
        return int(_core_cuda.current_stream())
    finally:
        _core_cuda.set_device(before)


def give_like(array: Any, like: Any) -> Any:
    """`array` as one of the family of `like`, sharing its memory; itself if that has no way."""
    if type(like) is Array or type(array) is not Array:
        return array
    package = _package(like)
    if is_torch(like):
        tensor = _core_cuda.to_torch(array)
        if tensor is not None:
            return tensor
        torch = sys.modules["torch"]
        stream = _core_cuda.torch_stream(torch, array.device) or 1
        return torch.utils.dlpack.from_dlpack(array.__dlpack__(stream=stream))
    if package in ("jax", "jaxlib"):
        return sys.modules["jax.numpy"].from_dlpack(array)
    if package == "numba":
        return sys.modules["numba.cuda"].as_cuda_array(array)
    from_dlpack = getattr(sys.modules.get(package), "from_dlpack", None)
    return array if from_dlpack is None else from_dlpack(array)


def is_torch(value: Any) -> bool:
    """Whether it is a tensor of PyTorch's, or of a subclass."""
    return isinstance(value, getattr(sys.modules.get("torch"), "Tensor", ()))


def _package(value: Any) -> str:
    return type(value).__module__.partition(".")[0]
