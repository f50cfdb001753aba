"""Where the arrays of layers and optimisers live and in which dtype: "cpu", "cuda" or "cuda:1".

On the host arrays are NumPy's, on a device `fastconv.cuda.Array`. Copies between the two are made
here, and only where a user asked for them (`to`, loading, saving).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fastconv.ops.devices import ON_DEVICE, new, on_device

FLOATING = (np.dtype(np.float32), np.dtype(np.float64))
HALVES = ("float16", "bfloat16")


def device_index(function: str, device: Any) -> int | None:
    """The GPU's number of "cuda" (0) or "cuda:1"; None for "cpu"."""
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if found is None:
        raise ValueError(f'{function}: device={device!r}, but "cpu", "cuda" or "cuda:1" is needed')
    if device == "cpu":
        return None
    from fastconv import cuda

    if not cuda.is_available():
        raise ValueError(f"{function}: device={device!r}, but {cuda.why_unavailable()}")
    return int(found[1] or 0)


def dtype_name(function: str, dtype: Any) -> str:
    """float32, float64, float16 or bfloat16 from a dtype or its name."""
    name = getattr(dtype, "name", dtype)  # np.dtype("bfloat16") needs ml_dtypes, its name does not
    if not isinstance(name, str):
        name = np.dtype(dtype).name
    if name not in ("float64", *ON_DEVICE):
        raise TypeError(
            f"{function}: dtype={name}, but layers work in float32 and float64, on a CUDA device "
            f"in float32, float16 and bfloat16"
        )
    return str(name)


def check_dtype(function: str, name: str, *, cuda: bool) -> None:
    """Refuse dtypes that have no kernels where the arrays will be."""
    if cuda and name == "float64":
        raise TypeError(
            f"{function}: float64 has no kernels on a CUDA device; float32, float16 and bfloat16 "
            f"have"
        )
    if not cuda and name in HALVES:
        raise TypeError(
            f'{function}: {name} has kernels on a CUDA device only; give device="cuda" too'
        )


def is_floating(array: Any) -> bool:
    return array.dtype.name in ("float64", *ON_DEVICE)


def device_of(array: Any) -> int | None:
    """The GPU's number; None on the host."""
    return array.device if on_device(array) else None


def placed(array: Any, device: int | None, name: str) -> Any:
    """`array` on `device` (None: the host) in the dtype `name`; itself where it is so already."""
    if device_of(array) == device and array.dtype.name == name:
        return array
    if device is None:
        return host(array).astype(name)
    if device_of(array) == device:
        return array.astype(name)
    from fastconv import cuda
    from fastconv.cuda_streams import on_device as current

    with current(device):
        return cuda.asarray(host(array), dtype=name)


def host(value: Any) -> Any:
    """`value` as a NumPy array: copied from a device, else as it is."""
    if not on_device(value):
        return np.asarray(value)
    from fastconv import cuda

    return cuda.asnumpy(value)


def write(target: Any, value: Any) -> None:
    """target[...] = value, converted to target's dtype, from wherever `value` is."""
    if not on_device(target):
        np.copyto(target, host(value), casting="same_kind")
    elif on_device(value):
        target[...] = value
    else:
        target[...] = placed(np.asarray(value), target.device, target.dtype.name)


def zeros_like(array: Any, name: str | None = None) -> Any:
    """Zeros of the shape and device of `array`, of its dtype or that of `name`."""
    if not on_device(array):
        return np.zeros_like(array)
    zeros: Any = new(array.shape, array.dtype if name is None else name, array)
    zeros.fill(0)
    return zeros


def can_hold(target: Any, value: Any) -> bool:
    """Whether `value`'s kind of numbers may be stored in `target`: any in floating arrays."""
    if is_floating(target) and value.dtype.name == "bfloat16":
        return True
    if on_device(target):
        return value.dtype.kind in "biuf"
    return np.can_cast(value.dtype, target.dtype, casting="same_kind")
