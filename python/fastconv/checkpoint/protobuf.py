"""The wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding): a message
is a row of fields, each a varint of (number << 3 | wire type) and a value.

Only what a reader of a known message needs; the caller knows which number means what. Values of
messages and packed numbers are slices of the file's bytes, never copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
NAMES = {VARINT: "a varint", FIXED64: "64 bits", BYTES: "bytes", FIXED32: "32 bits"}


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """(value, position after it): seven bits a byte, the lowest first, at most ten bytes."""
    value = 0
    for index in range(10):
        if position + index >= len(view):
            raise ValueError("cut short within a number")
        byte = view[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), position + index + 1
    raise ValueError("a number has more than ten bytes")


def fields(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field: an int for a varint, else a slice of ``view``."""
    position = 0
    while position < len(view):
        tag, position = read_varint(view, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = read_varint(view, position)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, position = read_varint(view, position)
        elif wire in FIXED_BYTES:
            length = FIXED_BYTES[wire]
        else:
            raise ValueError(f"field {number} has wire type {wire}, which no message has")
        if length > len(view) - position:
            raise ValueError(
                f"field {number} has {length} bytes, but {len(view) - position} are left"
            )
        yield number, wire, view[position : position + length]
        position += length


def expect(number: int, wire: int, *wanted: int) -> None:
    """Fail unless a field that the caller knows is of a wire type that it can have."""
    if wire not in wanted:
        names = " or ".join(NAMES[w] for w in wanted)
        raise ValueError(f"field {number} holds {NAMES[wire]}, but {names} are expected")


def packed_varints(wire: int, value: Any) -> Iterator[int]:
    """The numbers of a repeated integer field, whether it is packed or not."""
    if wire == VARINT:
        yield value
        return
    position = 0
    while position < len(value):
        number, position = read_varint(value, position)
        yield number
