"""What a run's end prints: geometric means, the worst rows, networks' totals, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from .report import ratio_text, seconds
from .results import ProblemResult, RowResult
from .session import OURS
from .shapes import layers
from .statistics import Ratio, geometric_mean

WORST_ROWS = 5
MOST_BUSY = 0.2  # share of rounds with other programs running, above which the report warns
FAR_OFF = 1.1  # the choice of an algorithm that costs this many times the best one's time is told


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
    lines += _against_named(results)
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


def _against_named(results: Sequence[ProblemResult]) -> list[str]:
    """``auto`` against the fastest of the algorithms that were measured by name."""
    groups: dict[tuple[str, int], list[ProblemResult]] = {}
    for result in results:
        if result.named:
            key = (result.problem.direction, result.problem.batch)
            groups.setdefault(key, []).append(result)
    lines = []
    for (direction, batch), members in groups.items():
        best = [min(result.named.items(), key=lambda item: item[1].value) for result in members]
        names = dict.fromkeys(_algorithm(pair) for result in members for pair in result.named)
        mean = geometric_mean([ratio.value for _, ratio in best])
        pairs = list(zip(members, best, strict=True))
        alike = sum(_takes(result, _algorithm(pair)) for result, (pair, _) in pairs)
        lines.append(
            f"{OURS} auto against the best of {', '.join(names)}, {direction}, batch {batch}:"
            f" {mean:.3f}x (geometric mean over {len(members)} distinct shapes; in {alike} of them"
            f" auto runs that best one itself)"
        )
        worst = sorted(pairs, key=lambda item: item[1][1].value)[:WORST_ROWS]
        parts = [
            f"{result.problem.title} {ratio_text(ratio, _algorithm(pair))}"
            for result, (pair, ratio) in worst
        ]
        lines.append("  worst: " + ", ".join(parts))
        far = sum(ratio.value * FAR_OFF < 1 for _, ratio in best)
        percent = round(100 * (FAR_OFF - 1))
        lines.append(f"  {far} of {len(members)} rows more than {percent} % slower than the best")
    return lines


def _algorithm(pair: str) -> str:
    """``direct`` of ``fastconv direct / fastconv auto``."""
    return pair.split(" / ")[0].removeprefix(f"{OURS} ")


def _takes(result: ProblemResult, algorithm: str) -> bool:
    """Whether ``auto``'s plan is that algorithm's."""
    row, other = result.row(f"{OURS} auto"), result.row(f"{OURS} {algorithm}")
    return (
        row is not None and other is not None and row.plan.split(" ")[0] == other.plan.split(" ")[0]
    )


def _totals(results: Sequence[ProblemResult]) -> list[str]:
    """Sums of count x median over a network's layers, for rows that have every measured layer."""
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
