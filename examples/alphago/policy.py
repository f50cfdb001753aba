"""A trained policy network: read from its file, asked for a position."""

from __future__ import annotations

from os import PathLike
from typing import Any

import fastconv as fc
import numpy as np
from numpy.typing import NDArray

from examples.alphago.board import Board
from examples.alphago.planes import PLANES, as_arrays, encode, pack, unpack
from examples.alphago.symmetries import SYMMETRIES, target_points, transform


def load_policy(path: str | PathLike[str]) -> Any:
    """``fc.models.alphago_policy`` with as many filters and convolutions as the weights in a file.

    Raises
    ------
    ValueError
        If they are not of such a network.
    """
    arrays = fc.read_checkpoint(path)
    # A training run's checkpoint also holds velocities, under other names.
    kernels = [a.shape for name, a in arrays.items() if name.endswith("weight") and a.ndim == 4]
    first = [shape for shape in kernels if shape[1:] == (PLANES, 5, 5)]
    if len(first) != 1:
        raise ValueError(f"{path}: no first layer of 5x5 kernels on {PLANES} planes")
    model = fc.models.alphago_policy(first[0][0], convolutions=len(kernels) - 1, seed=0)
    model.load_weights(path)
    model.eval()
    return model


def probabilities(model: Any, board: Board) -> NDArray[np.float32]:
    """(size, size), indexed [x, y]: the network's probability of each legal move, 0 elsewhere.

    The mean over the 8 symmetries of the position: the network has learnt each of them apart.
    """
    size = board.geometry.size
    packed = np.repeat(pack(encode(board))[None], SYMMETRIES, axis=0)
    symmetries = np.arange(SYMMETRIES)
    turned, _ = transform(packed, np.zeros(SYMMETRIES, np.int64), symmetries)
    answers = fc.softmax(model(unpack(turned)), axis=1)
    back = np.take_along_axis(answers, target_points(size), axis=1).mean(axis=0)
    legal = as_arrays([board.legal_moves()], size)[0]
    masked = back.reshape(size, size) * legal
    return np.asarray(masked / max(masked.sum(), np.finfo(np.float32).tiny), np.float32)
