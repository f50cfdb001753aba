"""Go rules of examples/alphago: by hand, and random games against a position made anew."""

from __future__ import annotations

import pytest
from alphago_boards import board_of, places, play, random_game

from examples.alphago.board import BLACK, WHITE, Board, Geometry, points_of


def test_captures():
    board = board_of(
        """
        . X X . .
        X O O . .
        . X X . .
        . . . X .
        . . X O .
        """
    )
    play(board, (3, 1))
    assert places(board, board.stones[WHITE]) == {(3, 4)}
    around = {(2, 1), (4, 1), (3, 0), (3, 2)}
    assert places(board, board.liberties(board.geometry.point(3, 1))) == around


def test_capture_of_three_groups_by_one_stone_is_no_ko():
    board = board_of(
        """
        O X . . .
        . O X . .
        O X . . .
        X . . . .
        . . . . .
        """
    )
    play(board, (0, 1))
    assert (board.stones[WHITE], board.ko) == (0, 0)
    assert set(board.groups) == {board.group_of[x] for x in points_of(board.stones[BLACK])}


def test_ko_forbids_the_next_move_only():
    board = board_of(
        """
        . X O . .
        X . X O .
        . X O . .
        . . . . .
        . . . . .
        """,
        WHITE,
    )
    play(board, (1, 1))
    assert places(board, board.stones[BLACK]) == {(1, 0), (0, 1), (1, 2)}
    assert places(board, board.ko) == {(2, 1)}
    retake = board.geometry.point(2, 1)
    assert not board.legal_moves() >> retake & 1
    with pytest.raises(ValueError, match=r"black at \(2, 1\) retakes a ko at once"):
        board.play(retake)
    play(board, (4, 4), (4, 0), (2, 1))
    assert places(board, board.ko) == {(1, 1)}
    board.pass_turn()
    assert board.ko == 0


def test_suicide_of_a_stone_and_of_a_group_is_illegal():
    board = board_of(
        """
        . O . . O
        O . . O .
        . . . O X
        . . O O X
        . . . O X
        """
    )
    for place in ((0, 0), (4, 1)):
        with pytest.raises(ValueError, match=f"{place[0]}, {place[1]}.*is a suicide"):
            play(board, place)
        assert place not in places(board, board.legal_moves())
    with pytest.raises(ValueError, match="is occupied"):
        play(board, (1, 0))
    play(board, (2, 2), (4, 1))
    assert places(board, board.stones[BLACK]) == {(2, 2)}


def test_snapback():
    board = board_of(
        """
        X O . . X .
        X O O O X .
        X X X X . .
        . . . . . .
        . . . . . .
        . . . . . .
        """
    )
    play(board, (2, 0), (3, 0))  # thrown in, and taken by five stones that are left in atari
    assert (board.stones[WHITE].bit_count(), board.ko) == (5, 0)
    assert board.atari == board.stones[WHITE]
    play(board, (2, 0))
    assert board.stones[WHITE] == 0


def test_set_up_refuses_what_cannot_stand():
    board = Board(5)
    with pytest.raises(ValueError, match="no liberty"):
        board_of("X O\nO O")
    with pytest.raises(ValueError, match=r"a black and a white stone at \(1, 2\)"):
        board.set_up([board.geometry.point(1, 2)], [board.geometry.point(1, 2)])
    with pytest.raises(ValueError, match="size=20"):
        Geometry.of(20)
    with pytest.raises(ValueError, match=r"\(5, 0\) is not on a board of 5 lines"):
        board.geometry.point(5, 0)


@pytest.mark.parametrize("size", [2, 5, 9])
def test_every_group_and_liberty_of_random_games(size, rng):
    """The incremental state against one made anew from the stones alone, until moves run out."""
    for board in random_game(size, rng, moves=6 * size * size):
        anew = Board(size)
        anew.set_up(*(points_of(mask) for mask in board.stones))
        assert set(board.groups.values()) == set(anew.groups.values())
        assert board.atari == anew.atari
        for number, (stones, _) in board.groups.items():
            assert {board.group_of[point] for point in points_of(stones)} == {number}
        assert {point for point, number in enumerate(board.group_of) if number >= 0} == {
            point for mask in board.stones for point in points_of(mask)
        }
