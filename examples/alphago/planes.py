"""The 48 feature planes of a position, as AlphaGo's policy network takes them.

D. Silver et al. 2016, "Mastering the game of Go with deep neural networks and tree search",
Extended Data table 2. `encode(board)` is (48, size, size), uint8 of 0 and 1, indexed
[plane, x, y] with x the SGF column and y the SGF row, counted from the top left corner:

    0..2    stones of the player to move, of the opponent, no stone
    3       ones
    4..11   turns since a stone was played: 1, 2, .. 7, 8 and more
    12..19  liberties of the group at a stone: 1, 2, .. 7, 8 and more
    20..27  stones a legal move captures: 0, 1, .. 6, 7 and more
    28..35  stones of the group that a legal move leaves with one liberty: 1, .. 7, 8 and more
    36..43  liberties of the group that a legal move makes: 1, 2, .. 7, 8 and more
    44, 45  a legal move catches a group in a ladder; saves one from being caught in a ladder
    46      sensible: legal, and does not fill an own eye
    47      zeros

Where the paper leaves a choice, this follows RocAlphaGo, whose planes of five games the tests
compare with: plane 20 is 1 at every legal move that captures nothing, there is no superko, a ladder
is read 80 moves deep.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.alphago.board import Board, points_of
from examples.alphago.ladder import ladder_captures, ladder_escapes

PLANES = 48
OWN, OPPONENT, EMPTY, ONES, TURNS, LIBERTIES, CAPTURES, SELF_ATARI, LIBERTIES_AFTER = (
    0, 1, 2, 3, 4, 12, 20, 28, 36,
)  # fmt: skip
LADDER_CAPTURE, LADDER_ESCAPE, SENSIBLE = 44, 45, 46


def encode(board: Board) -> NDArray[np.uint8]:
    """The planes of a position, for the player to move.

    Returns
    -------
    array (48, size, size)
        uint8, 0 or 1.

    Examples
    --------
    >>> from examples.alphago.board import Board
    >>> board = Board()
    >>> board.play(board.geometry.point(3, 3))
    >>> planes = encode(board)
    >>> planes.shape, int(planes[1].sum()), int(planes[4, 3, 3]), int(planes[46].sum())
    ((48, 19, 19), 1, 1, 360)
    """
    return as_arrays(plane_sets(board), board.geometry.size)


def as_arrays(sets: list[int], size: int) -> NDArray[np.uint8]:
    """Sets of points as (number of sets, size, size) of 0 and 1."""
    stride = size + 1
    length = -(-size * stride // 8)
    raw = np.frombuffer(b"".join(mask.to_bytes(length, "little") for mask in sets), np.uint8)
    bits = np.unpackbits(raw.reshape(len(sets), length), axis=1, bitorder="little")
    return bits[:, : size * stride].reshape(len(sets), size, stride)[:, :, :size]


def plane_sets(board: Board) -> list[int]:
    """The planes as sets of points."""
    sets = [0] * PLANES
    own, opponent = board.stones[board.to_move], board.stones[1 - board.to_move]
    sets[OWN], sets[OPPONENT], sets[EMPTY] = own, opponent, board.empty
    sets[ONES] = board.geometry.all
    older = own | opponent
    for turns, placed in enumerate(board.recent):
        sets[TURNS + turns] = placed & older
        older &= ~placed
    sets[TURNS + 7] = older
    for stones, liberties in board.groups.values():
        sets[LIBERTIES + min(liberties.bit_count(), 8) - 1] |= stones
    legal = board.legal_moves()
    _move_planes(board, legal, sets)
    sets[LADDER_CAPTURE] = ladder_captures(board, legal)
    sets[LADDER_ESCAPE] = ladder_escapes(board, legal)
    sets[SENSIBLE] = legal & ~own_eyes(board)
    return sets


def _move_planes(board: Board, legal: int, sets: list[int]) -> None:
    """Captures, self-atari and liberties after the move, of all legal moves.

    A move next to no own stone that captures nothing makes a group of one stone, whose liberties
    are the empty points beside it: those are counted for all such moves at once.
    """
    geometry, own = board.geometry, board.stones[board.to_move]
    capturing = 0
    for number in {board.group_of[p] for p in points_of(board.atari & ~own)}:
        capturing |= board.groups[number][1]
    single = legal & ~(geometry.around(own) | capturing)
    for move in points_of(legal & ~single):
        captured, stones, liberties = after_move(board, move)
        bit = 1 << move
        sets[CAPTURES + min(captured, 7)] |= bit
        sets[LIBERTIES_AFTER + min(liberties, 8) - 1] |= bit
        if liberties == 1:
            sets[SELF_ATARI + min(stones, 8) - 1] |= bit
    sets[CAPTURES] |= single
    for count, points in enumerate(_by_empty_neighbours(board, single)):
        sets[LIBERTIES_AFTER + count] |= points
    sets[SELF_ATARI] |= sets[LIBERTIES_AFTER] & single


def _by_empty_neighbours(board: Board, points: int) -> list[int]:
    """Those of `points` with 1, 2, 3 and 4 empty neighbours."""
    empty, stride = board.empty, board.geometry.stride
    at_least = [points, 0, 0, 0, 0]  # with 0, 1, 2, 3, 4 and more
    for beside in (empty << 1, empty >> 1, empty << stride, empty >> stride):
        for count in (4, 3, 2, 1):
            at_least[count] |= at_least[count - 1] & beside
    return [at_least[1] & ~at_least[2], at_least[2] & ~at_least[3],
            at_least[3] & ~at_least[4], at_least[4]]  # fmt: skip


def after_move(board: Board, move: int) -> tuple[int, int, int]:
    """(stones captured, stones of the group made, its liberties) of a legal move."""
    geometry, groups = board.geometry, board.groups
    own, bit = board.stones[board.to_move], 1 << move
    stones, captured = bit, 0
    liberties = geometry.near[move] & board.empty
    for neighbour in geometry.neighbours[move]:
        number = board.group_of[neighbour]
        if number >= 0:
            its_stones, its_liberties = groups[number]
            if own >> neighbour & 1:
                stones |= its_stones
                liberties |= its_liberties
            elif its_liberties == bit:
                captured |= its_stones
    if captured:
        liberties |= captured & geometry.around(stones)
    return captured.bit_count(), stones.bit_count(), (liberties & ~bit).bit_count()


def own_eyes(board: Board) -> int:
    """Empty points that are true eyes of the player to move.

    All neighbours are own stones; of the diagonal points none, and off the edge at most one, is an
    opponent's stone or an empty point that is not itself such an eye.
    """
    own = board.stones[board.to_move]
    eye_shaped = board.empty & ~board.geometry.around(board.geometry.all & ~own)
    eyes = (p for p in points_of(eye_shaped) if _is_eye(board, p, eye_shaped, []))
    return sum(1 << point for point in eyes)


def _is_eye(board: Board, point: int, eye_shaped: int, asked: list[int]) -> bool:
    """Whether a point of eye shape is a true eye; points being `asked` about count as such."""
    allowed = 1 if len(board.geometry.neighbours[point]) == 4 else 0
    own = board.stones[board.to_move]
    asked.append(point)
    for other in board.geometry.diagonals[point]:
        if own >> other & 1 or other in asked:
            continue
        if not (eye_shaped >> other & 1 and _is_eye(board, other, eye_shaped, asked)):
            allowed -= 1
            if allowed < 0:
                break
    asked.pop()
    return allowed >= 0


def pack(planes: NDArray[Any]) -> NDArray[np.uint8]:
    """Planes (48, size, size) as bits, (size * size, 6): the 48 of a point side by side."""
    return np.packbits(planes.reshape(PLANES, -1).T, axis=1)


def unpack(packed: NDArray[np.uint8], dtype: Any = np.float32) -> NDArray[Any]:
    """Packed planes (N, size * size, 6) as (N, 48, size, size), channels last in memory."""
    count, points, _ = packed.shape
    size = round(points**0.5)
    bits: NDArray[Any] = np.unpackbits(packed, axis=2).astype(dtype)
    return bits.reshape(count, size, size, PLANES).transpose(0, 3, 1, 2)
