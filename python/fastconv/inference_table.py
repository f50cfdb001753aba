"""The steps of an inference plan as tables: `str(plan)` and `plan.profile(x)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastconv.graph import Shape


@dataclass(frozen=True)
class Row:
    """A step as `str(plan)` prints it.

    `kernel` is a convolution's algorithm, on a GPU its kernel; `buffer` the bytes of the arena that
    the result lies in, with its channels where others lie between them. `bytes` counts what is read
    (constants too) and written, each once; a concatenation in place has none.
    """

    operation: str
    layer: str
    inputs: tuple[Shape, ...]
    output: Shape
    kernel: str
    buffer: str
    multiply_adds: int
    bytes: int

    @property
    def shapes(self) -> str:
        return " + ".join(str(shape) for shape in self.inputs)


@dataclass(frozen=True)
class StepTime:
    """A step and the median of its times."""

    row: Row
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Where a run's time goes: what `InferencePlan.profile` returns; `print` it.

    A step's floor is the larger of 2 multiply_adds / peak_flops and bytes / read_bytes_per_second:
    the first may be undercut by Winograd's algorithm, the second where a step's operands are still
    in a cache.

    Attributes
    ----------
    steps : tuple of StepTime
    seconds : float
        Median of whole runs, with the copies of x and the results.
    peak_flops, read_bytes_per_second : float
        Of this machine, measured beside the runs, with the plan's threads; reads from memory.
    """

    steps: tuple[StepTime, ...]
    seconds: float
    peak_flops: float
    read_bytes_per_second: float

    def floor(self, row: Row) -> float:
        """Seconds."""
        compute = 2 * row.multiply_adds / self.peak_flops
        return max(compute, row.bytes / self.read_bytes_per_second)

    def __str__(self) -> str:
        cells = [("us", "GFLOP/s", "GB/s", "floor", "operation", "layer", "output", "kernel")]
        for step in self.steps:
            row, seconds = step.row, max(step.seconds, 1e-9)
            cells.append((
                f"{step.seconds * 1e6:.1f}", f"{2 * row.multiply_adds / seconds / 1e9:.0f}",
                f"{row.bytes / seconds / 1e9:.1f}", f"{self.floor(row) * 1e6:.1f}",
                row.operation, row.layer, str(row.output), row.kernel,
            ))  # fmt: skip
        total = sum(step.seconds for step in self.steps)
        floor = sum(self.floor(step.row) for step in self.steps)
        foot = (
            f"{self.seconds * 1e3:.3f} ms a run, {total * 1e3:.3f} ms in {len(self.steps)} steps, "
            f"{floor * 1e3:.3f} ms their floors ({self.peak_flops / 1e9:.0f} GFLOP/s, "
            f"{self.read_bytes_per_second / 1e9:.0f} GB/s measured)"
        )
        return "\n".join([*table(cells), foot])


def plan_table(rows: Sequence[Row]) -> list[str]:
    """What `str(plan)` prints of its steps."""
    cells = [("operation", "layer", "inputs", "output", "kernel", "bytes of the arena")]
    for row in rows:
        shapes, output = row.shapes, str(row.output)
        cells.append((row.operation, row.layer, shapes, output, row.kernel, row.buffer))
    return table(cells)


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned, a rule under the first line."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return [text[0], "-" * max(map(len, text)), *text[1:]]
