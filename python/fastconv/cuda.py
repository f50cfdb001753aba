"""The CUDA half of fastconv. This version has no CUDA kernels yet; `is_available` says so."""

from __future__ import annotations

from . import _core

__all__ = ["is_available", "why_unavailable"]


def is_available() -> bool:
    """Whether arrays on a CUDA device can be used.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.cuda.is_available()
    False
    """
    return _core.cuda_built()


def why_unavailable() -> str:
    """Why `is_available` is False, in one sentence; empty if it is True."""
    return _core.cuda_why_not_built()
