"""The table on the terminal: the header, and one block a problem; ``summary`` has the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from .problems import Problem
from .results import ProblemResult, RowResult
from .statistics import Ratio

STOPPED = {"tight": "ratios tight", "time": "time out", "rounds": "no more"}

#: the states of ``timing.states`` in words
STATES = {
    "near": "cores near each other",
    "far": "cores far from each other",
    "mixed": "cores moved in every round",
    "one": "one state",
    "-": "not known",
}


class Progress:
    """One line that is written over, on a terminal only."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = self._stream.isatty()

    def show(self, text: str) -> None:
        if self._shown:
            self._stream.write(f"\r\x1b[K{text[:100]}")
            self._stream.flush()

    def clear(self) -> None:
        self.show("")


def seconds(value: float) -> str:
    """Three digits and a unit: ``17.1 ms``."""
    for unit, size in (("s ", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def count(value: float, unit: str) -> str:
    """A number with a decimal prefix: ``1.85 GMAC``."""
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def header(
    about: dict[str, Any],
    options: dict[str, Any],
    missing: dict[str, str],
    wanted: Sequence[Problem],
) -> str:
    """What is measured, on what, and what is left out and why."""
    machine, versions = about["machine"], about["versions"]
    place = {True: "a virtual machine", False: "hardware"}.get(machine["virtual"], "hardware?")
    lines = [
        f"{machine['processor']}, {machine['processors']} processors, {place}, {machine['system']}",
        f"{options['threads']} threads, float32, warm; {conditions(wanted)}",
        ", ".join(f"{name} {text}" for name, text in versions.items()),
    ]
    if options.get("isa"):
        limits = "ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA"
        lines.append(f"limited to {options['isa']}: fastconv, and PyTorch by {limits}")
    lines += [f"without {name}: {reason}" for name, reason in missing.items()]
    if not about["probes"]:
        lines.append("without fastconv's compiled module: no peak, no bandwidth, no ping")
    return "\n".join(lines)


def conditions(wanted: Sequence[Problem]) -> str:
    """What lies inside of the time; by direction where it differs."""
    directions: dict[str, dict[str, None]] = {}
    for problem in wanted:
        directions.setdefault(problem.conditions, {})[problem.direction] = None
    if len(directions) == 1:
        return next(iter(directions))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in directions.items())


def block(result: ProblemResult) -> str:
    """One problem: a line about it and the machine, then a line a row."""
    problem = result.problem
    size = count(problem.macs, "MAC") if problem.macs else count(problem.bytes_moved, "B")
    machine = []
    if result.peak:
        machine.append(f"peak {count(result.peak, 'FLOP/s')}")
    if result.bandwidth:
        machine.append(f"read {count(result.bandwidth, 'B/s')}")
    if result.ping:
        machine.append(f"ping {result.ping * 1e9:.0f} ns ({STATES[result.state]})")
    if result.stopped:
        machine.append(f"{len(result.rounds)} rounds, {STOPPED[result.stopped]}")
    busy = sum(bool(each["others"]) for each in result.rounds)
    if busy:
        machine.append(f"other programs ran in {busy} of them")
    restless = sum(not each["quiet"] for each in result.rounds)
    if restless:
        machine.append(f"threads of the peers did not come to rest in {restless} of them")
    name = (
        f"{problem.title}  {problem.direction}, batch {problem.batch}, {problem.shape.key}, {size}"
    )
    lines = [name, "  " + "; ".join(machine)] if machine else [name]
    return "\n".join(lines + [_line(row, result) for row in result.rows])


def _line(row: RowResult, result: ProblemResult) -> str:
    label = f"  {row.name:<24}"
    if row.summary is None:
        return f"{label} - {row.absent}{f', not timed: {row.verdict}' if row.verdict else ''}"
    parts = [label, f"{seconds(row.summary.median):>9} +-{100 * row.summary.spread:4.1f} %"]
    if row.flops and not _waits_for_memory(result):
        share = "" if row.of_peak is None else f" {100 * row.of_peak:4.0f} % of peak"
        parts.append(f"{count(row.flops, 'FLOP/s'):>13}{share}")
    else:
        share = "" if row.of_bandwidth is None else f" {100 * row.of_bandwidth:4.0f} % of read"
        parts.append(f"{count(row.bandwidth, 'B/s'):>13}{share}")
    parts += [
        ratio_text(ratio, name.split()[0])
        for name, ratio in result.ratios.items()
        if name.split(" / ")[1] == row.name
    ]
    text = "  ".join(parts) + (f"  [{row.plan}]" if row.plan else "")
    return text + "".join(f"\n    ! {flag}" for flag in row.flags)


def _waits_for_memory(result: ProblemResult) -> bool:
    """Whether reading the operands at the measured bandwidth takes longer than the arithmetic."""
    if not (result.peak and result.bandwidth):
        return False
    reading = result.problem.bytes_moved / result.bandwidth
    return reading > 2 * result.problem.macs_inside / result.peak


def ratio_text(ratio: Ratio, rival: str = "") -> str:
    """``2.49x pytorch [2.41, 2.56]``: how many times as fast, and the 95 % interval."""
    value = f"{ratio.value:.2f}x{rival and ' ' + rival}"
    if ratio.high == float("inf"):
        return f"{value} [too few samples]"
    return f"{value} [{ratio.low:.2f}, {ratio.high:.2f}]"
