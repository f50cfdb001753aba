"""Interleaved rounds: how each implementation's samples are taken, and when there are enough.

A round takes one sample of every implementation, in an order that is drawn anew (with a fixed
seed), so that drifts of the machine meet all alike. Before each sample all other threads must stand
still. Around each round the machine is pinged, and within it its peak is measured; only rounds in
one state of the machine are compared (``used_rounds``). An implementation that no ratio waits for
takes part until it has had its share of the time, at least three times, and its time is not
counted: a reference of a second a call must not cost its betters their rounds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .hosts import Host
from .machine import Probes
from .quiet import others_running, wait_until_quiet
from .statistics import FEWEST, ratio_of_medians, split_point

PATIENCE = 4  # the least number of rounds may cost this many times the time of a problem
SLOW_SECONDS = 0.1  # so long a call needs no other before it to be warm


@dataclass(frozen=True)
class Limits:
    """When a problem has been measured enough."""

    tolerance: float = 0.03  # half width of the interval of the ratio that the report leads with
    seconds: float = 2.0  # time for one problem
    least_rounds: int = 7
    most_rounds: int = 60
    sample_seconds: float = 0.004  # short calls are repeated until they take this long


@dataclass
class Row:
    """One implementation of one problem, checked and ready, and its samples by round."""

    host: Host
    variant: str
    leads: bool = False  # takes part in every round, however slow
    once: float = 0.0  # seconds of a first call
    calls: int = 1
    spent: float = 0.0
    samples: dict[int, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.host.name} {self.variant}"


@dataclass
class Round:
    """The machine around one round: pings in seconds, floating-point operations a second."""

    ping_before: float | None = None
    ping_after: float | None = None
    peak: float | None = None
    quiet: bool = True  # all threads of the peers slept before each sample
    others: int | None = None  # threads of other programs that ran as the round began


@dataclass
class Measured:
    """All rounds of one problem; ``stopped`` says why there are no more."""

    rows: list[Row]
    rounds: list[Round]
    stopped: str


def measure(
    rows: list[Row],
    leading: Sequence[tuple[str, str]],
    probes: Probes,
    limits: Limits,
    seed: int,
    progress: Callable[[int], None] = lambda rounds: None,
) -> Measured:
    """Take rounds until the intervals of the ``leading`` pairs are tight, or time is out."""
    generator = np.random.default_rng(seed)
    processes = [row.host.process for row in rows if row.host.process is not None]
    for row in rows:
        wait_until_quiet(processes)
        row.once = row.host.sample(row.variant, 1)
        wished = np.ceil(limits.sample_seconds / max(row.once, 1e-9))
        row.calls = int(np.clip(wished, 1, 10000))
    measured = Measured(rows, [], "rounds")
    start = time.perf_counter()
    while len(measured.rounds) < limits.most_rounds:
        number = len(measured.rounds)
        measured.rounds.append(_round(number, rows, processes, probes, limits, generator))
        progress(number + 1)
        counted = time.perf_counter() - start - sum(row.spent for row in rows if not row.leads)
        enough = number + 1 >= limits.least_rounds
        if enough and leading and all(_is_tight(measured, pair, limits) for pair in leading):
            measured.stopped = "tight"
            break
        patience = 1 if enough else PATIENCE
        if number + 1 >= FEWEST and counted > patience * limits.seconds:
            measured.stopped = "time"
            break
    return measured


def _round(
    number: int,
    rows: list[Row],
    processes: list[int],
    probes: Probes,
    limits: Limits,
    generator: np.random.Generator,
) -> Round:
    wait_until_quiet(processes)
    others = others_running()
    this = Round(probes.ping(), peak=probes.peak_flops(), others=others)
    for at in generator.permutation(len(rows)):
        row = rows[at]
        if number >= 3 and not row.leads and row.spent > limits.seconds / len(rows):
            continue
        this.quiet &= wait_until_quiet(processes)
        began = time.perf_counter()
        warm = row.once < SLOW_SECONDS
        row.samples[number] = row.host.sample(row.variant, row.calls, warm)
        row.spent += time.perf_counter() - began
    wait_until_quiet(processes)
    this.ping_after = probes.ping()
    return this


def _is_tight(measured: Measured, pair: tuple[str, str], limits: Limits) -> bool:
    above, below = (next(row for row in measured.rows if row.name == name) for name in pair)
    common = sorted(above.samples.keys() & below.samples.keys())
    ratio = ratio_of_medians([above.samples[i] for i in common], [below.samples[i] for i in common])
    return ratio.half_width <= limits.tolerance


def states(rounds: Sequence[Round], border: float | None) -> list[str]:
    """The machine's state in each round: near, far or mixed by its pings, ``-`` where unknown."""
    return [_state(this, border) for this in rounds]


def _state(this: Round, border: float | None) -> str:
    if this.ping_before is None or this.ping_after is None:
        return "-"
    if border is None:
        return "one"
    before, after = this.ping_before > border, this.ping_after > border
    return "mixed" if before != after else ("far" if before else "near")


def used_rounds(named: Sequence[str]) -> tuple[str, list[int]]:
    """The state of most rounds (mixed ones count only where all are mixed), and those rounds."""
    pure = [state for state in named if state != "mixed"] or list(named)
    state = Counter(pure).most_common(1)[0][0]
    return state, [number for number, found in enumerate(named) if found == state]


def ping_border(rounds: Sequence[Round]) -> float | None:
    """Where the pings of all rounds of a run fall into two clusters, the border between them."""
    pings = [ping for this in rounds for ping in (this.ping_before, this.ping_after) if ping]
    return split_point(pings) if pings else None
