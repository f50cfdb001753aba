"""``summary``: what each layer of a model makes, costs and sees, without running it.

Multiply-adds are those of convolutions and linear layers, for the whole input (all N images); one
is two floating-point operations. The receptive field is the window of the input that one output
element sees, padding included, "all" behind layers that see everything.

Activation memory, float32: "forward" is what a layer's output takes (nothing where it can overwrite
its input: activations, dropout, batch norm; or is only a view: flatten), "training" what is kept
for backward at that layer: outputs that some layer needs again, once each, and int64 indices of
maxima.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fastconv.graph import Graph
from fastconv.graph_rules import RULES
from fastconv.layers.base import Layer

IN_PLACE = {"relu", "sigmoid", "tanh", "dropout", "batch_norm", "position_bias", "flatten", "add"}
VALUE_BYTES = 4

Field = tuple[
    int | None, Fraction
]  # receptive field along an axis (None: all), step between outputs


@dataclass(frozen=True)
class Row:
    """One layer of the table; bytes and multiply-adds for the whole input."""

    path: str
    layer: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    forward_bytes: int
    training_bytes: int
    receptive_field: tuple[int | None, int | None]


@dataclass(frozen=True)
class Summary:
    """The table: ``str(summary)`` prints it, ``rows`` has the numbers."""

    rows: tuple[Row, ...]
    input_shape: tuple[int, ...]
    parameters: int
    unused_parameters: int = 0  # of layers that the model's mode does not run

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def forward_bytes(self) -> int:
        return sum(row.forward_bytes for row in self.rows)

    @property
    def training_bytes(self) -> int:
        return sum(row.training_bytes for row in self.rows)

    def __str__(self) -> str:
        head = (
            "layer",
            "type",
            "output",
            "parameters",
            "multiply-adds",
            "forward",
            "training",
            "sees",
        )
        lines = [head, *(_cells(row) for row in self.rows)]
        total = (
            "total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}",
            _size(self.forward_bytes), _size(self.training_bytes), "",
        )  # fmt: skip
        lines.append(total)
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        left = (True, True, True, False, False, False, False, False)
        text = [
            "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width)
                for cell, width, to_left in zip(line, widths, left, strict=True)
            ).rstrip()
            for line in lines
        ]
        rule = "-" * max(map(len, text))
        notes = (
            f"for the whole input {self.input_shape}; forward and training: float32 "
            f"activation memory, parameters {_size(VALUE_BYTES * self.parameters)}"
        )
        if self.unused_parameters:
            notes += f"\n{self.unused_parameters:,} parameters are of layers not run in this mode"
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], notes])

    def __repr__(self) -> str:
        return str(self)


def summary(model: Layer, input_shape: Sequence[int]) -> Summary:
    """What each layer makes, costs and sees, for an input of ``input_shape``; nothing is computed.

    Parameters
    ----------
    model : Layer
    input_shape : tuple of int
        With N: (1, 1, 28, 28).

    Returns
    -------
    Summary
        Prints as a table: output shape, parameters, multiply-adds, activation memory forward and in
        training, receptive field; totals last.

    Notes
    -----
    A model whose modes differ is shown in its own: GoogLeNet with its auxiliary heads in training
    mode, without them after ``model.eval()``.

    Examples
    --------
    >>> import fastconv as fc
    >>> table = fc.summary(fc.models.lenet5(), (1, 1, 32, 32))
    >>> table.parameters, table.multiply_adds
    (61706, 416520)
    """
    graph = Graph.of(model, input_shape, function="summary")
    sizes = {name: parameter.size for name, parameter in model.named_parameters()}
    kept = graph.kept_for_backward()
    fields = receptive_fields(graph)
    rows = []
    for node in graph.nodes:
        in_place = node.op in IN_PLACE or node.op == "input"
        rows.append(
            Row(
                path=node.path,
                layer=node.layer,
                output_shape=node.shape,
                parameters=sum(sizes.pop(name, 0) for name in node.parameters.values()),
                multiply_adds=graph.multiply_adds(node),
                forward_bytes=0 if in_place else VALUE_BYTES * math.prod(node.shape),
                training_bytes=kept[node.index],
                receptive_field=(fields[node.index][0][0], fields[node.index][1][0]),
            )
        )
    return Summary(tuple(rows), graph.nodes[0].shape, model.num_parameters, sum(sizes.values()))


def receptive_fields(graph: Graph) -> list[tuple[Field, Field]]:
    """Of each node: (field, step) along height and width (Araujo, Norris, Sim, Distill 2019).

    field_out = field_in + (extent - 1) * step_in;  step_out = step_in * stride;
    where a node has several inputs, the largest.
    """
    start: tuple[Field, Field] = ((1, Fraction(1)), (1, Fraction(1)))
    fields: list[tuple[Field, Field]] = []
    for node in graph.nodes:
        before = [fields[index] for index in node.inputs] or [start]
        windows = RULES[node.op].window(
            [graph.nodes[i].shape for i in node.inputs], node.attributes
        )
        height, width = (
            _grown([field[axis] for field in before], windows[axis]) for axis in (0, 1)
        )
        fields.append((height, width))
    return fields


def _grown(before: list[Field], window: Any) -> Field:
    step = max(field[1] for field in before)
    if window is None or any(field[0] is None for field in before):
        return None, step
    extent, stride = window
    largest = max(field[0] for field in before if field[0] is not None)
    return math.ceil(largest + (extent - 1) * step), step * stride


def _cells(row: Row) -> tuple[str, ...]:
    height, width = row.receptive_field
    sees = "all" if height is None or width is None else f"{height}x{width}"
    return (
        row.path or "-",
        row.layer,
        "x".join(map(str, row.output_shape)),
        f"{row.parameters:,}" if row.parameters else "",
        f"{row.multiply_adds:,}" if row.multiply_adds else "",
        _size(row.forward_bytes) if row.forward_bytes else "",
        _size(row.training_bytes) if row.training_bytes else "",
        "" if len(row.output_shape) == 2 and sees != "all" else sees,
    )


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    value, unit = count / 1024, "KiB"
    for larger in ("MiB", "GiB"):
        if value >= 1024:
            value, unit = value / 1024, larger
    return f"{value:.1f} {unit}"
