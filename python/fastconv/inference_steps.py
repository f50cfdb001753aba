"""A program's steps as calls on the arena's memory, each with its row of the plan's table."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastconv.bound_calls import bind, copy, kernel_of
from fastconv.fusion import Program, Step
from fastconv.inference_table import Row
from fastconv.layers.placement import placed
from fastconv.memory_plan import ITEM_BYTES, MemoryPlan, Place, arena_range
from fastconv.ops.arrays import Array

Calls = list[Callable[[], Any]]


def bind_steps(
    program: Program, memory: MemoryPlan, buffers: dict[int, Any], dtype: str, index: int | None
) -> list[tuple[Calls, Row]]:
    """The calls of each step, in order, and its row; `index` is the GPU's."""

    def place(array: Array, name: str = "") -> Any:
        """A copy of a constant where the plan runs; 16 bits are rounded by way of float32."""
        name = name or dtype
        rounded = np.array(array, np.float64 if name == "float64" else np.float32, order="C")
        return placed(rounded, index, name)

    def bound(step: Step) -> tuple[Calls, Row]:
        sources = [buffers[value] for value in step.inputs]
        if step.op == "concat":
            copies = _copies(step, program, memory, buffers)
            calls: Calls = [*copies]
            kernel = f"{len(calls)} copies" if calls else "in place"
            elements = sum(2 * one.args[0].size for one in copies)
        else:
            residual = None if step.residual is None else buffers[step.residual]
            calls = [bind(step, sources, residual, buffers[step.output], place)]
            kernel = kernel_of(step, sources[0], dtype)
            touched = [*(program.shapes[value] for value in step.reads), step.shape]
            elements = sum(map(math.prod, touched)) + sum(c.size for c in step.constants.values())
        row = Row(
            " + ".join([step.op, *step.fused]),
            step.path,
            tuple(program.shapes[value] for value in step.reads),
            step.shape,
            kernel,
            arena_range(step, program, memory),
            step.multiply_adds,
            elements * ITEM_BYTES[dtype],
        )
        return calls, row

    return [bound(step) for step in program.steps]


def _copies(
    step: Step, program: Program, memory: MemoryPlan, buffers: dict[int, Any]
) -> list[partial[None]]:
    """Copies of those parts of a concatenation that were not written there at once."""
    storage, channel = memory.places[step.output]
    copies: list[partial[None]] = []
    begin = 0
    for value in step.inputs:
        end = begin + program.shapes[value][1]
        if memory.places.get(value) != Place(storage, channel + begin):
            copies.append(partial(copy, buffers[step.output][:, begin:end], buffers[value]))
        begin = end
    return copies
