"""Ladders of examples/alphago: caught and broken, both sides to move, and given up."""

from __future__ import annotations

import pytest
from alphago_boards import board_of, places, play

from examples.alphago.board import BLACK, WHITE
from examples.alphago.ladder import Reader, ladder_captures, ladder_escapes

# Black catches (2, 2) by (2, 3): the ladder runs down to the right, turn by turn.
LADDER = """
. . . . . . . . .
. . X X . . . . .
. X O . . . . . .
. . . . . . . . .
. . . . . . . . .
. . . . . . . . .
. . . . . . . . .
. . . . . . . . .
. . . . . . . . .
"""


def with_stone(symbol, x, y, diagram=LADDER):
    lines = [line.split() for line in diagram.strip().splitlines()]
    lines[y][x] = symbol
    return "\n".join(" ".join(line) for line in lines)


def captures(board):
    return places(board, ladder_captures(board, board.legal_moves()))


def escapes(board):
    return places(board, ladder_escapes(board, board.legal_moves()))


def test_ladder_to_the_edge_catches():
    board = board_of(LADDER)
    assert captures(board) == {(2, 3)}
    assert escapes(board) == set()
    play(board, (2, 3))
    assert escapes(board) == set()
    assert captures(board) == set()


@pytest.mark.parametrize("breaker", [(4, 4), (5, 5), (6, 6), (5, 4), (7, 6)])
def test_stone_on_the_way_breaks_it(breaker):
    board = board_of(with_stone("O", *breaker))
    assert captures(board) == set()
    play(board, (2, 3))
    assert escapes(board) == {(3, 2)}


@pytest.mark.parametrize("other", [(6, 6), (0, 6), (6, 0)])
def test_stone_that_is_black_or_off_the_way_does_not(other):
    color = "X" if other == (6, 6) else "O"
    board = board_of(with_stone(color, *other))
    assert captures(board) == {(2, 3)}
    play(board, (2, 3))
    assert escapes(board) == set()


def test_capture_of_a_hunter_in_atari_breaks_it():
    diagram = with_stone("O", 0, 2, with_stone("O", 1, 1))
    board = board_of(diagram)
    assert board.atari == 1 << board.geometry.point(1, 2)
    assert captures(board) == set()
    # Where Black first has connected that stone, the ladder works again.
    assert captures(board_of(with_stone("X", 1, 3, diagram))) >= {(2, 3)}


def test_extension_to_three_liberties_escapes():
    board = board_of(
        """
        . . . . .
        . . X . .
        . X O X .
        . . . . .
        . . . . .
        """,
        WHITE,
    )
    assert escapes(board) == {(2, 3)}
    board.to_move = BLACK
    assert captures(board) == set()  # a group in atari is taken, not chased


def test_colors_are_treated_alike():
    swapped = LADDER.translate(str.maketrans("XO", "OX"))
    assert captures(board_of(swapped, WHITE)) == {(2, 3)}


def test_what_is_read_too_deep_or_too_long_counts_as_caught():
    board = board_of(with_stone("O", 6, 6))
    move, prey = board.geometry.point(2, 3), board.geometry.point(2, 2)
    whole = Reader()
    assert not whole.captures(board, move, prey)
    assert whole.moves_read > 10
    assert Reader().captures(board, move, prey, depth=3)
    short = Reader(max_moves=5)
    assert short.captures(board, move, prey)
    assert short.moves_read == 5
    play(board, (2, 3))
    extension = board.geometry.point(3, 2)
    assert Reader().escapes(board, extension, prey)
    assert not Reader().escapes(board, extension, prey, depth=2)
    assert not Reader(max_moves=5).escapes(board, extension, prey)
