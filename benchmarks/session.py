"""One run of the suite: start the peers, then for each problem check, time, and sum up.

Of fastconv's rows the first (``auto``) leads: the report compares it with every row of the others
in the same memory order or, where there is none, with their first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from .checking import Checker, Verdict
from .hosts import Host, LocalHost, ProcessHost
from .machine import Probes
from .operations import Operands
from .peers import ONLY_BY_NAME, Settings
from .problems import Problem
from .results import ProblemResult, RowResult, add_figures
from .timing import Limits, Measured, Round, Row, measure, ping_border

OURS = "fastconv"
#: no sooner than this do the checks of a problem use the whole reference: it is slow
REFERENCE_MACS = 2e7


@dataclass
class Session:
    """Peers that are ready, the settings they share, and what they have shown so far."""

    settings: Settings
    limits: Limits
    slow_seconds: float = 1.0  # a row whose call is expected to take longer is left out
    seed: int = 0
    orders: str = "both"
    hosts: list[Host] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)  # seconds a multiply-add, as measured
    progress: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self.probes = Probes(self.settings.threads)

    def start(self, names: Iterable[str], own_process: Iterable[str] = ()) -> None:
        """Start the named peers; ``missing`` says why some can't be used here."""
        apart = set(own_process)
        for name in names:
            host: Host = ProcessHost(name) if name in apart else LocalHost(name)
            reason = host.start(self.settings)
            if reason is None:
                self.hosts.append(host)
            else:
                self.missing[name] = reason
                host.stop()

    def stop(self) -> None:
        for host in self.hosts:
            host.stop()

    def versions(self) -> dict[str, str]:
        return {name: text for host in self.hosts for name, text in host.versions().items()}

    def run(self, problem: Problem) -> ProblemResult:
        """Check every implementation of one problem, time those that are right, and sum up."""
        self.progress("checking")
        operands = problem.operands()
        try:
            for host in self.hosts:
                host.load(problem, operands)
            result, rows = self._check(problem, operands)
            if rows:
                self._time(result, rows)
        finally:
            for host in self.hosts:
                host.unload()
        return result

    def _check(self, problem: Problem, operands: Operands) -> tuple[ProblemResult, list[Row]]:
        checker = Checker(problem, operands, self._reference(), REFERENCE_MACS)
        found: dict[str, RowResult] = {}
        ready: dict[str, Row] = {}
        wanted = [
            (host, variant)
            for host in self.hosts
            for variant in in_orders(host.variants(problem), self.orders)
        ]
        # others first: the first right result is what later ones are compared with as a whole
        for host, variant in sorted(wanted, key=lambda pair: pair[0].name == OURS):
            row = Row(host, variant)
            expected = self._expected_seconds(row, problem)
            if expected > self.slow_seconds:
                found[row.name] = RowResult(row.name, absent=f"slow: about {expected:.1f} s a call")
                continue
            self.progress(f"checking {row.name}")
            found[row.name] = judged = self._first(row, checker, problem)
            if judged.verdict is not None and judged.verdict.passed:
                ready[row.name] = row
        names = [Row(host, variant).name for host, variant in wanted]
        rows = [ready[name] for name in names if name in ready]
        return ProblemResult(problem, [found[name] for name in names]), rows

    def _first(self, row: Row, checker: Checker, problem: Problem) -> RowResult:
        """Call an implementation once and judge what it gives."""
        begun = time.perf_counter()
        try:
            results = row.host.first(row.variant)
        except LookupError as error:
            return RowResult(row.name, absent=str(error))
        except Exception as error:  # an implementation that fails is a result, not the suite's end
            text = f"{type(error).__name__}: {error}"
            if "cannot do this problem" in text and not row.variant.startswith("auto"):
                return RowResult(row.name, absent=str(error))
            return RowResult(row.name, Verdict(False, float("nan"), text), absent="failed")
        if problem.macs:
            self._add_rate(row.name, (time.perf_counter() - begun) / problem.macs)
        verdict = checker.check(row.name, results)
        return RowResult(row.name, verdict, absent="" if verdict.passed else "WRONG")

    def _expected_seconds(self, row: Row, problem: Problem) -> float:
        guess = row.host.slowness(row.variant) * 1e-9
        return (self.rates.get(row.name, guess) if guess else 0.0) * problem.macs

    def _add_rate(self, name: str, rate: float) -> None:
        """Keep the best rate: small problems are mostly the cost of a call."""
        self.rates[name] = min(rate, self.rates.get(name, rate))

    def _reference(self) -> Any:
        try:
            from fastconv import reference
        except ImportError:
            return None
        return reference

    def _time(self, result: ProblemResult, rows: list[Row]) -> None:
        leading = leading_pairs([(row.host.name, row.variant) for row in rows])
        names = {name for pair in leading for name in pair}
        for row in rows:
            row.leads = row.name in names or row is rows[0]
        before = self.probes.read_bandwidth(result.problem.bytes_moved)
        measured = measure(
            rows, leading, self.probes, self.limits, self.seed,
            lambda rounds: self.progress(f"round {rounds}"),
        )  # fmt: skip
        after = self.probes.read_bandwidth(result.problem.bytes_moved)
        bandwidth = None if before is None or after is None else max(before, after)
        self._add_plans(result, measured)
        self.rounds += measured.rounds
        allowed = {row.name for row in result.rows if not row.plan.endswith(ONLY_BY_NAME)}
        named = named_pairs([(r.host.name, r.variant) for r in rows if r.name in allowed])
        add_figures(result, measured, ping_border(self.rounds), bandwidth, leading, named)
        if result.problem.macs:
            for timed in result.rows:
                if timed.summary:
                    self._add_rate(timed.name, timed.summary.median / result.problem.macs)

    def _add_plans(self, result: ProblemResult, measured: Measured) -> None:
        plans = {row.name: row.host.plan(row.variant) for row in measured.rows}
        for row in result.rows:
            row.plan = plans.get(row.name, "")


def in_orders(variants: list[str], orders: str) -> list[str]:
    """The variants in the wanted memory order; all of them where none is, as for matrices."""
    in_c_order = {variant: variant.endswith("C order") for variant in variants}
    wanted = [name for name in variants if orders == "both" or in_c_order[name] == (orders == "c")]
    return wanted or variants


def leading_pairs(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(theirs, ours) by name: our ``auto`` rows against the others' rows in the same memory order.

    ``auto`` stands for channels last. The reference is no rival.
    """
    ours = [variant for host, variant in rows if host == OURS and variant.startswith("auto")]
    pairs = []
    for host, variant in rows:
        if host in (OURS, "numpy") or not ours:
            continue
        in_c_order = [name for name in ours if name.endswith("C order")]
        match = in_c_order[0] if in_c_order and variant.endswith("C order") else ours[0]
        pairs.append((f"{host} {variant}", f"{OURS} {match}"))
    return pairs


def named_pairs(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(one of our algorithms, our ``auto`` on channels last) by name, where both are measured."""
    ours = [variant for host, variant in rows if host == OURS]
    if "auto" not in ours:
        return []
    named = [variant for variant in ours if not variant.startswith("auto")]
    return [(f"{OURS} {variant}", f"{OURS} auto") for variant in named]
