"""Go positions from diagrams, for the tests of examples/alphago."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from examples.alphago.board import BLACK, Board, points_of  # noqa: E402


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
