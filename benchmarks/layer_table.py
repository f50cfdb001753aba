"""What ``--layers`` prints of a network's steps, and what the JSON file keeps of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from .layer_times import LayerTime, LayerTimes
from .report import STATES, count, seconds

HEADINGS = (
    "layer", "algorithm", "MMAC", "done", "weights", "in + out", "read at", "floor", "set by",
    "time", "GFLOP/s", "time/floor",
)  # fmt: skip
LEFT = {"layer", "algorithm", "set by"}


def table(name: str, times: LayerTimes) -> str:
    """A line about the machine, a row a step, the total, the whole run."""
    steps = times.steps
    floor, spent = sum(step.floor for step in steps), sum(step.seconds for step in steps)
    macs = sum(step.work.macs for step in steps)
    total = (
        "total", "", _millions(macs), _millions(sum(step.work.macs_done for step in steps)),
        _bytes(sum(step.work.weight_bytes for step in steps)),
        _bytes(sum(step.work.activation_bytes for step in steps)), "", seconds(floor), "",
        seconds(spent), f"{2 * macs / spent / 1e9:.0f}", f"{spent / floor:.2f}",
    )  # fmt: skip
    cells = [HEADINGS, *(_cells(step, times) for step in steps), total]
    return "\n".join([_machine(name, times), *_aligned(cells), _whole_run(times, floor)])


def _machine(name: str, times: LayerTimes) -> str:
    busy = sum(bool(this.others) for this in times.rounds)
    parts = [
        f"{len(times.rounds)} rounds",
        STATES[times.state],
        *([f"other programs ran in {busy} of them"] if busy else []),
        f"peak {count(times.peak, 'FLOP/s')}",
        f"a run touches {count(times.run_bytes, 'B')}, so weights are read at"
        f" {count(times.bandwidths[times.run_bytes], 'B/s')}",
    ]
    return f"{name} by its steps  {'; '.join(parts)}"


def _cells(step: LayerTime, times: LayerTimes) -> tuple[str, ...]:
    work = step.work
    counted = work.operation.startswith(("conv2d", "linear"))
    rate = times.bandwidths.get(work.activation_bytes)
    return (
        work.layer,
        work.algorithm or work.operation,
        _millions(work.macs) if counted else "",
        _millions(work.macs_done) if counted else "",
        _bytes(work.weight_bytes),
        _bytes(work.activation_bytes),
        count(rate, "B/s") if rate else "",
        seconds(step.floor) if step.floor else "",
        ("arithmetic" if step.arithmetic >= step.memory else "memory") if step.floor else "",
        seconds(step.seconds),
        f"{step.flops / 1e9:.0f}" if counted else "",
        f"{step.seconds / step.floor:.2f}" if step.floor else "",
    )


def _whole_run(times: LayerTimes, floor: float) -> str:
    return (
        f"a whole run {seconds(times.run_seconds)}, {times.run_seconds / floor:.2f} times the sum"
        f" of the floors"
    )


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.1f}"


def _bytes(number: int) -> str:
    return count(number, "B") if number else ""


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if heading in LEFT else cell.rjust(width)
            for heading, cell, width in zip(HEADINGS, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def to_json(times: LayerTimes) -> dict[str, Any]:
    """Everything the table is made of, as plain values."""
    return {
        **dataclasses.asdict(times),
        "steps": [
            {
                **dataclasses.asdict(step.work),
                "arithmetic_seconds": step.arithmetic,
                "memory_seconds": step.memory,
                "floor_seconds": step.floor,
                "seconds": step.seconds,
                "effective_flops": step.flops,
            }
            for step in times.steps
        ],
    }
