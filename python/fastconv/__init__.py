"""fastconv: fast convolution, pooling and training of convolutional networks for NumPy arrays."""

from __future__ import annotations

from . import ops
from ._core import __version__
from .ops import *  # noqa: F403  (ops.__all__ is the list)

__all__ = ["__version__", "ops", *ops.__all__]
