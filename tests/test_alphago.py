"""Go rules and the 48 planes of examples/alphago: by hand, by brute force, under symmetries, and
against planes that another program made of five games.
"""

from __future__ import annotations

import numpy as np
import pytest
from alphago_boards import board_of, places, play
from support import shared_data

from examples.alphago import planes as p
from examples.alphago.board import BLACK, WHITE, Board, Geometry, points_of
from examples.alphago.planes import encode

# Rules


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


def random_game(size, rng, moves):
    board = Board(size)
    for _ in range(moves):
        legal = points_of(board.legal_moves())
        if legal and rng.random() > 0.02:
            board.play(int(rng.choice(legal)))
        else:
            board.pass_turn()
        yield board


# Planes


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
