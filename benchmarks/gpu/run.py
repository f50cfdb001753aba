"""One session on the device: check, time, print a line, keep everything for the JSON file."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

from .. import results, shapes
from ..operations.network import Network
from ..operations.training import Training
from ..problems import Problem, problems
from . import summary


def run(options: argparse.Namespace) -> int:
    """The exit code: 0 done, 1 something wrong, 2 nothing can be measured here."""
    import fastconv as fc

    if torch is None or not torch.cuda.is_available():
        print(
            "python -m benchmarks --device cuda: needs PyTorch with a CUDA device", file=sys.stderr
        )
        return 2
    if not fc.cuda.is_available():
        print(f"python -m benchmarks: {fc.cuda.why_unavailable()}", file=sys.stderr)
        return 2
    session = Session(options)
    # a batch system's limit too leaves what was measured
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session.measure()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    content = session.content()
    print(summary.summary(content))
    if options.json is not None:
        results.write(options.json, content)
        print(f"wrote {options.json}", flush=True)
    return 1 if session.wrong else 0


class Session:
    """What was asked for, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from . import checks, facts
        from .clock import Clock

        self.options, self.clock, self.checks = options, Clock(), checks
        self.began = time.monotonic()
        self.wrong: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.complete = False
        self.at = ""  # the row that is measured now
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(options.seed)
        checks.allow_tf32(False)
        self.device = facts.device_facts()
        self.limits = facts.limits(self.clock)
        print(f"{self.device['name']}\n{summary.limits_text(self.limits)}", flush=True)

    def content(self) -> dict[str, Any]:
        """Everything as JSON values."""
        from . import facts

        return {
            "schema": results.SCHEMA,
            "complete": self.complete,
            "device": facts.device_facts(),  # clocks and temperature as they are at the end
            "limits": self.limits,
            "versions": facts.versions(),
            "commit": facts.commit(),
            "taken": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv[1:],
            "wrong": self.wrong,
            "rows": self.rows,
        }

    def measure(self) -> None:
        """All rows, until the time limit."""
        limit = self.options.time_limit
        for dtype, one in self._steps():
            if limit and time.monotonic() - self.began > limit:
                print("time limit: the rest is not begun", flush=True)
                return
            self.checks.allow_tf32(dtype == "tf32")
            self._try(one, dtype)
        self.complete = True

    def _try(self, one: Callable[[], None], dtype: str) -> None:
        """One row, which may fail without costing the others theirs."""
        if self._failure(one) is None:
            return
        self._release()  # it may have been memory: two libraries keep what they free
        failure = self._failure(one)
        if failure is not None:
            print(f"FAILED {self.at} {dtype}: {failure}", flush=True)
            self.wrong.append(f"{self.at} {dtype}: {failure}")

    @staticmethod
    def _failure(one: Callable[[], None]) -> str | None:
        """What it failed with; the error itself would hold the tensors of its frames."""
        try:
            one()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _steps(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """The dtype, and what measures one row; each batch by itself, in the order asked for."""
        options = self.options
        layers = [layer for name in options.suite for layer in shapes.suite(name)]
        for dtype in options.dtypes:
            if options.memory_bound and dtype not in self.checks.PRECISIONS:
                yield from self._memory_bound(dtype)
            for batch in options.batch:
                for problem in problems(layers, [batch], options.direction, options.pattern):
                    yield dtype, lambda p=problem, d=dtype: self._one(p, d)

    def _release(self) -> None:
        import fastconv as fc

        gc.collect()
        torch.cuda.empty_cache()
        fc.cuda.release_memory()

    def _one(self, problem: Problem, dtype: str) -> None:
        from . import networks
        from .rows import prepare

        about = {"id": problem.identity, "title": problem.title, "kind": problem.shape.kind,
                 "operation": problem.shape.operation, "direction": problem.direction,
                 "batch": problem.batch, "dtype": dtype}  # fmt: skip
        self.at = problem.identity
        if isinstance(problem.shape, (Network, Training)):
            self._release()
            whole = networks.measure(problem, dtype, self.clock, self.options)
            self._keep({**about, **whole})
            return
        try:
            prepared = prepare(problem, self.checks.torch_dtype(dtype))
        except LookupError:
            return
        self._time(prepared, about)

    def _memory_bound(self, dtype: str) -> Iterator[tuple[str, Callable[[], None]]]:
        from .families import Row, Sizes, memory_bound

        largest = max(self.options.batch)

        def measure(row: Row) -> None:
            batch = row.batch or largest
            about = {"id": f"{row.name}.{row.direction}.n{batch}", "title": row.name,
                     "kind": "memory-bound", "operation": row.name, "direction": row.direction,
                     "batch": batch, "dtype": dtype}  # fmt: skip
            self.at = about["id"]
            self._time(row.make(), about)

        for row in memory_bound(Sizes.of(largest), self.checks.torch_dtype(dtype)):
            if self.options.pattern.lower() in f"{row.name} {row.direction}".lower():
                yield dtype, lambda row=row: measure(row)

    def _time(self, prepared: Any, about: dict[str, Any]) -> None:
        import fastconv as fc

        began = time.monotonic()
        names = self._calls(prepared)
        dtype = about["dtype"]
        row: dict[str, Any] = {**about, "bytes": prepared.bytes_moved, "flops": prepared.flops,
                               "times": {}, "errors": {}, "refused": {}, "graph": {}}  # fmt: skip
        with fc.float32_precision(self.checks.PRECISIONS.get(dtype, "highest")):
            if prepared.plan is not None:
                plan = prepared.plan(prepared.sets[0])
                row["plan"] = {"kernel": plan.kernel, "splits": plan.splits}
            self._check(prepared, names, row)
            calls = [_on_set(call, prepared.sets) for call in names.values()]
            if about["kind"] == "memory-bound":
                names["copy"] = self.clock.copy_of(prepared.bytes_moved)
                calls.append(names["copy"])
            for call in calls:
                call(0)
            cold = self.clock.cold(calls, len(prepared.sets), self.options.samples)
            row["times"] = dict(zip(names, cold, strict=True))
            if self.options.graph:
                for name in ("fastconv", "pytorch"):
                    call = _on_set(names[name], prepared.sets)
                    row["graph"][name] = self.clock.replayed(call, len(prepared.sets))
        row["seconds"] = time.monotonic() - began
        self._keep(row)

    def _calls(self, prepared: Any) -> dict[str, Callable[[Any], Any]]:
        """Name -> function of operands; with --kernels also every kernel by name."""
        import fastconv as fc

        names = {"fastconv": prepared.ours, "pytorch": prepared.theirs}
        if self.options.kernels and prepared.direction:
            function = {"forward": fc.conv2d, "grad_input": fc.conv2d_grad_input,
                        "grad_weight": fc.conv2d_grad_weight}[prepared.direction]  # fmt: skip
            for kernel in fc.cuda.kernels(function):
                if kernel not in ("naive", "depthwise"):
                    names[kernel] = _forced(prepared.ours, kernel)
        return names

    def _check(self, prepared: Any, names: dict[str, Any], row: dict[str, Any]) -> None:
        """The error of each call; those that refuse are taken out of ``names``."""
        first, dtype = prepared.sets[0], row["dtype"]
        row["against"] = "PyTorch in the same type" if self.options.quick else "a wider type"
        if prepared.check:
            wanted = None
        elif self.options.quick:  # a search of cuDNN's less a row
            wanted = prepared.theirs(first)
        else:
            wanted = self.checks.exactly(prepared, first, dtype)
        for name, call in list(names.items()):
            operands = first
            if prepared.in_place:
                operands = {key: tensor.clone() for key, tensor in first.items()}
            try:
                result = call(operands)
            except (ValueError, NotImplementedError) as error:
                row["refused"][name] = str(error)
                del names[name]
                continue
            if prepared.check:
                error = prepared.check(result, first)
            else:
                error = self.checks.distance(result, wanted)
            row["errors"][name] = self.checks.for_json(error)
            if not error < self.checks.TOLERANCE[dtype] and name != "pytorch":
                row.setdefault("wrong", []).append(f"{name}: {error:.3g}")

    def _keep(self, row: dict[str, Any]) -> None:
        self.wrong += [f"{row['id']} {row['dtype']} {text}" for text in row.pop("wrong", [])]
        if "fastconv" in row["times"]:
            self.rows.append(row)
            print(summary.line(row, self.limits), flush=True)
        else:
            self.wrong.append(f"{row['id']} {row['dtype']} refused: {row['refused']}")


def _on_set(call: Callable[[Any], Any], sets: list[Any]) -> Callable[[int], Any]:
    return lambda number: call(sets[number])


def _forced(call: Callable[[Any], Any], kernel: str) -> Callable[[Any], Any]:
    import fastconv as fc

    def forced(operands: Any) -> Any:
        with fc.cuda.kernel(kernel):
            return call(operands)

    return forced
