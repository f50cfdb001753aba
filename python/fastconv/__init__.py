"""fastconv: fast convolution, pooling and training of convolutional networks for NumPy arrays."""

from __future__ import annotations

from ._core import __version__

__all__ = ["__version__"]
