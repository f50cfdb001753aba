"""The 8 symmetries of the board, of packed planes and of the move together.

Number s in 0..7: `s & 1` mirrors x, `s & 2` mirrors y, `s & 4` then exchanges x and y. Points are
numbered x * size + y, as in the packed planes and the labels. The planes need nothing else than
their points moved: no feature has a direction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SYMMETRIES = 8


def source_points(size: int) -> NDArray[np.int64]:
    """(8, size * size): where symmetry s takes the content of a point from."""
    points = np.arange(size * size).reshape(size, size)
    views = []
    for symmetry in range(SYMMETRIES):
        view = points[::-1] if symmetry & 1 else points
        view = view[:, ::-1] if symmetry & 2 else view
        views.append((view.T if symmetry & 4 else view).ravel())
    return np.array(views)


def target_points(size: int) -> NDArray[np.int64]:
    """(8, size * size): where symmetry s takes a point to; the inverse of ``source_points``."""
    return np.argsort(source_points(size), axis=1)


def transform(
    packed: NDArray[np.uint8], moves: NDArray[Any], symmetries: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Packed planes (N, size * size, 6) and moves (N,), each under its own symmetry (N,)."""
    size = round(packed.shape[1] ** 0.5)
    turned = np.take_along_axis(packed, source_points(size)[symmetries][:, :, None], axis=1)
    return turned, target_points(size)[symmetries, moves]
