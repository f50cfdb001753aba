"""From rounds to figures, and from figures to the JSON file.

The file holds every sample, so that anything the table says can be computed again. ``SCHEMA`` is
raised when a field changes its meaning.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .checking import Verdict
from .problems import Problem
from .statistics import Ratio, Summary, ratio_of_medians, summarize
from .timing import Measured, Row, states, used_rounds

SCHEMA = 1

#: above the measured limit by more than this, a figure is flagged: the probes have spread too
SLACK = 1.05
#: what matrix tiles make of float32 against multiply-adds: 16 times the rate, six products for each
MATRIX_TILES = 16 / 6


@dataclass
class RowResult:
    """One implementation of one problem. Times in seconds a call, rates a second."""

    name: str
    verdict: Verdict | None = None
    absent: str = ""  # why it was not timed
    plan: str = ""
    calls: int = 0
    samples: dict[int, float] = field(default_factory=dict)
    summary: Summary | None = None
    flops: float = 0.0  # 2 x multiply-adds of the direct algorithm, those in the padding included
    bandwidth: float = 0.0  # operands and results once
    of_peak: float | None = None
    of_bandwidth: float | None = None
    flags: list[str] = field(default_factory=list)


@dataclass
class ProblemResult:
    """All rows of one problem, and the machine while they were measured."""

    problem: Problem
    rows: list[RowResult]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    state: str = "-"
    stopped: str = ""
    ping: float | None = None
    peak: float | None = None
    bandwidth: float | None = None
    ratios: dict[str, Ratio] = field(
        default_factory=dict
    )  # "theirs / ours": above 1 ours is faster
    named: dict[str, Ratio] = field(
        default_factory=dict
    )  # "an algorithm by its name / auto": below 1 auto is slower
    steps: dict[str, Any] | None = None  # of a whole network: ``layer_table.to_json``

    def row(self, name: str) -> RowResult | None:
        """The timed row of that name."""
        return next((row for row in self.rows if row.name == name and row.summary), None)


def add_figures(
    result: ProblemResult,
    measured: Measured,
    border: float | None,
    bandwidth: float | None,
    leading: list[tuple[str, str]],
    named: list[tuple[str, str]],
) -> None:
    """Fill in everything that follows from the rounds of one state."""
    state_of = states(measured.rounds, border)
    result.state, used = used_rounds(state_of)
    result.stopped, result.bandwidth = measured.stopped, bandwidth
    result.rounds = [
        {**dataclasses.asdict(this), "state": state}
        for this, state in zip(measured.rounds, state_of, strict=True)
    ]
    result.peak = _median(measured.rounds[number].peak for number in used)
    result.ping = _median(measured.rounds[number].ping_before for number in used)
    highest = max((measured.rounds[number].peak or 0 for number in used), default=0)
    by_name = {row.name: row for row in measured.rows}
    for row in result.rows:
        if row.name in by_name:
            _add_row(row, by_name[row.name], used, result, highest)
    for pairs, ratios in ((leading, result.ratios), (named, result.named)):
        for pair in pairs:
            ratio = _ratio(by_name[pair[0]], by_name[pair[1]], used)
            if ratio is not None:
                ratios[" / ".join(pair)] = ratio


def _ratio(above: Row, below: Row, used: list[int]) -> Ratio | None:
    """Over the rounds that both took part in; None where there is none."""
    common = [number for number in used if number in above.samples and number in below.samples]
    if not common:
        return None
    return ratio_of_medians(
        [above.samples[number] for number in common], [below.samples[number] for number in common]
    )


def _median(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _add_row(
    row: RowResult, timed: Row, used: list[int], result: ProblemResult, highest_peak: float
) -> None:
    problem = result.problem
    row.calls, row.samples = timed.calls, dict(timed.samples)
    chosen = [timed.samples[number] for number in used if number in timed.samples]
    row.summary = summarize(chosen or list(timed.samples.values()))
    if not chosen:
        row.flags.append(f"no sample while the machine was {result.state!r}: all states mixed")
    row.flops = 2 * problem.macs / row.summary.median
    row.bandwidth = problem.bytes_moved / row.summary.median
    if result.peak and problem.macs:
        row.of_peak = row.flops / result.peak
        needed = 2 * problem.macs_inside / row.summary.median
        how = f"{row.plan} {row.name}".lower()
        most = highest_peak * (MATRIX_TILES if "matrix tiles" in how else 1)
        if needed > SLACK * most and "winograd" not in how:
            row.flags.append("faster than the multiply-adds it needs: not a direct algorithm?")
    if result.bandwidth:
        row.of_bandwidth = row.bandwidth / result.bandwidth
        if row.bandwidth > SLACK * result.bandwidth:
            row.flags.append("above the read bandwidth measured for this many bytes")


def to_json(
    results: list[ProblemResult], options: dict[str, Any], about: dict[str, Any], complete: bool
) -> dict[str, Any]:
    """Everything of one run as plain values."""
    return {
        "schema": SCHEMA,
        "complete": complete,
        "options": options,
        **about,
        "problems": [_problem_json(result) for result in results],
    }


def _problem_json(result: ProblemResult) -> dict[str, Any]:
    problem = result.problem
    plain = {
        each.name: getattr(result, each.name)
        for each in dataclasses.fields(result)
        if each.name not in ("problem", "rows", "ratios", "named")
    }
    return {
        "id": problem.identity,
        "operation": problem.shape.operation,
        "direction": problem.direction,
        "batch": problem.batch,
        "conditions": problem.conditions,
        "kind": problem.shape.kind,
        "layers": [
            {"network": layer.network, "name": layer.name, "count": layer.count}
            for layer in problem.layers
        ],
        "macs": problem.macs,
        "macs_inside": problem.macs_inside,
        "bytes": problem.bytes_moved,
        **plain,
        "ratios": {name: _ratio_json(ratio) for name, ratio in result.ratios.items()},
        "named": {name: _ratio_json(ratio) for name, ratio in result.named.items()},
        "rows": [_row_json(row) for row in result.rows],
    }


def _ratio_json(ratio: Ratio) -> dict[str, float | None]:
    """Without an interval (too few samples) ``high`` is null."""
    high = ratio.high if np.isfinite(ratio.high) else None
    return {"value": ratio.value, "low": ratio.low, "high": high}


def _row_json(row: RowResult) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    if row.verdict is not None and not np.isfinite(row.verdict.error):
        plain["verdict"]["error"] = None  # JSON has no infinity
    return plain


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Read a file of this suite; ``ValueError`` where it is none, or of another schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path}: schema {found!r}, this suite reads {SCHEMA}")
    return dict(content)
