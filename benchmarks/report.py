"""The table on the terminal: one block a problem, then geometric means and networks' totals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from .results import ProblemResult, RowResult
from .session import OURS
from .statistics import Ratio, geometric_mean

WORST_ROWS = 5
MOST_BUSY = 0.2  # share of rounds with other programs running, above which the report warns

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


def header(about: dict[str, Any], options: dict[str, Any], missing: dict[str, str]) -> str:
    """What is measured, on what, and what is left out and why."""
    machine, versions = about["machine"], about["versions"]
    packing = "before" if options["suite"] == ["networks"] else "inside"
    place = {True: "a virtual machine", False: "hardware"}.get(machine["virtual"], "hardware?")
    lines = [
        f"{machine['processor']}, {machine['processors']} processors, {place}, {machine['system']}",
        f"{options['threads']} threads, float32, warm; packing of weights {packing} the time",
        ", ".join(f"{name} {text}" for name, text in versions.items()),
    ]
    if options.get("isa"):
        limits = "ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA"
        lines.append(f"limited to {options['isa']}: fastconv, and PyTorch by {limits}")
    lines += [f"without {name}: {reason}" for name, reason in missing.items()]
    if not about["probes"]:
        lines.append("without fastconv's compiled module: no peak, no bandwidth, no ping")
    return "\n".join(lines)


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


def summary(results: Sequence[ProblemResult]) -> str:
    """Geometric means by direction and batch, by kind, the worst rows, and networks' totals."""
    lines = []
    groups: dict[tuple[str, str, int], list[ProblemResult]] = {}
    for result in results:
        for pair in result.ratios:
            key = (pair, result.problem.direction, result.problem.batch)
            groups.setdefault(key, []).append(result)
    for (pair, direction, batch), members in groups.items():
        lines += _group(pair, direction, batch, members)
    lines += _against_best(results)
    return "\n".join([*lines, *_totals(results), *_wrong(results), *_disturbed(results)])


def _group(pair: str, direction: str, batch: int, members: list[ProblemResult]) -> list[str]:
    theirs, ours = pair.split(" / ")
    ratios = [result.ratios[pair] for result in members]
    mean = geometric_mean([ratio.value for ratio in ratios])
    lines = [
        f"{ours} against {theirs}, {direction}, batch {batch}: {mean:.2f}x"
        f" (geometric mean over {len(members)} distinct shapes)"
    ]
    kinds: dict[str, list[float]] = {}
    for result, ratio in zip(members, ratios, strict=True):
        kinds.setdefault(result.problem.shape.kind, []).append(ratio.value)
    if len(kinds) > 1:
        parts = [
            f"{kind} {geometric_mean(values):.2f}x ({len(values)})"
            for kind, values in kinds.items()
        ]
        lines.append("  by kind: " + ", ".join(parts))
    if len(members) > 1:
        worst = sorted(members, key=lambda result: result.ratios[pair].value)[:WORST_ROWS]
        parts = [f"{result.problem.title} {ratio_text(result.ratios[pair])}" for result in worst]
        lines.append("  worst: " + ", ".join(parts))
    behind = sum(ratio.high < 1 for ratio in ratios)
    lines.append(f"  {behind} of {len(members)} rows behind with 95 % confidence")
    return lines


def _against_best(results: Sequence[ProblemResult]) -> list[str]:
    """Networks against the best of the others, each in its own rounds."""
    groups: dict[int, list[tuple[str, Ratio, str]]] = {}
    for result in results:
        if result.problem.shape.operation == "network" and result.ratios:
            pair, ratio = min(result.ratios.items(), key=lambda item: item[1].value)
            best = (result.problem.shape.key, ratio, pair.split(" / ")[0])
            groups.setdefault(result.problem.batch, []).append(best)
    lines = []
    for batch, members in groups.items():
        mean = geometric_mean([ratio.value for _, ratio, _ in members])
        parts = [f"{name} {ratio_text(ratio, rival)}" for name, ratio, rival in members]
        lines.append(
            f"networks, batch {batch}, against the best of the others: {mean:.2f}x"
            f" (geometric mean of {len(members)}): {', '.join(parts)}"
        )
    return lines


def _totals(results: Sequence[ProblemResult]) -> list[str]:
    """Sums of count x median over a network's layers, for rows that have every measured layer."""
    from .shapes import layers

    lines = []
    measured: dict[tuple[str, int, str], list[ProblemResult]] = {}
    for result in results:
        for network in {layer.network for layer in result.problem.layers}:
            key = (result.problem.direction, result.problem.batch, network)
            measured.setdefault(key, []).append(result)
    for (direction, batch, network), members in measured.items():
        operations = {result.problem.shape.operation for result in members}
        expected = {
            (layer.shape.operation, layer.shape.key)
            for layer in layers()
            if layer.network == network and layer.shape.operation in operations
            and direction in layer.shape.directions
        }  # fmt: skip
        if len(expected) != len(members):
            continue  # part of a network has no total
        names = [row.name for row in members[0].rows]
        sums = {
            name: sum(_weighted(result, name, network) for result in members)
            for name in names
            if all(_row_in_total(result, name) for result in members)
        }
        if sums:
            parts = ", ".join(f"{name} {seconds(value)}" for name, value in sums.items())
            kinds = "+".join(sorted(operations))
            lines.append(
                f"{network} ({kinds}, {direction}, batch {batch}), sum of count x median: {parts}"
            )
    return lines


def _row_in_total(result: ProblemResult, name: str) -> RowResult | None:
    """The row of that name; matrices have one order, and one row for either order's total."""
    host, _, variant = name.partition(" ")
    if result.problem.shape.operation == "linear" and variant.endswith(
        ("channels_last", "C order")
    ):
        own = (row for row in result.rows if row.summary and row.name.startswith(f"{host} "))
        return next(own, None)
    return result.row(name)


def _weighted(result: ProblemResult, name: str, network: str) -> float:
    row = _row_in_total(result, name)
    assert row is not None
    assert row.summary is not None
    times = sum(layer.count for layer in result.problem.layers if layer.network == network)
    return times * row.summary.median


def _wrong(results: Sequence[ProblemResult]) -> list[str]:
    return [
        f"{row.absent}, not timed: {row.name} on {result.problem.identity}: {row.verdict}"
        for result in results
        for row in result.rows
        if row.verdict is not None and not row.verdict.passed
    ]


def _disturbed(results: Sequence[ProblemResult]) -> list[str]:
    """A busy machine hits libraries unequally: interleaving does not save the ratios."""
    rounds = [each for result in results for each in result.rounds]
    busy = sum(bool(each["others"]) for each in rounds)
    if busy <= MOST_BUSY * len(rounds):
        return []
    share = 100 * busy / len(rounds)
    return [f"Other programs ran in {share:.0f} % of the rounds: do not quote these figures."]


def wrong_ours(results: Sequence[ProblemResult]) -> bool:
    """Whether an implementation of fastconv's gave a wrong result."""
    return any(
        row.verdict is not None and not row.verdict.passed and row.name.startswith(OURS)
        for result in results
        for row in result.rows
    )
