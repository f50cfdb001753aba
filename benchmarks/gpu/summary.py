"""Tables from raw results: geometric means by family and dtype, what memory bounds, what is behind.

python -m benchmarks.gpu.summary FILE.json ...
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

#: what is aimed at: the mean of PyTorch's time over ours, and the least of any row
MEANS = {"forward": 1.0, "grad_input": 0.95, "grad_weight": 0.95}
MEANS_OF_DTYPE = {"high": 1.3, "tf32": 1.0}  # in every direction
LEAST = 0.8
COPY_SHARE, INSTEAD = 0.9, 1.2  # of a copy's bandwidth; or so many times PyTorch
WORST = 12
NOT_KERNELS = ("fastconv", "pytorch", "copy")
WHOLE = ("network", "training")


def medians(row: Row) -> dict[str, float]:
    """Seconds of each implementation."""
    return {name: statistics.median(times) for name, times in row["times"].items()}


def ratio(row: Row, other: str = "pytorch") -> float:
    """The other's time over ours: above 1 ours is faster."""
    found = medians(row)
    return found[other] / found["fastconv"] if other in found else float("nan")


def copy_share(row: Row, limits: dict[str, Any]) -> float:
    """Bytes a second over those of a large copy on the device."""
    return float(row["bytes"]) / medians(row)["fastconv"] / limits["copy_bytes_per_second"]


def met(row: Row, limits: dict[str, Any]) -> bool:
    """At memory's speed, or where that is out of reach for PyTorch too, ahead of it."""
    return copy_share(row, limits) >= COPY_SHARE or ratio(row) >= INSTEAD


def limits_text(limits: dict[str, Any]) -> str:
    """What the device can do, and what a call costs the host."""
    copy = limits["copy_bytes_per_second"] / 1e12
    lines = [f"copy {copy:.2f} TB/s"]
    for name, flops in limits["matrix_flops"].items():
        lines.append(f"matrix product of PyTorch, {name}: {flops / 1e12:.0f} TFLOP/s")
    for name, seconds in limits["host_seconds"].items():
        lines.append(f"host time of a small conv2d, {name}: {seconds * 1e6:.1f} us")
    return "\n".join(lines)


def line(row: Row, limits: dict[str, Any]) -> str:
    """One row as it is measured."""
    found = medians(row)
    text = f"{row['dtype']:8} {row['direction']:15} n{row['batch']:<3} {row['title']:38} "
    if row["operation"] in WHOLE:
        others = [f"{name} {t * 1e3:.2f} ms" for name, t in found.items() if name != "fastconv"]
        return text + f"{found['fastconv'] * 1e3:8.2f} ms  {', '.join(others)}"
    ours = found["fastconv"]
    text += f"{ours * 1e6:8.1f} us "
    text += f"{row['flops'] / ours / 1e12:6.1f} TFLOP/s" if row["flops"] else ""
    text += f" {copy_share(row, limits):4.0%} of copy  x{ratio(row):5.2f}"
    if "plan" in row:
        text += f"  {row['plan']['kernel']} / {row['plan']['splits']}"
    if row["graph"]:
        text += f"  graph x{row['graph']['pytorch'] / row['graph']['fastconv']:.2f}"
    forced = {name: t for name, t in found.items() if name not in NOT_KERNELS}
    for name in sorted(forced, key=forced.__getitem__)[:3]:
        text += f"  {name} {ours / forced[name]:.2f}"
    return text


def summary(content: dict[str, Any]) -> str:
    """Everything that is said of a file."""
    device, rows = content["device"], content["rows"]
    head = f"{device['name']}, driver {device.get('driver_version')}, commit {content['commit']}"
    if not content["complete"]:
        head += ", not complete"
    kinds: tuple[
        tuple[Callable[[Row], bool], Callable[[list[Row], dict[str, Any]], list[str]]], ...
    ]
    kinds = (
        (lambda row: row["operation"] not in WHOLE and row["kind"] != "memory-bound", _layers),
        (lambda row: row["kind"] == "memory-bound", _memory_bound),
        (lambda row: row["operation"] in WHOLE, _whole),
    )
    lines = [head]
    for belongs, table in kinds:
        members = [row for row in rows if belongs(row)]
        if members:
            lines += ["", *table(members, content["limits"])]
    return "\n".join([*lines, *(f"WRONG {text}" for text in content["wrong"])])


def _mean(rows: Sequence[Row]) -> str:
    values = [ratio(row) for row in rows]
    return f"{statistics.geometric_mean(values):.2f}x ({len(values)})" if values else ""


def _is_direct(row: Row, limits: dict[str, Any]) -> bool:
    """No direct algorithm is faster than PyTorch's own matrix product."""
    return not (
        row["dtype"] in ("float32", "high")
        and row["flops"] / medians(row)["pytorch"] > 1.05 * limits["matrix_flops"]["float32"]
    )


def _layers(rows: list[Row], limits: dict[str, Any]) -> list[str]:
    """A line a family, a column a dtype; rows that PyTorch does by fewer multiplications apart."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    apart = [row for row in rows if not _is_direct(row, limits)]
    columns = [*dtypes, *(["float32, PyTorch by Winograd or FFT"] if apart else [])]
    lines = [
        f"| geometric mean (rows) | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["operation"], row["direction"], row["batch"])
        groups.setdefault(key, []).append(row)
    for (operation, direction, batch), members in groups.items():
        cells = [
            _mean([r for r in members if r["dtype"] == dtype and _is_direct(r, limits)])
            for dtype in dtypes
        ]
        cells += [_mean([r for r in members if not _is_direct(r, limits)])] if apart else []
        lines.append(f"| {operation} {direction}, batch {batch} | {' | '.join(cells)} |")
    return [*lines, *_totals(rows, limits)]


def _totals(rows: list[Row], limits: dict[str, Any]) -> list[str]:
    """Means over all batches beside what is aimed at, and the rows furthest below it."""
    lines = [""]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["operation"] == "conv2d" and _is_direct(row, limits):
            groups.setdefault((row["direction"], row["dtype"]), []).append(row)
    for (direction, dtype), members in groups.items():
        wanted = MEANS_OF_DTYPE.get(dtype, MEANS[direction])
        low = sorted((row for row in members if ratio(row) < LEAST), key=ratio)
        best = max(members, key=lambda row: row["flops"] / medians(row)["fastconv"])
        rate = best["flops"] / medians(best)["fastconv"] / 1e12
        lines.append(
            f"conv2d {direction} {dtype}: {_mean(members)}, wanted {wanted:.2f}x; "
            f"{len(low)} rows below {LEAST}x; best {rate:.0f} TFLOP/s ({best['title']} "
            f"n{best['batch']})"
        )
        lines += [f"    {line(row, limits)}" for row in low[:WORST]]
    return lines


def _memory_bound(rows: list[Row], limits: dict[str, Any]) -> list[str]:
    """A line a row. A copy of as many bytes is slower than a large one where they are few."""
    columns = ("", "dtype", "us", "GB/s", "of a large copy", "of a copy of as many bytes",
               "PyTorch's time / ours", "met")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        found = medians(row)
        ours = found["fastconv"]
        alike = f"{found['copy'] / ours:.0%}" if "copy" in found else ""
        lines.append(
            f"| {row['title']} {row['direction']} | {row['dtype']} | {ours * 1e6:.1f} | "
            f"{row['bytes'] / ours / 1e9:.0f} | {copy_share(row, limits):.0%} | {alike} | "
            f"{ratio(row):.2f} | {'yes' if met(row, limits) else 'no'} |"
        )
    done = sum(met(row, limits) for row in rows)
    lines.append(f"{done} of {len(rows)} rows at {COPY_SHARE:.0%} of a copy or {INSTEAD}x PyTorch")
    return lines


def _whole(rows: list[Row], limits: dict[str, Any]) -> list[str]:
    """Networks: milliseconds of each implementation, and theirs over our best."""
    lines = []
    for row in rows:
        found = medians(row)
        ours = min((name for name in found if name.startswith("fastconv")), key=found.__getitem__)
        lines.append(f"{row['title']} {row['direction']} {row['dtype']}, batch {row['batch']}: "
                     f"{ours} {found[ours] * 1e3:.2f} ms, error {_error(row, ours)}")  # fmt: skip
        lines += [
            f"    {name} {seconds * 1e3:.2f} ms, x{seconds / found[ours]:.2f}, "
            f"error {_error(row, name)}"
            for name, seconds in found.items()
            if name != ours
        ]
    return lines


def _error(row: Row, name: str) -> str:
    error = row["errors"].get(name)
    return f"{error:.2g}" if isinstance(error, float) else str(error)


def every_layer(content: dict[str, Any]) -> str:
    """A line a layer: its speed, shares of what the device can do, and beside PyTorch."""
    limits = content["limits"]
    columns = ("layer", "direction", "batch", "dtype", "us", "TFLOP/s", "of the matrix peak",
               "of a copy", "PyTorch's time / ours", "kernel, splits")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in content["rows"]:
        if row["operation"] in WHOLE or row["kind"] == "memory-bound":
            continue
        seconds = medians(row)["fastconv"]
        rate = row["flops"] / seconds
        peak = limits["matrix_flops"].get({"float16": "bfloat16"}.get(row["dtype"], row["dtype"]))
        plan = row.get("plan", {})
        cells = (
            row["title"], row["direction"], row["batch"], row["dtype"], f"{seconds * 1e6:.1f}",
            f"{rate / 1e12:.1f}", f"{rate / peak:.0%}" if peak else "",
            f"{copy_share(row, limits):.0%}", f"{ratio(row):.2f}",
            f"{plan.get('kernel', '')}, {plan.get('splits', '')}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def against(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Our old time over our new one, of rows in both files: a mean a family, the extremes."""
    before = {(row["id"], row["dtype"]): row for row in old["rows"]}
    groups: dict[tuple[str, str, str], list[tuple[float, Row]]] = {}
    for row in new["rows"]:
        earlier = before.get((row["id"], row["dtype"]))
        if earlier is not None:
            gain = medians(earlier)["fastconv"] / medians(row)["fastconv"]
            key = (row["operation"], row["direction"], row["dtype"])
            groups.setdefault(key, []).append((gain, row))
    lines = [f"{old['commit']} on {old['device']['name']} -> {new['commit']} on "
             f"{new['device']['name']}: old time / new time"]  # fmt: skip
    for key, members in groups.items():
        members.sort(key=lambda pair: pair[0])
        mean = statistics.geometric_mean([gain for gain, _ in members])
        (least, slowest), (most, fastest) = members[0], members[-1]
        lines.append(
            f"{' '.join(key)}: {mean:.2f}x ({len(members)}), from {least:.2f}x "
            f"({slowest['title']}) to {most:.2f}x ({fastest['title']})"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """The exit code."""
    from .. import results

    options, paths = arguments[:1], arguments[1:]
    if options not in (["--rows"], ["--against"]):
        options, paths = [], arguments
    if not paths or (options == ["--against"] and len(paths) != 2):
        print(__doc__)
        return 2
    files = [results.read(Path(path)) for path in paths]
    if options == ["--against"]:
        print(against(*files))
        return 0
    for content in files:
        print(summary(content))
        if options:
            print("\n" + every_layer(content))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
