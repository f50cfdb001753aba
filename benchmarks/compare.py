"""Two JSON files side by side: which rows became slower.

Machines drift between two runs, so where both runs measured the same rival in the same rounds, our
time is compared relative to the rival's; else times are compared as they are, which asks for the
same processor, threads and instruction set. A row counts as slower where the whole 95 % interval of
new / old lies above 1 + the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .session import OURS
from .statistics import Ratio, geometric_mean, ratio_of_medians

SAME, SLOWER, NOT_COMPARABLE = 0, 1, 2


@dataclass(frozen=True)
class Change:
    """One row in both files; ``ratio`` is new time over old."""

    problem: str
    row: str
    ratio: Ratio
    relative_to: str


def compare(old: dict[str, Any], new: dict[str, Any], threshold: float) -> tuple[str, int]:
    """The text to show and the exit code: 0 nothing slower, 1 something is, 2 not comparable."""
    differing = _differences(old, new)
    found = _changes(old, new, absolute=not differing)
    if not found:
        reason = f" ({'; '.join(differing)})" if differing else ""
        return f"nothing to compare: no common row{reason}", NOT_COMPARABLE
    lines = [f"note: {text}; compared relative to a rival only" for text in differing]
    slower = [change for change in found if change.ratio.low > 1 + threshold]
    faster = [change for change in found if change.ratio.high < 1 - threshold]
    for title, changes in (("slower", slower), ("faster", faster)):
        for change in sorted(changes, key=lambda change: -abs(change.ratio.value - 1)):
            ratio = change.ratio
            lines.append(
                f"{title}: {change.problem} {change.row}: {ratio.value:.2f}x the time"
                f" [{ratio.low:.2f}, {ratio.high:.2f}] {change.relative_to}"
            )
    mean = geometric_mean([change.ratio.value for change in found])
    lines.append(
        f"{len(found)} rows compared: {len(slower)} slower, {len(faster)} faster by more than"
        f" {100 * threshold:.0f} %; new / old time {mean:.3f} in the geometric mean"
    )
    return "\n".join(lines), SLOWER if slower else SAME


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    texts = []
    for name, where, field in (
        ("processor", "machine", "processor"),
        ("threads", "options", "threads"),
        ("instruction set", "options", "isa"),
    ):
        before, after = old[where].get(field), new[where].get(field)
        if before != after:
            texts.append(f"{name} differs: {before} and {after}")
    return texts


def _changes(old: dict[str, Any], new: dict[str, Any], absolute: bool) -> list[Change]:
    before = {problem["id"]: problem for problem in old["problems"]}
    found = []
    for problem in new["problems"]:
        earlier = before.get(problem["id"])
        if earlier is None:
            continue
        for name in (row["name"] for row in problem["rows"] if row["name"].startswith(OURS)):
            rival = _rival(earlier, problem)
            if rival is None and not absolute:
                continue
            then, now = _figures(earlier, name, rival), _figures(problem, name, rival)
            if then and now:
                about = f"relative to {rival}" if rival else "in time"
                ratio = ratio_of_medians(now, then, paired=False)
                found.append(Change(problem["id"], name, ratio, about))
    return found


def _rival(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first row of another library, the reference aside, that both files timed."""
    timed = {row["name"] for row in old["rows"] if row["samples"]}
    for row in new["rows"]:
        if not row["name"].startswith((OURS, "numpy")) and row["samples"] and row["name"] in timed:
            return str(row["name"])
    return None


def _figures(problem: dict[str, Any], name: str, rival: str | None) -> list[float]:
    """A row's times, or times over the rival's of the same round, in one state of the machine."""
    rows = {row["name"]: row["samples"] for row in problem["rows"]}
    samples = rows.get(name, {})
    states = [each["state"] for each in problem["rounds"]]
    used = [key for key in samples if states[int(key)] == problem["state"]] or list(samples)
    if rival is None:
        return [samples[key] for key in used]
    return [samples[key] / rows[rival][key] for key in used if key in rows[rival]]
