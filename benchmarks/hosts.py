"""Where a peer runs: in this process, or in one of its own that is driven through a pipe.

Both have the same methods, so the timing does not know which it drives. In a process of its own a
peer makes the operands itself (they depend on the problem alone); only results to be checked and
times come back.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from .operations import Array, Operands
from .peers import Prepared, Settings, load_peer
from .problems import Problem


class Host(Protocol):
    """Runs one peer."""

    name: str

    @property
    def process(self) -> int | None:
        """The identifier of the peer's own process, if it has one."""
        ...

    def start(self, settings: Settings) -> str | None: ...
    def versions(self) -> dict[str, str]: ...
    def variants(self, problem: Problem) -> list[str]: ...
    def slowness(self, variant: str) -> float: ...
    def load(self, problem: Problem, operands: Operands | None) -> None: ...
    def first(self, variant: str) -> tuple[Array, ...]: ...
    def sample(self, variant: str, calls: int, warm: bool = True) -> float: ...
    def plan(self, variant: str) -> str: ...
    def unload(self) -> None: ...
    def stop(self) -> None: ...


class LocalHost:
    """A peer in this process."""

    process: int | None = None

    def __init__(self, name: str) -> None:
        self.name = name
        self._peer = load_peer(name)
        self._ready: dict[str, Prepared] = {}
        self._problem: Problem | None = None
        self._operands: Operands = {}

    def start(self, settings: Settings) -> str | None:
        return self._peer.start(settings)

    def versions(self) -> dict[str, str]:
        return self._peer.versions()

    def variants(self, problem: Problem) -> list[str]:
        return self._peer.variants(problem)

    def slowness(self, variant: str) -> float:
        return self._peer.slowness(variant)

    def load(self, problem: Problem, operands: Operands | None) -> None:
        """Take the operands of the next problem, or make them."""
        self._problem = problem
        self._operands = problem.operands() if operands is None else operands

    def first(self, variant: str) -> tuple[Array, ...]:
        """Prepare a variant and call it once: what is checked. ``LookupError`` where it can't."""
        assert self._problem is not None
        prepared = self._peer.prepare(self._problem, self._operands, variant)
        results = prepared.arrays(prepared.call())
        self._ready[variant] = prepared
        return results

    def sample(self, variant: str, calls: int, warm: bool = True) -> float:
        """Seconds a call, over ``calls`` calls after one that warms the caches and is not timed."""
        call = self._ready[variant].call
        collecting = gc.isenabled()
        gc.disable()
        try:
            if warm:
                call()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls
        finally:
            if collecting:
                gc.enable()

    def plan(self, variant: str) -> str:
        return self._ready[variant].plan()

    def unload(self) -> None:
        """Let go of the operands."""
        self._ready, self._operands, self._problem = {}, {}, None

    def stop(self) -> None:
        self.unload()


class ProcessHost:
    """A peer in a process of its own, which sleeps on its pipe while others are measured."""

    def __init__(self, name: str) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._child = context.Process(target=_serve, args=(other, name), daemon=True)
        self._child.start()
        other.close()

    @property
    def process(self) -> int | None:
        return self._child.pid

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((method, arguments))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise LookupError(f"the process of {self.name} ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def start(self, settings: Settings) -> str | None:
        answer: str | None = self._ask("start", settings)
        return answer

    def versions(self) -> dict[str, str]:
        return dict(self._ask("versions"))

    def variants(self, problem: Problem) -> list[str]:
        return list(self._ask("variants", problem))

    def slowness(self, variant: str) -> float:
        return float(self._ask("slowness", variant))

    def load(self, problem: Problem, operands: Operands | None) -> None:
        self._ask("load", problem, None)

    def first(self, variant: str) -> tuple[Array, ...]:
        return tuple(self._ask("first", variant))

    def sample(self, variant: str, calls: int, warm: bool = True) -> float:
        return float(self._ask("sample", variant, calls, warm))

    def plan(self, variant: str) -> str:
        return str(self._ask("plan", variant))

    def unload(self) -> None:
        self._ask("unload")

    def stop(self) -> None:
        self._pipe.close()  # the child's next recv ends it
        self._child.join(timeout=5)
        if self._child.is_alive():
            self._child.kill()


def _serve(pipe: Connection, name: str) -> None:
    """The child's loop: one question, one answer; an exception is an answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    host = LocalHost(name)
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):  # the parent has closed its end
            return
        try:
            answer = getattr(host, method)(*arguments)
            if method == "first":
                answer = tuple(np.ascontiguousarray(result) for result in answer)
        except Exception as error:  # whatever it is, it belongs to the one who asked
            answer = LookupError(f"{type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except OSError:
            return
