"""How often a network's favourite is the move played, and what guessing and tables reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fastconv as fc
import numpy as np
from numpy.typing import NDArray

from examples.alphago.dataset import Positions
from examples.alphago.planes import SENSIBLE, TURNS
from examples.alphago.symmetries import SYMMETRIES, target_points

NO_MOVE = 361  # in place of the previous move: none, or a pass
BATCH = 256


@dataclass(frozen=True)
class Score:
    """Shares of positions: the move played is the favourite; among the five favourites."""

    top1: float
    top5: float
    loss: float
    positions: int


def score(model: Any, held: Positions) -> Score:
    """Of a network over all positions of ``held``, not turned, illegal moves not excluded.

    Raises
    ------
    ValueError
        If an output is not finite: the training diverged.
    """
    training = model.training
    model.eval()
    best, five, loss = 0, 0, 0.0
    try:
        for x, moves in fc.data.batches(held, BATCH, shuffle=False):
            logits = model(x)
            if not np.isfinite(logits).all():
                raise ValueError("the network's outputs are not finite: try a smaller --lr")
            played = np.take_along_axis(logits, moves[:, None], axis=1)
            rank = (logits > played).sum(axis=1)
            best, five = best + int((rank == 0).sum()), five + int((rank < 5).sum())
            loss += float(fc.cross_entropy(logits, moves, reduction="sum"))
    finally:
        model.train(training)
    count = len(held)
    return Score(best / count, five / count, loss / count, count)


def table_accuracies(train: Positions, held: Positions) -> tuple[float, float]:
    """(commonest move, commonest answer): how often two tables' favourites are the move played.

    The first knows how often each point was played in the training games, the second how often in
    answer to each previous move; both count a game under all 8 symmetries and pick among sensible
    moves. A network must beat them to have learnt anything but habits.
    """
    targets = target_points(19)
    answers = np.zeros((NO_MOVE + 1, 361))
    for first in range(0, len(train.indices), 8192):
        places = train.indices[first : first + 8192]
        previous, moves = previous_moves(train.images[places]), train.labels[places]
        for symmetry in range(SYMMETRIES):
            turned = np.append(targets[symmetry], NO_MOVE)
            np.add.at(answers, (turned[previous], turned[moves]), 1)
    common = answers.sum(axis=0)
    # An answer never seen is ranked by how common the move is.
    answers += common / common.sum()
    right = np.zeros(2)
    for first in range(0, len(held.indices), 8192):
        places = held.indices[first : first + 8192]
        planes, moves = held.images[places], held.labels[places]
        sensible = _plane(planes, SENSIBLE)
        for row, table in enumerate((common[None], answers[previous_moves(planes)])):
            right[row] += (np.where(sensible, table, -1).argmax(axis=1) == moves).sum()
    return float(right[0] / len(held.indices)), float(right[1] / len(held.indices))


def previous_moves(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N,): the point of the last move of packed planes (N, 361, 6), ``NO_MOVE`` if none."""
    last = _plane(packed, TURNS)
    return np.where(last.any(axis=1), last.argmax(axis=1), NO_MOVE)


def _plane(packed: NDArray[np.uint8], plane: int) -> NDArray[np.bool_]:
    """One plane (N, 361) of packed planes (N, 361, 6)."""
    byte, bit = divmod(plane, 8)
    picked: NDArray[np.bool_] = (packed[:, :, byte] >> (7 - bit) & 1).astype(bool)
    return picked
