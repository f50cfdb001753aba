"""Making arrays on a GPU, and copies between NumPy and there: `fc.cuda.asarray`, `asnumpy`, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core
from .cuda_exchange import Array, import_array
from .cuda_streams import on_device

_cuda = _core.cuda
_ORDERS = (None, "C", "channels_last")


def empty(
    shape: int | Sequence[int],
    dtype: npt.DTypeLike = "float32",
    *,
    order: str | None = None,
    device: int | None = None,
) -> Any:
    """A new array on a GPU with undefined contents.

    Parameters
    ----------
    shape : int or sequence of ints
    dtype : float32, float16, fc.cuda.bfloat16 or int64, or a name of one
    order : "C" or "channels_last"
        Whether the last or the second dimension varies fastest in memory; None is "C".
    device : int, optional
        The GPU's number; None is the current one.
    """
    sizes = [shape] if isinstance(shape, int) else list(shape)
    last = _is_last("empty", order)
    with on_device(device):
        return _cuda.empty(sizes, dtype, None, last)


def full(
    shape: int | Sequence[int],
    value: float,
    dtype: npt.DTypeLike = "float32",
    *,
    order: str | None = None,
    device: int | None = None,
) -> Any:
    """As `empty`, every element `value`."""
    array = empty(shape, dtype, order=order, device=device)
    array.fill(value)
    return array


def zeros(
    shape: int | Sequence[int],
    dtype: npt.DTypeLike = "float32",
    *,
    order: str | None = None,
    device: int | None = None,
) -> Any:
    """As `empty`, every element 0."""
    return full(shape, 0, dtype, order=order, device=device)


def asarray(
    x: Any,
    dtype: npt.DTypeLike | None = None,
    *,
    order: str | None = None,
    device: int | None = None,
) -> Any:
    """`x` on a GPU: itself or a view where that is possible, else a copy.

    Parameters
    ----------
    x : array
        A NumPy array is copied to the current device; from `pinned` memory without waiting, so that
        it must not be changed before the stream is done. An array on a GPU (`Array`, PyTorch, CuPy,
        JAX, ...) is shared.
    dtype : dtype, optional
        float32, float16, bfloat16 or int64; values are rounded to the nearest. NumPy's float64
        needs one.
    order : "C" or "channels_last", optional
        None keeps x's order.
    device : int, optional
        The GPU's number; None keeps x's, or is the current one for a NumPy array.

    Raises
    ------
    TypeError
        If x is no array, or has a dtype that no kernel has and `dtype` is not given.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.ones((2, 3, 8, 8), np.float32)
    >>> fc.cuda.asarray(x).shape if fc.cuda.is_available() else x.shape
    (2, 3, 8, 8)
    """
    last = _is_last("asarray", order)
    if _is_on_device(x):
        array = import_array("asarray", "x", x)
        if dtype is not None and _name(dtype) != array.dtype.name:
            array = array.astype(dtype)
        if device is not None and device != array.device:
            array = _moved(array, device)
    else:
        with on_device(device):
            array = _upload(np.asarray(x), dtype)
    if order is None or (_lies_channels_last(array) if last else array.flags.c_contiguous):
        return array
    return array.copy(order)


def asnumpy(a: Any, out: npt.NDArray[Any] | None = None, *, wait: bool = True) -> npt.NDArray[Any]:
    """A NumPy copy of an array on a GPU, in the same order in memory.

    Parameters
    ----------
    a : Array, or an array of PyTorch, CuPy, JAX, ... on a GPU
    out : NumPy array, optional
        Of a's shape and dtype, without gaps in C order; written and returned.
    wait : bool
        False returns at once; `out`, from `pinned`, has its values when the stream is done.

    Raises
    ------
    TypeError
        If `a` is bfloat16 and ml_dtypes is not installed (``pip install fastconv[cuda]``).
    """
    array = import_array("asnumpy", "a", a)
    dtype = array.dtype
    if not isinstance(dtype, np.dtype):
        raise TypeError(
            "asnumpy: NumPy has bfloat16 through ml_dtypes only: pip install fastconv[cuda], or "
            "convert on the GPU with a.astype('float32')"
        )
    if out is not None:
        if out.shape != array.shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"asnumpy: out has shape {out.shape}, dtype {out.dtype}; wanted {array.shape}, "
                f"{dtype}, in C order without gaps"
            )
        _download(array, out, wait)
        return out
    last = _lies_channels_last(array)
    if last:
        array = _channels_moved(array)
    result: npt.NDArray[Any] = np.empty(array.shape, dtype)
    _download(array, result, True)
    return np.moveaxis(result, -1, 1) if last else result


def pinned(shape: int | Sequence[int], dtype: npt.DTypeLike = "float32") -> npt.NDArray[Any]:
    """A NumPy array on page-locked memory, from and to which `asarray` and ``asnumpy(...,
    wait=False)`` copy without waiting. Contents are undefined."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = np.dtype(dtype)
    count = int(np.prod(sizes, dtype=np.int64))
    bytes_ = _cuda.pinned_bytes(count * kind.itemsize)
    result: npt.NDArray[Any] = bytes_.view(kind).reshape(sizes)
    return result


def shares_memory(a: Any, b: Any) -> bool:
    """Whether two arrays on GPUs have a byte in common."""
    return a.device == b.device and bool(np.shares_memory(_Addresses.of(a), _Addresses.of(b)))


class _Addresses:
    """Shows NumPy the addresses of an array on a GPU, which it compares and never follows."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface

    @classmethod
    def of(cls, array: Any) -> npt.NDArray[Any]:
        kind = f"|V{array.itemsize}"
        data = (array.ptr, True)
        return np.asarray(
            cls({"version": 3, "shape": array.shape, "strides": array.strides, "typestr": kind,
                 "data": data})
        )  # fmt: skip


def _moved(array: Any, device: int) -> Any:
    last = _lies_channels_last(array)
    dense = array if last or array.flags.c_contiguous else array.copy()
    with on_device(device):
        result = _cuda.empty(array.shape, array.dtype, None, last)
    moved = (_channels_moved(dense), _channels_moved(result)) if last else (dense, result)
    _cuda.copy_between(*moved)
    return result


def _is_last(function: str, order: str | None) -> bool:
    if order not in _ORDERS:
        raise ValueError(f'{function}: order must be "C" or "channels_last", not {order!r}')
    return order == "channels_last"


def _is_on_device(x: Any) -> bool:
    if isinstance(x, np.ndarray) or type(x) is Array:
        return type(x) is Array
    if getattr(x, "is_cuda", False) or hasattr(x, "__cuda_array_interface__"):
        return True
    device = getattr(x, "__dlpack_device__", None)
    return device is not None and int(device()[0]) in (2, 13)


def _name(dtype: Any) -> str:
    if isinstance(dtype, str):
        return dtype
    return str(getattr(dtype, "name", None) or np.dtype(dtype).name)


def _channels_moved(array: Any) -> Any:
    """(N, C, ...) as (N, ..., C), a view."""
    return array.transpose(0, *range(2, array.ndim), 1)


def _lies_channels_last(array: Any) -> bool:
    return (
        array.ndim >= 3
        and not array.flags.c_contiguous
        and bool(_channels_moved(array).flags.c_contiguous)
    )


def _upload(x: npt.NDArray[Any], dtype: Any) -> Any:
    source, wanted = x.dtype.name, x.dtype.name if dtype is None else _name(dtype)
    if source not in ("float32", "float16", "bfloat16", "int64"):
        if dtype is None:
            raise TypeError(
                f"asarray: x has dtype {source}, which has no kernels on a GPU; choose one: "
                f"asarray(x, dtype='float32'), 'float16', 'bfloat16' or 'int64'"
            )
        # float64 becomes bfloat16 by way of float32 and is rounded twice.
        through = wanted if wanted in ("float32", "float16", "int64") else "float32"
        x = x.astype(through)
        source = through
    last = x.ndim >= 3 and not x.flags.c_contiguous and np.moveaxis(x, 1, -1).flags.c_contiguous
    host = np.ascontiguousarray(np.moveaxis(x, 1, -1) if last else x).reshape(-1).view(np.uint8)
    array = _cuda.empty(x.shape, source, None, last)
    _cuda.copy_in(_channels_moved(array) if last else array, host)
    return array if source == wanted else array.astype(wanted)


def _download(array: Any, out: npt.NDArray[Any], wait: bool) -> None:
    dense = array if array.flags.c_contiguous else array.copy()
    _cuda.copy_out(dense, out.reshape(-1).view(np.uint8), wait)
