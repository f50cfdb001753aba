"""Training pairs for `fc.fit`, straight from the packed cache.

A number that `order` gives and `batch` takes means a position and a symmetry:
number = position + positions * symmetry. Epochs are as long as wanted: each takes the next part of
an endless sequence of permutations, so that every position comes once before any comes again.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import numpy as np
from numpy.typing import NDArray

from examples.alphago.cache import Cache
from examples.alphago.planes import PLANES, unpack
from examples.alphago.records import SIZE
from examples.alphago.symmetries import SYMMETRIES, transform

# Keep the streams of random numbers of one seed apart.
PERMUTATION, SYMMETRY, SPLIT = 11, 12, 13


class Positions(fc.data.Dataset):
    """Some positions of a cache as images (48, 19, 19) with the move's number as label.

    Parameters
    ----------
    cache : Cache
    indices : array of int
        Which positions, as numbers in the cache.
    per_epoch : int, optional
        Length of a training epoch; by default all positions.
    """

    def __init__(self, cache: Cache, indices: Any, per_epoch: int | None = None) -> None:
        super().__init__(cache.planes, cache.moves)
        self.cache, self.indices = cache, np.asarray(indices, np.int64)
        self.per_epoch = len(self.indices) if per_epoch is None else per_epoch
        if not len(self.indices) or self.per_epoch < 1:
            raise ValueError(
                f"Positions: {len(self.indices)} positions, per_epoch={per_epoch!r}, "
                f"but at least 1 of each is needed"
            )

    def __len__(self) -> int:
        return self.per_epoch

    @property
    def shape(self) -> tuple[int, ...]:
        return PLANES, SIZE, SIZE

    def subset(self, indices: Any) -> Positions:
        return Positions(self.cache, self.indices[indices])

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        count = len(self.indices)
        wanted = np.arange(epoch * self.per_epoch, (epoch + 1) * self.per_epoch)
        numbers = np.empty(self.per_epoch, np.int64)
        for turn in range(wanted[0] // count, wanted[-1] // count + 1):
            permutation = np.random.default_rng([PERMUTATION, seed, turn]).permutation(count)
            here = wanted // count == turn
            numbers[here] = permutation[wanted[here] % count]
        rng = np.random.default_rng([SYMMETRY, seed, epoch])
        return numbers + count * rng.integers(0, SYMMETRIES, self.per_epoch)

    def batch(self, indices: Any, dtype: Any = np.float32) -> tuple[Any, Any]:
        symmetries, numbers = np.divmod(np.asarray(indices), len(self.indices))
        places = self.indices[numbers]
        planes, moves = transform(self.images[places], self.labels[places], symmetries)
        return unpack(planes, dtype), moves

    def __repr__(self) -> str:
        return f"Positions({len(self.indices):,} of {self.cache.path}, {len(self):,} an epoch)"


def split_games(
    cache: Cache, held_games: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the positions to train on, and of those in ``held_games`` games set apart.

    Raises
    ------
    ValueError
        If that leaves no game on one side.
    """
    games = len(cache.games)
    if not 0 < held_games < games:
        raise ValueError(
            f"split_games: held_games={held_games!r}, but of {games} games at least 1 and at most "
            f"{games - 1} can be set apart"
        )
    held = np.zeros(games, bool)
    held[np.random.default_rng([SPLIT, seed]).permutation(games)[:held_games]] = True
    of_position = np.repeat(held, np.diff(cache.offsets))
    return np.flatnonzero(~of_position), np.flatnonzero(of_position)
