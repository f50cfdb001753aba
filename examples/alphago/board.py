"""A Go position: stones, groups with their liberties, ko; what may be played, and playing it.

Sets of points are Python integers, one bit a point, so that neighbours of a whole set are four
shifts and counting is `int.bit_count`. Point (x, y) is bit `x * (size + 1) + y`: the spare bit
behind each column stays 0, so that no shift carries a stone to the other edge.

    bit      0 1 2 .. 18 (19) 20 21 .. 38 (39) 40 ..       x = SGF column, y = SGF row (top is 0)
    (x, y)   column x = 0      column x = 1    x = 2

A group is known by the number of one of its points: `group_of[point]` is that number, or -1 where
the board is empty, and `groups[number]` is (stones, liberties). Playing touches only the groups
next to the move and copying is two shallow copies, which is what reading ladders needs.

Rules: captures, simple ko, no suicide. Not handled: superko, scoring.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

BLACK, WHITE = 0, 1
COLORS = ("black", "white")
# Planes tell the age of a stone up to 8 turns and more; what is older need not be remembered.
REMEMBERED_MOVES = 7


def points_of(mask: int) -> list[int]:
    """The points of a set, in increasing order."""
    points = []
    while mask:
        lowest = mask & -mask
        points.append(lowest.bit_length() - 1)
        mask ^= lowest
    return points


class Geometry:
    """What depends on the size of the board alone; `Geometry.of(size)` makes one a size."""

    def __init__(self, size: int) -> None:
        if not 2 <= size <= 19:
            raise ValueError(f"Geometry: size={size!r}, but a board has 2 to 19 lines")
        self.size, self.stride = size, size + 1
        on_board = [self.point(x, y) for x in range(size) for y in range(size)]
        self.all = sum(1 << point for point in on_board)
        count = size * self.stride
        self.neighbours: list[tuple[int, ...]] = [()] * count
        self.diagonals: list[tuple[int, ...]] = [()] * count
        self.near = [0] * count  # neighbours as a set
        for point in on_board:
            self.neighbours[point] = self._present(point, (-self.stride, -1, 1, self.stride))
            steps = (-self.stride - 1, -self.stride + 1, self.stride - 1, self.stride + 1)
            self.diagonals[point] = self._present(point, steps)
            self.near[point] = sum(1 << neighbour for neighbour in self.neighbours[point])

    @staticmethod
    @lru_cache
    def of(size: int) -> Geometry:
        return Geometry(size)

    def _present(self, point: int, steps: Iterable[int]) -> tuple[int, ...]:
        around = (point + step for step in steps)
        return tuple(other for other in around if other >= 0 and self.all >> other & 1)

    def point(self, x: int, y: int) -> int:
        """The number of column x, row y."""
        if not (0 <= x < self.size and 0 <= y < self.size):
            raise ValueError(f"point: ({x}, {y}) is not on a board of {self.size} lines")
        return x * self.stride + y

    def xy(self, point: int) -> tuple[int, int]:
        """(column, row) of a point."""
        return divmod(point, self.stride)

    def around(self, mask: int) -> int:
        """All neighbours of a set's points; those inside the set too if they have one there."""
        stride = self.stride
        return (mask << 1 | mask >> 1 | mask << stride | mask >> stride) & self.all


class Board:
    """A position, changed in place by `play` and `pass_turn`.

    Attributes
    ----------
    stones : list of int
        The sets of black and white stones.
    to_move : int
        BLACK or WHITE.
    groups : dict of int to (int, int)
        Number of a group to its stones and its liberties, as sets.
    group_of : list of int
        Point to the number of its group, -1 where it is empty.
    atari : int
        The stones of all groups with one liberty.
    ko : int
        The set of the one point that may not be retaken now, or 0.
    recent : tuple of int
        What the last turns placed, latest first; 0 for a pass.
    """

    __slots__ = (
        "atari",
        "geometry",
        "group_of",
        "groups",
        "ko",
        "recent",
        "stones",
        "to_move",
    )

    def __init__(self, size: int = 19) -> None:
        self.geometry = Geometry.of(size)
        self.stones = [0, 0]
        self.to_move = BLACK
        self.groups: dict[int, tuple[int, int]] = {}
        self.group_of = [-1] * (size * self.geometry.stride)
        self.atari = 0
        self.ko = 0
        self.recent: tuple[int, ...] = ()

    def copy(self) -> Board:
        """An independent copy."""
        other = Board.__new__(Board)
        other.geometry = self.geometry
        other.stones = self.stones.copy()
        other.to_move = self.to_move
        other.groups = self.groups.copy()
        other.group_of = self.group_of.copy()
        other.atari, other.ko, other.recent = self.atari, self.ko, self.recent
        return other

    @property
    def empty(self) -> int:
        """The set of empty points."""
        return self.geometry.all & ~(self.stones[BLACK] | self.stones[WHITE])

    def liberties(self, point: int) -> int:
        """The liberties of the group that has a stone at `point`."""
        return self.groups[self.group_of[point]][1]

    def is_legal(self, point: int) -> bool:
        """Whether the player to move may play at `point`, a point of the board."""
        bit = 1 << point
        occupied = self.stones[BLACK] | self.stones[WHITE]
        if bit & (occupied | self.ko):
            return False
        if self.geometry.near[point] & ~occupied:
            return True
        own = self.stones[self.to_move]
        for neighbour in self.geometry.neighbours[point]:
            liberties = self.groups[self.group_of[neighbour]][1]
            # Connected to a group with another liberty, or the last liberty of an opponent's.
            if (liberties != bit) == bool(own >> neighbour & 1):
                return True
        return False

    def legal_moves(self) -> int:
        """The set of points where the player to move may play."""
        empty = self.empty
        open_points = empty & self.geometry.around(empty)
        # A ko is among the others: what was captured there had no empty neighbour.
        closed = [point for point in points_of(empty & ~open_points) if self.is_legal(point)]
        return open_points | sum(1 << point for point in closed)

    def play(self, point: int) -> None:
        """Place a stone of the player to move, capture, and give the turn to the other.

        Raises
        ------
        ValueError
            If the point is occupied, forbidden by ko, or a suicide.
        """
        if not self.is_legal(point):
            bit, place = 1 << point, self.geometry.xy(point)
            reason = "is a suicide" if bit & self.empty else "is occupied"
            reason = "retakes a ko at once" if bit & self.ko else reason
            raise ValueError(f"play: {COLORS[self.to_move]} at {place} {reason}")
        self.place(point)

    def place(self, point: int) -> None:
        """`play`, where the move is known to be legal."""
        color, bit = self.to_move, 1 << point
        self.stones[color] |= bit
        own = self.stones[color]
        groups, group_of = self.groups, self.group_of
        stones, merged, touched, captured = bit, [], [], 0
        liberties = self.geometry.near[point] & ~(own | self.stones[1 - color])
        for neighbour in self.geometry.neighbours[point]:
            group = group_of[neighbour]
            if group < 0:
                continue
            its_stones, its_liberties = groups[group]
            if own >> neighbour & 1:
                stones |= its_stones
                liberties |= its_liberties
                merged.append(group)
            else:
                groups[group] = its_stones, its_liberties & ~bit
                touched.append(group)
                if its_liberties & ~bit == 0:
                    captured |= its_stones
        number = self._merge(point, merged, stones)
        groups[number] = stones, liberties & ~bit
        touched.append(number)
        self.ko = 0
        if captured:
            touched += self._remove(captured)
            alone = stones == bit and groups[number][1] == captured
            self.ko = captured if alone and captured.bit_count() == 1 else 0
        self._note_atari(touched)
        self.recent = (bit, *self.recent[: REMEMBERED_MOVES - 1])
        self.to_move = 1 - color

    def _merge(self, point: int, merged: list[int], stones: int) -> int:
        """Give all `stones` one number, that of the largest group; the number."""
        if not merged:
            self.group_of[point] = point
            return point
        groups, group_of = self.groups, self.group_of
        number = merged[0]
        if len(merged) > 1:
            number = max(merged, key=lambda group: groups[group][0].bit_count())
            for group in merged:
                if group != number and group in groups:
                    for stone in points_of(groups.pop(group)[0]):
                        group_of[stone] = number
        group_of[point] = number
        return number

    def _remove(self, captured: int) -> list[int]:
        """Take stones of the player not to move off the board; the groups that gain liberties."""
        groups, group_of = self.groups, self.group_of
        self.stones[1 - self.to_move] &= ~captured
        self.atari &= ~captured
        points = points_of(captured)
        for point in points:
            groups.pop(group_of[point], None)
            group_of[point] = -1
        gaining = []
        for point in points:
            for neighbour in self.geometry.neighbours[point]:
                group = group_of[neighbour]
                if group >= 0:
                    stones, liberties = groups[group]
                    groups[group] = stones, liberties | 1 << point
                    gaining.append(group)
        return gaining

    def _note_atari(self, changed: list[int]) -> None:
        for group in changed:
            if group in self.groups:
                stones, liberties = self.groups[group]
                if liberties & (liberties - 1):
                    self.atari &= ~stones
                else:
                    self.atari |= stones

    def pass_turn(self) -> None:
        """Give the turn to the other player; a ko may be retaken after it."""
        self.ko = 0
        self.recent = (0, *self.recent[: REMEMBERED_MOVES - 1])
        self.to_move = 1 - self.to_move

    def set_up(self, black: Iterable[int], white: Iterable[int]) -> None:
        """Begin anew from stones that were not played one by one, such as a handicap's.

        They count as old (8 turns and more); whose turn it is does not change.

        Raises
        ------
        ValueError
            If a point has two stones, or a group no liberty.
        """
        masks = [sum({1 << point for point in points}) for points in (black, white)]
        if masks[BLACK] & masks[WHITE]:
            twice = self.geometry.xy(points_of(masks[BLACK] & masks[WHITE])[0])
            raise ValueError(f"set_up: a black and a white stone at {twice}")
        self.stones, self.groups, self.atari = masks, {}, 0
        self.ko, self.recent = 0, ()
        self.group_of = [-1] * len(self.group_of)
        for mask in masks:
            for point in points_of(mask):
                if self.group_of[point] < 0:
                    self._set_up_group(point, mask)
        self._note_atari(list(self.groups))

    def _set_up_group(self, point: int, mask: int) -> None:
        stones, grown = 0, 1 << point
        while grown != stones:
            stones = grown
            grown |= self.geometry.around(stones) & mask
        liberties = self.geometry.around(stones) & self.empty
        if not liberties:
            raise ValueError(f"set_up: the stone at {self.geometry.xy(point)} has no liberty")
        self.groups[point] = stones, liberties
        for stone in points_of(stones):
            self.group_of[stone] = point
