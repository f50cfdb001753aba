"""Where a program's values lie: one arena, whose parts are used again when their values are dead.

    values      v1 = conv(v0)   v2 = conv(v1)   v3 = concat(v1, v2)   v4 = pool(v3)
    storage     v0: [v0]        v1, v2: channels of v3's memory       v4: [v4]
    lifetimes   v0: 0..0        v3: 0..3, from its first part on      v4: 3..end

A part of a concatenation is written into its channels at once. A convolution may write over the
residual that it is the last to read, element by element. Nothing else shares memory while it lives.
Storage is placed largest first at the lowest address that is free for its lifetime (Pisarchyk, Lee
2020, "Efficient memory management for deep neural net inference", greedy by size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastconv.fusion import Program, Step
from fastconv.graph import Shape
from fastconv.ops.devices import cuda_core

ALIGNMENT_BYTES = 256  # a multiple of cache lines, of vectors, and of what a GPU reads at once
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Place(NamedTuple):
    """A value's storage, named by the value that fills it, and its first channel there."""

    storage: int
    channel: int


@dataclass(frozen=True)
class MemoryPlan:
    """`offsets` and `elements` are in elements of the arena; `places` has every value but views.

    `unshared` is what the values would take if each had memory of its own; `item` the bytes of an
    element.
    """

    places: dict[int, Place]
    offsets: dict[int, int]
    elements: int
    unshared: int
    item: int


def plan_memory(program: Program, item: int) -> MemoryPlan:
    """Place all values, of `item` bytes an element; every storage is aligned."""
    alignment = ALIGNMENT_BYTES // item
    parts = _parts_of_concatenations(program)
    last_read = _last_reads(program)
    over = _residuals_written_over(program, parts, last_read)
    places: dict[int, Place] = {}

    def place(value: int) -> Place:
        if value in parts:
            whole, begin = parts[value]
            storage, channel = place(whole)
            return Place(storage, channel + begin)
        return place(over[value]) if value in over else Place(value, 0)

    lives: dict[int, tuple[int, int]] = {}

    def lives_at(value: int, first: int, last: int) -> None:
        storage = places.setdefault(value, place(value)).storage
        begin, end = lives.get(storage, (first, last))
        lives[storage] = (min(begin, first), max(end, last))

    lives_at(0, -1, last_read.get(0, -1))
    for index, step in enumerate(program.steps):
        lives_at(step.output, index, last_read.get(step.output, index))
    sizes = {storage: _padded(program.shapes[storage], alignment) for storage in lives}
    offsets = _place_by_size(sizes, lives)
    return MemoryPlan(
        places,
        offsets,
        max((offsets[storage] + size for storage, size in sizes.items()), default=0),
        sum(_padded(program.shapes[value], alignment) for value in places),
        item,
    )


def _padded(shape: Shape, alignment: int) -> int:
    return -(-math.prod(shape) // alignment) * alignment


def _parts_of_concatenations(program: Program) -> dict[int, tuple[int, int]]:
    """value -> (the concatenation that it is written into at once, its first channel there).

    Each value goes into one; the input and views are copied.
    """
    made = {step.output for step in program.steps}
    parts: dict[int, tuple[int, int]] = {}
    for step in program.steps:
        if step.op != "concat":
            continue
        channel = 0
        for value in step.inputs:
            if value in made and value not in parts:
                parts[value] = (step.output, channel)
            channel += program.shapes[value][1]
    return parts


def _last_reads(program: Program) -> dict[int, int]:
    """value -> the index of the last step that reads it or a view of it; results live to the
    end."""
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        for value in step.reads:
            last[program.views.get(value, value)] = index
    for value in program.outputs:
        last[program.views.get(value, value)] = len(program.steps)
    return last


def _residuals_written_over(
    program: Program, parts: dict[int, tuple[int, int]], last_read: dict[int, int]
) -> dict[int, int]:
    """A convolution's result -> its residual, where their memory may be the same."""
    concatenations = {step.output for step in program.steps if step.op == "concat"}
    over: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        value = step.residual
        if value is None or value in program.views or value in step.inputs or step.pooled:
            continue
        apart = {value, step.output}.isdisjoint(parts) and value not in concatenations
        if apart and last_read[value] == index:
            over[step.output] = value
    return over


def _place_by_size(sizes: dict[int, int], lives: dict[int, tuple[int, int]]) -> dict[int, int]:
    offsets: dict[int, int] = {}
    for storage in sorted(sizes, key=lambda s: (-sizes[s], s)):
        first, last = lives[storage]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        offset = 0
        for begin, end in taken:
            if offset + sizes[storage] <= begin:
                break
            offset = max(offset, end)
        offsets[storage] = offset
    return offsets


# Arrays in the arena


def new_arena(elements: int, dtype: str, index: int | None) -> Any:
    if index is not None:
        return cuda_core.empty([elements], dtype)
    item = ITEM_BYTES[dtype]
    room = np.empty(elements * item + ALIGNMENT_BYTES, np.uint8)
    skipped = -room.ctypes.data % ALIGNMENT_BYTES
    return room[skipped : skipped + elements * item].view(dtype)


def arrays_in(program: Program, memory: MemoryPlan, arena: Any) -> dict[int, Any]:
    """Every value's array: a part of the arena, images channels last."""

    def storage_of(value: int) -> Any:
        shape, begin = program.shapes[value], memory.offsets[value]
        flat = arena[begin : begin + math.prod(shape)]
        if len(shape) != 4:
            return flat.reshape(*shape)
        n, c, h, w = shape
        return flat.reshape(n, h, w, c).transpose(0, 3, 1, 2)

    buffers: dict[int, Any] = {}
    for value, place in memory.places.items():
        whole, channels = storage_of(place.storage), program.shapes[value][1]
        apart = channels == program.shapes[place.storage][1]
        buffers[value] = whole if apart else whole[:, place.channel : place.channel + channels]
    for value, source in program.views.items():
        buffers[value] = buffers[source][:, :, 0, 0]
    return buffers


def arena_range(step: Step, program: Program, memory: MemoryPlan) -> str:
    """The bytes that hold a step's result; with its channels, where others lie between them."""
    storage, channel = memory.places[step.output]
    shape = program.shapes[storage]
    begin = memory.offsets[storage]
    end = begin + math.prod(shape)
    text = f"{begin * memory.item}:{end * memory.item}"
    if step.shape[1] == shape[1]:
        return text
    return f"{text} channels {channel}:{channel + step.shape[1]}"
