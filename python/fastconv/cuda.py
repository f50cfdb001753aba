"""GPUs: arrays in their memory, streams, events and captured graphs.

Every function of fastconv takes these arrays, and PyTorch's, CuPy's and JAX's on a GPU, and gives
back the same kind. Work is put on a *stream* and done in order; a call returns before its kernels
have run, and `asnumpy`, ``float(a)`` and `synchronize` wait for them. The stream is that of the
tensor's own library, for `Array` that of ``with fc.cuda.Stream():``, else the default one.

An array remembers the stream it was made on: a call on another one waits for that first. What two
further streams do with it is ordered by `Stream.wait`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _core
from .cuda_arrays import asarray, asnumpy, empty, full, pinned, shares_memory, zeros
from .cuda_exchange import Array
from .cuda_exchange import give_like as give_like
from .cuda_exchange import import_array as import_array
from .cuda_streams import Event, Graph, Stream, capture

if TYPE_CHECKING:
    from .cuda_kernels import kernel as kernel
    from .cuda_kernels import kernels as kernels

    bfloat16: Any

__all__ = [
    "Array",
    "Event",
    "Graph",
    "Stream",
    "asarray",
    "asnumpy",
    "bfloat16",
    "capture",
    "current_device",
    "device_count",
    "device_info",
    "empty",
    "full",
    "is_available",
    "kernel",
    "kernels",
    "memory_stats",
    "pinned",
    "release_memory",
    "set_device",
    "shares_memory",
    "synchronize",
    "why_unavailable",
    "zeros",
]

_cuda = _core.cuda


def is_available() -> bool:
    """Whether arrays on a GPU can be used: kernels are built and there is a GPU they fit.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.cuda.is_available() == (fc.cuda.why_unavailable() == "")
    True
    """
    return not _cuda.why_no_device()


def why_unavailable() -> str:
    """Why `is_available` is False, in one sentence; empty if it is True."""
    return str(_cuda.why_no_device())


# ---- devices -------------------------------------------------------------------------------------


def device_count() -> int:
    """How many GPUs there are; 0 without a driver or in a build without CUDA kernels."""
    return int(_cuda.device_count())


def current_device() -> int:
    """The GPU on which this thread makes new arrays."""
    return int(_cuda.current_device())


def set_device(index: int) -> None:
    """Make new arrays of this thread on GPU `index`; calls run where their arrays are."""
    _cuda.set_device(index)


def device_info(index: int | None = None) -> dict[str, Any]:
    """A GPU's name, compute capability, multiprocessors and memory.

    Raises
    ------
    ValueError
        If there is no such GPU.
    RuntimeError
        If there is none at all.
    """
    return dict(_cuda.device(current_device() if index is None else index))


def describe(index: int) -> str:
    """A GPU in one line."""
    info = device_info(index)
    major, minor = info["compute_capability"]
    return f"{index}: {info['name']} ({major}.{minor}, {info['memory_bytes'] / 2**30:.0f} GiB)"


def memory_stats(device: int | None = None) -> dict[str, int]:
    """Bytes of a GPU's memory in live arrays and workspaces (``used``) and in fastconv's pool
    (``reserved``), each with its highest value so far (``..._peak``)."""
    return dict(_cuda.memory_stats(current_device() if device is None else device))


def release_memory(device: int | None = None) -> None:
    """Give memory that the pool holds and no array uses back to the system."""
    _cuda.trim_memory(current_device() if device is None else device)


def synchronize(device: int | None = None) -> None:
    """Wait until a GPU has finished all its work."""
    _cuda.synchronize_device(current_device() if device is None else device)


class _BFloat16:
    """Stands for the dtype bfloat16 where ml_dtypes is not installed."""

    name = "bfloat16"
    itemsize = 2
    kind = "V"

    def __eq__(self, other: object) -> bool:
        return getattr(other, "name", other) == "bfloat16"

    def __hash__(self) -> int:
        return hash("bfloat16")

    def __repr__(self) -> str:
        return "bfloat16"


def __getattr__(name: str) -> Any:
    """What is loaded when it is first used."""
    value: Any
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            value = _BFloat16()
        else:
            import numpy as np

            value = np.dtype(ml_dtypes.bfloat16)
    elif name in ("kernel", "kernels"):
        from . import cuda_kernels

        value = getattr(cuda_kernels, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
