"""Encoded positions on disk: written once, checked, read through the page cache.

    8 bytes          b"FCPLANE1"
    2,168 a position  planes, 361 points x 6 bytes (planes.pack); the move x * 19 + y, uint16
    footer           JSON: positions, and of each game its name, its positions, their CRC-32
    16 bytes         length and CRC-32 of the footer, uint32 each, little endian; b"FCPLANE1"

The footer is last so that games are appended as they come; a file is written under another name
and renamed when it is whole. Opening checks the footer and the file's size, `Cache.verify` all.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from examples.alphago.planes import PLANES, encode, pack
from examples.alphago.records import SIZE, parse, positions

MAGIC = b"FCPLANE1"
POINTS = SIZE * SIZE
RECORD = np.dtype([("planes", np.uint8, (POINTS, PLANES // 8)), ("move", "<u2")])
TRAILER = struct.Struct("<II8s")


@dataclass(frozen=True)
class Report:
    """What ``build`` took and what it left out, with reasons."""

    games: int
    positions: int
    refused: tuple[str, ...]


def encode_game(raw: bytes, name: str) -> NDArray[Any]:
    """The records of one SGF game: one a move that is not a pass.

    Raises
    ------
    ValueError
        If it cannot be parsed, or a move is against the rules.
    """
    records = []
    for board, move in positions(parse(raw, name)):
        x, y = board.geometry.xy(move)
        records.append((pack(encode(board)), x * SIZE + y))
    return np.array(records, RECORD)


def build(games: Iterable[tuple[str, bytes]], path: str | PathLike[str]) -> Report:
    """Encode SGF games, (name, content) as ``records.sources`` gives them, into a new file.

    A game that cannot be taken, that has no moves, or whose moves are those of one before it, is
    left out whole and reported.
    """
    partial = f"{os.fspath(path)}.part"
    listed: list[tuple[str, int, int]] = []
    refused: list[str] = []
    first_with: dict[bytes, str] = {}
    with open(partial, "wb") as file:
        file.write(MAGIC)
        for name, raw in games:
            try:
                records = encode_game(raw, name)
            except ValueError as error:
                refused.append(str(error))
                continue
            moves = records["move"].tobytes()
            if not moves or moves in first_with:
                same = f"the moves of {first_with[moves]}" if moves else "no moves"
                refused.append(f"{name}: {same}")
                continue
            first_with[moves] = name
            content = records.tobytes()
            listed.append((name, len(records), zlib.crc32(content)))
            file.write(content)
        _write_footer(file, listed)
    os.replace(partial, path)
    return Report(len(listed), sum(count for _, count, _ in listed), tuple(refused))


def _write_footer(file: BinaryIO, games: list[tuple[str, int, int]]) -> None:
    total = sum(count for _, count, _ in games)
    footer = json.dumps({"positions": total, "games": games}).encode()
    file.write(footer + TRAILER.pack(len(footer), zlib.crc32(footer), MAGIC))


class Cache:
    """An open cache file, memory-mapped.

    Attributes
    ----------
    planes : array (positions, 361, 6)
        uint8, packed; ``planes.unpack`` gives (N, 48, 19, 19).
    moves : array (positions,)
        uint16, x * 19 + y.
    games : list of str
        Names, in order.
    offsets : array (games + 1,)
        Positions of game g are offsets[g] to offsets[g + 1].

    Raises
    ------
    ValueError
        If the file is not such a cache, or was cut or damaged in its footer.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = os.fspath(path)
        footer = self._footer()
        self.games = [str(name) for name, _, _ in footer["games"]]
        self._crcs = [int(crc) for _, _, crc in footer["games"]]
        counts = [int(count) for _, count, _ in footer["games"]]
        self.offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        total = int(self.offsets[-1])
        records: Any = np.empty(0, RECORD)
        if total:
            records = np.memmap(self.path, RECORD, "r", len(MAGIC), (total,))
        self._records = records
        self.planes, self.moves = records["planes"], records["move"]

    def __len__(self) -> int:
        return len(self._records)

    def _footer(self) -> dict[str, Any]:
        size = os.path.getsize(self.path)
        with open(self.path, "rb") as file:
            if size < len(MAGIC) + TRAILER.size or file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{self.path}: not a cache of encoded positions")
            file.seek(size - TRAILER.size)
            length, crc, magic = TRAILER.unpack(file.read(TRAILER.size))
            if magic != MAGIC or length > size - len(MAGIC) - TRAILER.size:
                raise ValueError(f"{self.path}: cut short or damaged at its end; build it anew")
            file.seek(size - TRAILER.size - length)
            raw = file.read(length)
        if zlib.crc32(raw) != crc:
            raise ValueError(f"{self.path}: its list of games is damaged; build it anew")
        footer: dict[str, Any] = json.loads(raw)
        expected = len(MAGIC) + footer["positions"] * RECORD.itemsize + length + TRAILER.size
        if size != expected:
            raise ValueError(f"{self.path}: {size:,} bytes, but its list says {expected:,}")
        return footer

    def verify(self) -> None:
        """Read everything once and compare with the checksums.

        Raises
        ------
        ValueError
            With the name of the first damaged game.
        """
        for game, name in enumerate(self.games):
            content = self._records[self.offsets[game] : self.offsets[game + 1]].tobytes()
            if zlib.crc32(content) != self._crcs[game]:
                raise ValueError(f"{self.path}: game {name} is damaged; build the file anew")
