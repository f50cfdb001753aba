"""Game records in SGF: from files, folders and zip archives to positions with the move played.

sgfmill parses. Only 19x19 games whose stones are all set up in the root node are taken; a handicap
is such a set-up. A pass is a turn but no training pair. Who moves is what the record says: where
one player moves twice, the other is taken to have passed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from examples.alphago.board import BLACK, WHITE, Board

SIZE = 19
# A record of a game has a few thousand bytes; what is far larger is none.
MAX_BYTES = 1 << 20
Point = tuple[int, int]  # SGF column and row, (0, 0) at the top left


@dataclass(frozen=True)
class Record:
    """A game: the stones set up before it, and its moves as (color, point or None for a pass)."""

    name: str
    black: tuple[Point, ...]
    white: tuple[Point, ...]
    moves: tuple[tuple[int, Point | None], ...]


def parse(raw: bytes, name: str = "game") -> Record:
    """The record of one SGF game, its main line.

    Raises
    ------
    ValueError
        If it is no SGF, not of 19x19, or sets stones up after the root node; named by ``name``.
    """
    from sgfmill import sgf, sgf_moves

    try:
        game = sgf.Sgf_game.from_bytes(raw)
        if game.get_size() != SIZE:
            raise ValueError(f"a board of {game.get_size()} lines, not of {SIZE}")
        board, plays = sgf_moves.get_setup_and_moves(game)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    stones: dict[str, list[Point]] = {"b": [], "w": []}
    for color, place in board.list_occupied_points():
        stones[color].append(_from_sgfmill(place))
    moves = (
        (BLACK if color == "b" else WHITE, None if place is None else _from_sgfmill(place))
        for color, place in plays
    )
    return Record(name, tuple(stones["b"]), tuple(stones["w"]), tuple(moves))


def _from_sgfmill(place: tuple[int, int]) -> Point:
    """sgfmill counts (row, column) from the bottom left."""
    row, column = place
    return column, SIZE - 1 - row


def positions(record: Record) -> Iterator[tuple[Board, int]]:
    """Each position with the point that was played in it.

    The board is one and the same throughout: use it before asking for the next.

    Raises
    ------
    ValueError
        At a move against the rules, with its number.
    """
    board = Board(SIZE)
    point = board.geometry.point
    board.set_up(
        [point(x, y) for x, y in record.black],
        [point(x, y) for x, y in record.white],
    )
    if record.moves:
        board.to_move = record.moves[0][0]
    for number, (color, place) in enumerate(record.moves, 1):
        if color != board.to_move:
            board.pass_turn()
        if place is None:
            board.pass_turn()
            continue
        move = point(*place)
        if not board.is_legal(move):
            raise ValueError(f"{record.name}: move {number} at {place} is against the rules")
        yield board, move
        board.place(move)


def sources(path: str | PathLike[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the .sgf files in a folder, in a zip archive, or of one file; by name.

    Raises
    ------
    ValueError
        If there is none, or one is larger than a game's record can be.
    """
    path = Path(path)
    found = False
    for name, size, read in _entries(path):
        found = True
        if size > MAX_BYTES:
            raise ValueError(f"{name} in {path}: {size:,} bytes are no game's record")
        yield name, read()
    if not found:
        raise ValueError(f"{path}: no .sgf file is there")


def _entries(path: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """(name, size in bytes, function that reads it) of each .sgf file."""
    if path.is_dir():
        for file in sorted(path.rglob("*.sgf")):
            yield str(file.relative_to(path)), file.stat().st_size, file.read_bytes
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if entry.filename.endswith(".sgf"):
                    yield entry.filename, entry.file_size, partial(archive.read, entry)
    elif path.suffix == ".sgf" and path.exists():
        yield path.name, path.stat().st_size, path.read_bytes
    else:
        raise ValueError(f"{path}: a folder, a .zip or an .sgf file is needed")
