"""Activations, sums, dropout: over the activations of ResNet-50's first stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fastconv as fc
import torch
import torch.nn.functional as F
from fastconv.layers.arithmetic import add, add_relu

from ..checks import dropout_error
from ..rows import images
from .row import Operands, Row, Sizes, row, size_of

aten = torch.ops.aten


def rows(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    size = size_of(sizes.image, dtype.itemsize)

    def make() -> Operands:
        return {name: images(*sizes.image, dtype=dtype) for name in ("x", "y")}

    calls: list[tuple[str, str, int, Callable[[Operands], Any], Callable[[Operands], Any]]] = [
        ("relu", "forward", 2, lambda o: fc.relu(o["x"]), lambda o: torch.relu(o["x"])),
        ("relu", "backward", 3, lambda o: fc.relu_backward(o["x"], o["y"]),
         lambda o: aten.threshold_backward(o["x"], o["y"], 0)),
        ("sigmoid", "forward", 2, lambda o: fc.sigmoid(o["x"]), lambda o: torch.sigmoid(o["x"])),
        ("sigmoid", "backward", 3, lambda o: fc.sigmoid_backward(o["x"], o["y"]),
         lambda o: aten.sigmoid_backward(o["x"], o["y"])),
        ("tanh", "forward", 2, lambda o: fc.tanh(o["x"]), lambda o: torch.tanh(o["x"])),
        ("add", "forward", 3, lambda o: add(o["x"], o["y"]), lambda o: o["x"] + o["y"]),
        ("add_relu", "forward", 3, lambda o: add_relu(o["x"], o["y"]),
         lambda o: torch.relu_(o["x"] + o["y"])),
        ("grad_bias", "backward", 1, lambda o: fc.ops.conv2d_grad_bias(o["x"]),
         lambda o: o["x"].sum((0, 2, 3))),
    ]  # fmt: skip
    for name, direction, passes, ours, theirs in calls:
        yield row(name, direction, passes * size, make, ours, theirs)
    yield row(
        "dropout", "forward", 2 * size, make, lambda o: fc.dropout(o["x"], 0.5, seed=1),
        lambda o: F.dropout(o["x"], 0.5), check=dropout_error,
    )  # fmt: skip

    def with_mask() -> Operands:
        return {**make(), "mask": images(*sizes.image, dtype=dtype) > 0}

    yield row(
        "dropout", "backward", 2 * size, with_mask,
        lambda o: fc.dropout_backward(o["x"], 0.5, seed=1),
        lambda o: aten.native_dropout_backward(o["x"], o["mask"], 2.0), check=dropout_error,
    )  # fmt: skip
