"""Go positions from diagrams, at random and as records, for the tests of examples/alphago."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from examples.alphago.board import BLACK, Board, points_of  # noqa: E402

# Games of four moves, of two moves and passes after a handicap, of three moves and a variation.
PLAIN = b"(;B[pd];W[dp];B[cd];W[qp])"
HANDICAP = b"(;GM[1]FF[4]SZ[19]HA[2]AB[pd][dp]RE[W+R];W[cd];B[];W[qp];B[tt];W[])"
OTHER = b"(;SZ[19];B[qd](;W[dd];B[pq])(;W[aa]))"


def board_of(diagram: str, to_move: int = BLACK) -> Board:
    """A board from lines of X (black), O (white) and dots; x counts columns, y lines."""
    lines = [line.split() for line in diagram.strip().splitlines()]
    board = Board(len(lines))
    stones: dict[str, list[int]] = {"X": [], "O": []}
    for y, line in enumerate(lines):
        assert len(line) == len(lines), f"line {y} has {len(line)} points of {len(lines)}"
        for x, symbol in enumerate(line):
            if symbol != ".":
                stones[symbol].append(board.geometry.point(x, y))
    board.set_up(stones["X"], stones["O"])
    board.to_move = to_move
    return board


def play(board: Board, *places: tuple[int, int]) -> Board:
    """The same board after moves at (x, y), black and white in turn."""
    for place in places:
        board.play(board.geometry.point(*place))
    return board


def places(board: Board, mask: int) -> set[tuple[int, int]]:
    """A set of points as (x, y)."""
    return {board.geometry.xy(point) for point in points_of(mask)}


def random_game(size: int, rng: np.random.Generator, moves: int) -> Iterator[Board]:
    """The board after each of so many legal moves or passes; one and the same object."""
    board = Board(size)
    for _ in range(moves):
        legal = points_of(board.legal_moves())
        if legal and rng.random() > 0.02:
            board.play(int(rng.choice(legal)))
        else:
            board.pass_turn()
        yield board
