"""`InferencePlan`: a program with its memory and its calls, ready to run; on a GPU as one captured
graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastconv import _core
from fastconv.bound_calls import bind, copy, kernel_of
from fastconv.cuda_streams import Stream, capture
from fastconv.cuda_streams import on_device as current
from fastconv.fusion import Program, Step
from fastconv.graph import Shape
from fastconv.layers.placement import device_of, placed
from fastconv.memory_plan import (
    ITEM_BYTES,
    MemoryPlan,
    Place,
    arena_range,
    arrays_in,
    new_arena,
    plan_memory,
)
from fastconv.ops.arrays import Array, check_shape, empty, take, take_out
from fastconv.ops.devices import device_name, new
from fastconv.ops.families import give

_cuda = _core.cuda


@dataclass(frozen=True)
class Row:
    """A step as `str(plan)` prints it.

    `kernel` is a convolution's algorithm, on a GPU its kernel; `buffer` the bytes of the arena that
    the result lies in, with its channels where others lie between them.
    """

    operation: str
    layer: str
    inputs: tuple[Shape, ...]
    output: Shape
    kernel: str
    buffer: str


class InferencePlan:
    """What `fc.compile` returns: a model's inference for inputs of one shape, dtype and device.

    May be called from many threads, whose runs take turns: there is one arena. On the CPU a run
    makes its calls one by one from Python (one call into C++ is later work). On a GPU a run
    enqueues a copy of x, the graph and copies of the results on x's stream and does not wait; it
    must not be captured itself, and kernels and `fc.float32_precision` are those of compilation.

    Attributes
    ----------
    input_shape, output_shape : tuple of int
        With N; output_shape is a tuple of shapes where the model returns a tuple.
    dtype, device : str
    rows : tuple of Row
        The steps.
    multiply_adds : int
        Of convolutions and linear layers, for all N images.
    weight_bytes, activation_bytes : int
        Memory of the constants before packing, and of the arena.
    unshared_bytes : int
        What the arena would take if nothing shared memory.
    """

    def __init__(self, program: Program, dtype: str, index: int | None, single: bool) -> None:
        self.dtype = dtype
        self.device = "cpu" if index is None else f"cuda:{index}"
        self.input_shape = program.shapes[0]
        shapes = tuple(program.shapes[value] for value in program.outputs)
        self.output_shape: Any = shapes[0] if single else shapes
        self.multiply_adds = sum(step.multiply_adds for step in program.steps)
        item = ITEM_BYTES[dtype]
        constants = [c for step in program.steps for c in step.constants.values()]
        self.weight_bytes = item * sum(constant.size for constant in constants)
        memory = plan_memory(program, item)
        self.activation_bytes = item * memory.elements
        self.unshared_bytes = item * memory.unshared
        self._index, self._single, self._shapes = index, single, shapes
        self._lock = threading.Lock()
        with current(index):
            self._arena = new_arena(memory.elements, dtype, index)
            buffers = arrays_in(program, memory, self._arena)
            self._input = buffers[0]
            self._results = [buffers[value] for value in program.outputs]
            bound = [self._bind(step, program, memory, buffers) for step in program.steps]
            self._calls = [call for calls, _ in bound for call in calls]
            self.rows = tuple(row for _, row in bound)
            if index is not None:
                self._capture()

    def _bind(
        self, step: Step, program: Program, memory: MemoryPlan, buffers: dict[int, Any]
    ) -> tuple[list[Callable[[], Any]], Row]:
        """The calls of a step, and its row."""
        sources = [buffers[value] for value in step.inputs]
        if step.op == "concat":
            calls = _copies(step, program, memory, buffers)
            kernel = f"{len(calls)} copies" if calls else "in place"
        else:
            residual = None if step.residual is None else buffers[step.residual]
            calls = [bind(step, sources, residual, buffers[step.output], self._place)]
            kernel = kernel_of(step, sources[0], self.dtype)
        row = Row(
            " + ".join([step.op, *step.fused]),
            step.path,
            tuple(program.shapes[value] for value in step.reads),
            step.shape,
            kernel,
            arena_range(step, program, memory),
        )
        return calls, row

    def _place(self, array: Array, dtype: str = "") -> Any:
        """A copy of a constant where the plan runs; 16 bits are rounded by way of float32."""
        name = dtype or self.dtype
        rounded = np.array(array, np.float64 if name == "float64" else np.float32, order="C")
        return placed(rounded, self._index, name)

    def _capture(self) -> None:
        self._order = Stream(self._index)  # behind the last run, whichever stream that was on
        self._arena.fill(0)
        for call in self._calls:  # loads the kernels, which a capture must not
            call()
        with capture(self._index) as self._graph:
            for call in self._calls:
                call()
        _cuda.wait_for(self._order.ptr, _cuda.current_stream())

    # Runs

    def __call__(self, x: Any) -> Any:
        """`run` with a fresh result."""
        return self.run(x)

    def run(self, x: Any, out: Any = None) -> Any:
        """The model's result for `x`.

        Parameters
        ----------
        x : array of input_shape, of the plan's dtype and on its device, any strides
            One image (C, H, W) where N is 1: then the result has no N either.
        out : array of the result's shape, optional
            Written and returned; a tuple of arrays where the model returns a tuple.

        Returns
        -------
        array of x's family, images channels last

        Raises
        ------
        TypeError, ValueError
            If x or out has another shape or dtype or is elsewhere; nothing has been written then.
        """
        array = self._take(x)
        image = array.ndim < len(self.input_shape)
        outs = None if out is None else self._take_outs(out, array, image)
        with self._lock, self._on_stream_of(array):
            self._input[...] = array
            if self._index is None:
                for call in self._calls:
                    call()
            else:
                self._graph.launch()
            results = [_fresh(buffer) for buffer in self._results] if outs is None else outs
            for result, buffer in zip(results, self._results, strict=True):
                result[...] = buffer
        if out is not None:
            return out
        given = tuple(give(result[0] if image else result, x) for result in results)
        return given[0] if self._single else given

    def _take(self, x: Any) -> Any:
        array = take("plan", "x", x)
        if device_of(array) != self._index:
            remedy = "fc.cuda.asnumpy" if self._index is None else "fc.cuda.asarray"
            raise ValueError(
                f"plan: x is on {device_name(array)}, but the plan was compiled for {self.device}; "
                f"move it with {remedy}, or compile for device={_device_of(array)!r}"
            )
        if array.dtype.name != self.dtype:
            raise TypeError(
                f"plan: x has dtype {array.dtype}, but the plan was compiled for {self.dtype}; "
                f"convert it with .astype, or compile for dtype={array.dtype.name!r}"
            )
        if array.ndim == 3 and len(self.input_shape) == 4 and self.input_shape[0] == 1:
            check_shape("plan", "x", array, self.input_shape[1:], "what was compiled for, less N,")
        else:
            check_shape("plan", "x", array, self.input_shape, "what was compiled for")
        return array

    def _take_outs(self, out: Any, x: Any, image: bool) -> list[Any]:
        given = (out,) if self._single else out
        if not isinstance(given, tuple) or len(given) != len(self._shapes):
            raise TypeError(f"plan: out must be a tuple of {len(self._shapes)} arrays")
        arrays = [
            take_out("plan", one, shape[1:] if image else shape, self._input.dtype, {"x": x})
            for one, shape in zip(given, self._shapes, strict=True)
        ]
        return [array[None] if image else array for array in arrays]

    @contextlib.contextmanager
    def _on_stream_of(self, x: Any) -> Iterator[None]:
        """Work goes where x's library works, after the run before; the arena is shared."""
        if self._index is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(current(self._index))
            if x.stream is not None:
                stack.enter_context(Stream(self._index, ptr=x.stream))
            stream = _cuda.current_stream()
            _cuda.wait_for(stream, self._order.ptr)
            try:
                yield
            finally:
                _cuda.wait_for(self._order.ptr, stream)

    # Text

    def __repr__(self) -> str:
        return (
            f"<fastconv.InferencePlan {self.input_shape} -> {self.output_shape}, {self.dtype} on "
            f"{self.device}, {len(self.rows)} steps>"
        )

    def __str__(self) -> str:
        head = ("operation", "layer", "inputs", "output", "kernel", "bytes of the arena")
        lines = [head]
        for row in self.rows:
            shapes = " + ".join(str(shape) for shape in row.inputs)
            lines.append(
                (row.operation, row.layer, shapes, str(row.output), row.kernel, row.buffer)
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        totals = (
            f"{self.dtype} on {self.device}: {self.multiply_adds:,} multiply-adds, weights "
            f"{self.weight_bytes / 1e6:.2f} MB, activations {self.activation_bytes / 1e6:.2f} MB "
            f"({self.unshared_bytes / 1e6:.2f} MB without sharing)"
        )
        return "\n".join([text[0], rule, *text[1:], rule, totals])


def _copies(
    step: Step, program: Program, memory: MemoryPlan, buffers: dict[int, Any]
) -> list[Callable[[], Any]]:
    """Copies of those parts of a concatenation that were not written there at once."""
    storage, channel = memory.places[step.output]
    copies: list[Callable[[], Any]] = []
    begin = 0
    for value in step.inputs:
        end = begin + program.shapes[value][1]
        if memory.places.get(value) != Place(storage, channel + begin):
            copies.append(partial(copy, buffers[step.output][:, begin:end], buffers[value]))
        begin = end
    return copies


def _fresh(buffer: Any) -> Any:
    if buffer.ndim == 4:
        return empty(buffer.shape, buffer.dtype, buffer)
    return new(buffer.shape, buffer.dtype, buffer)


def _device_of(array: Any) -> str:
    index = device_of(array)
    return "cpu" if index is None else f"cuda:{index}"
