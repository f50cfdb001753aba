"""The 48 planes of examples/alphago: by hand, under symmetries, and against planes that another
program made of five games.
"""

from __future__ import annotations

import numpy as np
import pytest
from alphago_boards import board_of, places, play, random_game
from support import shared_data

from examples.alphago import planes as p
from examples.alphago.board import WHITE, Board, points_of
from examples.alphago.planes import encode


def of_planes(planes, first, count=8):
    """{(x, y): number of the plane that is 1 there, from 0}; a place has one at most."""
    part = planes[first : first + count]
    assert (part.sum(axis=0) <= 1).all()
    return {(int(x), int(y)): int(plane) for plane, x, y in np.argwhere(part)}


def test_planes_of_a_position_worked_out_by_hand():
    board = board_of(
        """
        . X O . .
        X O . O .
        . X O . .
        . . . . .
        X . . . .
        """
    )
    planes = encode(board)
    assert planes.shape == (48, 5, 5)
    assert planes.dtype == np.uint8
    black, white = {(1, 0), (0, 1), (1, 2), (0, 4)}, {(2, 0), (1, 1), (3, 1), (2, 2)}
    assert of_planes(planes, p.OWN, 2) == {**dict.fromkeys(black, 0), **dict.fromkeys(white, 1)}
    assert planes[p.EMPTY].sum() == 25 - 8
    assert (planes[p.ONES] == 1).all()
    assert not planes[47].any()
    assert of_planes(planes, p.TURNS) == dict.fromkeys(black | white, 7)
    assert of_planes(planes, p.LIBERTIES) == {
        (1, 0): 0, (0, 1): 1, (1, 2): 1, (0, 4): 1, (1, 1): 0, (2, 0): 1, (2, 2): 2, (3, 1): 3,
    }  # fmt: skip
    captures = of_planes(planes, p.CAPTURES)
    assert {place for place, number in captures.items() if number} == {(2, 1)}
    assert (captures[2, 1], len(captures)) == (1, 17)
    # (2, 1) takes one stone and has that liberty; (0, 0) joins three, with the liberty (0, 2).
    assert of_planes(planes, p.SELF_ATARI) == {(2, 1): 0, (0, 0): 2, (3, 0): 0}
    after = of_planes(planes, p.LIBERTIES_AFTER)
    assert after == {
        (0, 0): 0, (3, 0): 0, (4, 0): 1, (2, 1): 0, (4, 1): 1, (0, 2): 2, (3, 2): 1, (4, 2): 2,
        (0, 3): 2, (1, 3): 3, (2, 3): 2, (3, 3): 3, (4, 3): 2, (1, 4): 2, (2, 4): 2, (3, 4): 2,
        (4, 4): 1,
    }  # fmt: skip
    assert planes[p.SENSIBLE].sum() == 17


@pytest.mark.parametrize("length", [5, 6, 7, 8, 9])
def test_counts_of_eight_and_more_share_a_plane(length):
    """A chain on the edge with one liberty; how many it is to take, to save, and its liberties."""
    board = Board(19)
    point = board.geometry.point
    chain = [point(x, 0) for x in range(length)]
    walls = [point(x, 1) for x in range(length)]
    board.set_up(walls, chain)
    planes = encode(board)
    assert of_planes(planes, p.CAPTURES)[length, 0] == min(length, 7)
    assert of_planes(planes, p.LIBERTIES)[0, 1] == min(length + 1, 8) - 1
    # The chain's stones become liberties of the stone that takes them: the last one alone.
    assert of_planes(planes, p.LIBERTIES_AFTER)[length, 0] == 3 - 1
    board.set_up([*walls, point(length + 1, 0), point(length, 1)], chain)
    board.to_move = WHITE
    assert of_planes(encode(board), p.SELF_ATARI) == {}
    board.set_up([*walls, point(length + 1, 0)], chain)
    board.to_move = WHITE
    assert of_planes(encode(board), p.SELF_ATARI)[length, 0] == min(length + 1, 8) - 1
    long = Board(19)
    long.set_up([point(x, 9) for x in range(length)], [])
    assert of_planes(encode(long), p.LIBERTIES_AFTER)[length, 9] == 7


def test_turns_since():
    board = Board(9)
    moves = [(x, y) for y in (2, 6) for x in range(0, 9, 2)]
    play(board, *moves[:8])
    board.pass_turn()
    planes = encode(board)
    expected = {place: min(8 - number, 7) for number, place in enumerate(moves[:8])}
    assert of_planes(planes, p.TURNS) == expected
    # A stone taken and put back has the age of the last time.
    ko = play(board_of(". X O .\nX . X O\n. X O .\n. . . .", WHITE), (1, 1), (3, 3), (0, 3), (2, 1))
    ages = of_planes(encode(ko), p.TURNS)
    assert (ages[2, 1], ages[0, 3], ages[3, 3], ages[1, 0]) == (0, 1, 2, 7)
    assert (1, 1) not in ages


@pytest.mark.parametrize(
    ("diagram", "eyes"),
    [
        (". X . . .\nX X . . .\n. . . . .\n. . . . .\n. . . . .", {(0, 0)}),
        (". X . . .\nX O . . .\n. . . . .\n. . . . .\n. . . . .", set()),
        (". X . . .\nX . . . .\n. . . . .\n. . . . .\n. . . . .", set()),
        # Two eyes that are each other's diagonal points.
        (". X X . .\nX . X . .\nX X . . .\n. . . . .\n. . . . .", {(0, 0), (1, 1)}),
        # Off the edge one bad diagonal point is no harm, two are.
        (". . . . .\n. X X O .\n. X . X .\n. X X X .\n. . . . .", {(2, 2)}),
        (". . . . .\n. X X O .\n. X . X .\n. O X X .\n. . . . .", set()),
    ],
)
def test_own_eyes_are_not_sensible(diagram, eyes):
    board = board_of(diagram)
    assert places(board, p.own_eyes(board)) == eyes
    sensible = places(board, board.legal_moves()) - eyes
    assert {(int(x), int(y)) for x, y in np.argwhere(encode(board)[p.SENSIBLE])} == sensible
    assert p.own_eyes(board_of(diagram, WHITE)) == 0


def test_planes_turn_with_the_board_and_do_not_depend_on_the_colors(rng):
    size = 9
    last = size - 1
    for _ in range(3):
        moves = []
        for board in random_game(size, rng, moves=60):
            played = points_of(board.recent[0])
            moves.append(board.geometry.xy(played[0]) if played else None)
        planes = encode(board)
        for turned, turn in (
            (planes[:, ::-1], lambda x, y: (last - x, y)),
            (planes.transpose(0, 2, 1), lambda x, y: (y, x)),
            (planes, lambda x, y: (x, y)),
        ):
            other = Board(size)
            other.to_move = WHITE
            for move in moves:
                other.pass_turn() if move is None else play(other, turn(*move))
            np.testing.assert_array_equal(encode(other), turned)


def test_packed_planes_come_back(rng):
    planes = rng.integers(0, 2, (3, 48, 19, 19), np.uint8)
    packed = np.array([p.pack(one) for one in planes])
    assert packed.shape == (3, 361, 6)
    back = p.unpack(packed)
    assert back.dtype == np.float32
    assert back.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(back, planes)


def test_all_1033_positions_of_five_games_are_those_of_another_program():
    """RocAlphaGo's planes (its README says how they are laid out), every bit."""
    pytest.importorskip("sgfmill")
    from examples.alphago.records import parse, positions

    folder = shared_data("go/alphago_lee")
    with np.load(shared_data("go/alphago_lee_48planes.npz")) as file:
        count = int(file["shape"][0])
        bits = np.unpackbits(file["states_packed"], axis=1)[:, : 48 * 361]
        expected = bits.reshape(file["shape"])
        actions, names, offsets = file["actions"], file["files"], file["offsets"]
    compared = 0
    for name, (first, moves) in zip(names, offsets):
        record = parse((folder / str(name)).read_bytes(), str(name))
        number = first
        for number, (board, move) in enumerate(positions(record), first):
            assert board.geometry.xy(move) == tuple(actions[number])
            wrong = np.argwhere(encode(board) != expected[number])
            assert not len(wrong), f"{name}, move {number - first + 1}: [plane, x, y] {wrong[:5]}"
            compared += 1
        assert number == first + moves - 1
    assert compared == count == 1033
