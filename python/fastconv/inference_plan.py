"""`InferencePlan`: a program with its memory and its calls, ready to run; on a GPU as one captured
graph."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from fastconv import _core
from fastconv.config import get_isa, isa
from fastconv.cuda_streams import Stream, capture
from fastconv.cuda_streams import on_device as current
from fastconv.fusion import Program
from fastconv.inference_steps import bind_steps
from fastconv.inference_table import Profile, StepTime, plan_table
from fastconv.layers.placement import device_of
from fastconv.memory_plan import (
    ITEM_BYTES,
    arrays_in,
    new_arena,
    plan_memory,
)
from fastconv.ops.arrays import check_shape, empty, take, take_out
from fastconv.ops.devices import device_name, new
from fastconv.ops.families import give
from fastconv.precision import float32_precision, get_float32_precision

_cuda = _core.cuda


class InferencePlan:
    """What `fc.compile` returns: a model's inference for inputs of one shape, dtype and device.

    May be called from many threads, whose runs take turns: there is one arena, and each run has all
    the cores. On the CPU a run is one call into C++ (copy x, the steps, copy the results), without
    the GIL; its steps have the bits that the layers' own calls give where nothing was folded. On a
    GPU it enqueues the same as a captured graph on x's stream and does not wait; it must not be
    captured itself. Kernels, the instruction set and `fc.float32_precision` are those of
    compilation, threads are as many as `fc.set_num_threads` says at the run.

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
            bound = bind_steps(program, memory, buffers, dtype, index)
            self._calls = [calls for calls, _ in bound]  # of each row
            self.rows = tuple(row for _, row in bound)
            if index is None:
                self._isa, self._precision = get_isa(), get_float32_precision()
                self._record()
            else:
                self._capture()

    def _record(self) -> None:
        """The calls as one C++ program for the number of threads that is set now."""
        self._threads = _core.num_threads()
        self._program, ends = _core.Program(), []
        # Those that the weights were packed and the poolings fused for.
        with isa(self._isa), float32_precision(self._precision):
            self._program.begin()
            try:
                for calls in self._calls:
                    for call in calls:
                        call()
                    ends.append(len(self._program))
            finally:
                self._program.end()
        self._ends = ends  # of each row, its steps' end in the program

    def _capture(self) -> None:
        self._order = Stream(self._index)  # behind the last run, whichever stream that was on
        self._arena.fill(0)
        flat = [call for calls in self._calls for call in calls]
        for call in flat:  # loads the kernels, which a capture must not
            call()
        with capture(self._index) as self._graph:
            for call in flat:
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
            results = [_fresh(buffer) for buffer in self._results] if outs is None else outs
            if self._index is None:
                self._run_program(array[None] if image else array, results)
            else:
                self._input[...] = array
                self._graph.launch()
                for result, buffer in zip(results, self._results, strict=True):
                    result[...] = buffer
        if out is not None:
            return out
        given = tuple(give(result[0] if image else result, x) for result in results)
        return given[0] if self._single else given

    def _run_program(self, x: Any, results: list[Any]) -> None:
        if self._threads != _core.num_threads():
            self._record()
        self._program.run([(x, self._input)], list(zip(self._results, results, strict=True)))

    def profile(self, x: Any, *, repeats: int = 20) -> Profile:
        """Time every step of a plan on the CPU, beside what the machine allows.

        Parameters
        ----------
        x : array
            As `run` takes it.
        repeats : int
            Runs, of which medians are taken.

        Returns
        -------
        Profile
            ``print(plan.profile(x))`` is a table of the steps.

        Raises
        ------
        ValueError
            If repeats is less than 1, or the plan is a GPU's, whose steps are one graph.
        """
        if self._index is not None:
            raise ValueError(
                f"plan.profile: this plan is one graph on {self.device}: its steps cannot be timed "
                f"apart; use a profiler such as Nsight Systems"
            )
        if repeats < 1:
            raise ValueError(f"plan.profile: repeats={repeats}; at least 1 is needed")
        whole, ends = [], []
        for _ in range(repeats):
            self.run(x)  # so that the caches hold what a run leaves there
            begin = perf_counter()
            self.run(x)
            whole.append(perf_counter() - begin)
            with self._lock:
                ends.append(np.cumsum([0.0, *self._program.run_timed()])[self._ends])
        seconds = np.median(np.diff(ends, axis=1, prepend=0), axis=0)
        peak = _core.probe_fma(0.05, self._threads, self.dtype)
        return Profile(
            tuple(map(StepTime, self.rows, map(float, seconds))),
            float(np.median(whole)),
            peak,
            _core.probe_read(0.05, self._threads),
        )

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
        apart, arrays = {"x": x}, []
        for index, (one, shape) in enumerate(zip(given, self._shapes, strict=True)):
            wanted = shape[1:] if image else shape
            arrays.append(take_out("plan", one, wanted, self._input.dtype, apart))
            apart[f"out[{index}]"] = arrays[-1]
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
        lines = plan_table(self.rows)
        totals = (
            f"{self.dtype} on {self.device}: {self.multiply_adds:,} multiply-adds, weights "
            f"{self.weight_bytes / 1e6:.2f} MB, activations {self.activation_bytes / 1e6:.2f} MB "
            f"({self.unshared_bytes / 1e6:.2f} MB without sharing)"
        )
        return "\n".join([*lines, lines[1], totals])


def _fresh(buffer: Any) -> Any:
    if buffer.ndim == 4:
        return empty(buffer.shape, buffer.dtype, buffer)
    return new(buffer.shape, buffer.dtype, buffer)


def _device_of(array: Any) -> str:
    index = device_of(array)
    return "cpu" if index is None else f"cuda:{index}"
