"""Ladders: whether a move captures a group, or saves it, when every reply is an atari.

A hunter catches a group of two liberties in a ladder if one of his two moves leaves it with one
and no reply of the prey escapes. The prey's replies are the last liberty, and capturing a hunter's
group in atari next to it. A reply escapes if the prey then has three liberties, or two and neither
is a move that catches it. Two of AlphaGo's planes say where such moves are.

The definition, and reading no further than 80 moves, are those of RocAlphaGo (see planes.py). What
branches too much is given up, as caught: `MAX_MOVES_READ`.
"""

from __future__ import annotations

from examples.alphago.board import Board, points_of

MAX_DEPTH = 80
# The most that one question needed in 125,696 positions of 600 games was 3,352 moves, 0.02 s; a
# position made to branch is given up after about 0.15 s.
MAX_MOVES_READ = 20_000


class Reader:
    """Reads ladders of one position and counts the moves it plays in its head."""

    def __init__(self, max_moves: int = MAX_MOVES_READ) -> None:
        self.max_moves = max_moves
        self.moves_read = 0

    def captures(self, board: Board, move: int, prey: int, depth: int = MAX_DEPTH) -> bool:
        """Whether `move` by the player to move catches the group of two liberties at `prey`."""
        if not board.is_legal(move):
            return False
        if depth <= 0 or self.moves_read >= self.max_moves:
            return True
        self.moves_read += 1
        after = board.copy()
        after.place(move)
        stones, liberties = after.groups[after.group_of[prey]]
        hunters = after.stones[1 - after.to_move]
        for stone in points_of(after.geometry.around(stones) & hunters & after.atari):
            liberties |= after.liberties(stone)
        return not any(
            self.escapes(after, reply, prey, depth - 1) for reply in points_of(liberties)
        )

    def escapes(self, board: Board, move: int, prey: int, depth: int = MAX_DEPTH) -> bool:
        """Whether `move` by the player to move saves his group in atari at `prey`."""
        if depth <= 0 or self.moves_read >= self.max_moves or not board.is_legal(move):
            return False
        self.moves_read += 1
        after = board.copy()
        after.place(move)
        liberties = points_of(after.liberties(prey))
        if len(liberties) != 2:
            return len(liberties) > 2
        return not any(self.captures(after, hunt, prey, depth - 1) for hunt in liberties)


def ladder_captures(board: Board, legal: int) -> int:
    """The legal moves that catch one of the opponent's groups of two liberties in a ladder."""
    found = 0
    opponent = board.stones[1 - board.to_move]
    for number, (stones, liberties) in board.groups.items():
        if stones & opponent and liberties.bit_count() == 2:
            for move in points_of(liberties & legal & ~found):
                if Reader().captures(board, move, number):
                    found |= 1 << move
    return found


def ladder_escapes(board: Board, legal: int) -> int:
    """The legal moves that save a group in atari by its last liberty."""
    found = 0
    for number in {board.group_of[p] for p in points_of(board.atari & board.stones[board.to_move])}:
        for move in points_of(board.groups[number][1] & legal & ~found):
            if Reader().escapes(board, move, number):
                found |= 1 << move
    return found
