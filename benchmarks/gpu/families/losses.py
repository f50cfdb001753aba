"""Softmax over the channels of images and over rows of logits; cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fastconv as fc
import torch
import torch.nn.functional as F

from ..rows import device, images
from .row import Operands, Row, Sizes, of_graph, row, size_of, through_autograd, with_graph

aten = torch.ops.aten


def rows(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """All of them."""
    yield from _softmax(sizes, dtype)
    yield from _loss(sizes, dtype)


def _softmax(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """Over the channels of images, as a map of classes has them, and over rows of logits."""
    ours = {"softmax": (fc.softmax, fc.softmax_backward),
            "log_softmax": (fc.log_softmax, fc.log_softmax_backward)}  # fmt: skip
    theirs = {"softmax": (torch.softmax, aten._softmax_backward_data),
              "log_softmax": (torch.log_softmax, aten._log_softmax_backward_data)}  # fmt: skip
    for where, shape in (("channels", sizes.image), ("rows", sizes.logits)):
        size = size_of(shape, dtype.itemsize)
        for name, (forward, backward) in ours.items():
            theirs_forward, theirs_backward = theirs[name]

            def make(shape: Any = shape, function: Any = theirs_forward) -> Operands:
                if len(shape) == 4:
                    x, g = (images(*shape, dtype=dtype) for _ in range(2))
                else:
                    x, g = (torch.randn(shape, device=device()).to(dtype) for _ in range(2))
                return {"x": x, "g": g, "y": function(x, 1)}

            yield row(
                f"{name}_{where}", "forward", 2 * size, make,
                lambda o, f=forward: f(o["x"]), lambda o, f=theirs_forward: f(o["x"], 1),
            )  # fmt: skip
            yield row(
                f"{name}_{where}", "backward", 3 * size, make,
                lambda o, f=backward: f(o["g"], o["y"]),
                lambda o, f=theirs_backward: f(o["g"], o["y"], 1, o["y"].dtype),
            )  # fmt: skip


def _loss(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    size = size_of(sizes.logits, dtype.itemsize)
    batch, classes = sizes.logits

    def make() -> Operands:
        x = torch.randn(sizes.logits, device=device()).to(dtype)
        target = torch.randint(classes, (batch,), device=device())
        o = with_graph(x, lambda leaf: F.cross_entropy(leaf, target), dtype)
        # times the batch: else elements of the gradient are too small for float16
        return {**o, "g": torch.full_like(o["g"], batch), "target": target}

    yield row(
        "cross_entropy", "forward", size, make,
        lambda o: fc.cross_entropy(o["x"], o["target"]),
        lambda o: F.cross_entropy(o["x"], o["target"]),
    )  # fmt: skip
    yield row(
        "cross_entropy", "backward", 2 * size, make,
        lambda o: fc.cross_entropy_backward(o["x"], o["target"], grad_output=float(batch)),
        of_graph,
        exact=lambda o: through_autograd(
            lambda leaf: F.cross_entropy(leaf, o["target"]), o["x"], o["g"]
        ),
    )  # fmt: skip
