"""The CUDA half of fastconv: whether it can be used here."""

from __future__ import annotations

from typing import Any

from . import _core

__all__ = ["is_available", "why_unavailable"]


def is_available() -> bool:
    """Whether arrays on a CUDA device can be used: kernels are built and there is a GPU they fit.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.cuda.is_available() == (fc.cuda.why_unavailable() == "")
    True
    """
    return not _core.cuda.why_no_device()


def why_unavailable() -> str:
    """Why `is_available` is False, in one sentence; empty if it is True."""
    return _core.cuda.why_no_device()


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        try:
            import ml_dtypes
            import numpy as np

            value: Any = np.dtype(ml_dtypes.bfloat16)
        except ImportError:
            value = _BFloat16()
        globals()["bfloat16"] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
