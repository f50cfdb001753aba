"""Batch norm, with and without a ReLU after it, and local response norm (AlexNet's)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fastconv as fc
import torch
import torch.nn.functional as F
from fastconv.ops.normalization import batch_norm_relu

from ..rows import device, images
from .row import Operands, Row, Sizes, of_graph, row, size_of, through_autograd, with_graph

aten = torch.ops.aten


def rows(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """All of them."""
    yield from _batch_norm(sizes, dtype)
    yield from _response_norm(sizes, dtype)


def _batch_norm(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    channels, size = sizes.image[1], size_of(sizes.image, dtype.itemsize)

    def make() -> Operands:
        o = {name: images(*sizes.image, dtype=dtype) for name in ("x", "g")}
        for name in ("weight", "bias", "mean"):
            o[name] = torch.randn(channels, device=device())
        o["var"] = torch.rand(channels, device=device()) + 0.5
        return {**o, "rstd": (o["var"] + 1e-5).rsqrt()}

    def ours(o: Operands, training: bool, function: Any = fc.batch_norm) -> Any:
        running = {} if training else {"running_mean": o["mean"], "running_var": o["var"]}
        return function(o["x"], weight=o["weight"], bias=o["bias"], training=training, **running)[0]

    def theirs(o: Operands, training: bool) -> Any:
        running = (None, None) if training else (o["mean"], o["var"])
        return F.batch_norm(o["x"], *running, o["weight"], o["bias"], training, 0.1, 1e-5)

    for training, mode, passes in ((True, "training", 3), (False, "inference", 2)):
        yield row(
            f"batch_norm_{mode}", "forward", passes * size, make,
            lambda o, t=training: ours(o, t), lambda o, t=training: theirs(o, t),
        )  # fmt: skip
        yield row(
            f"batch_norm_relu_{mode}", "forward", passes * size, make,
            lambda o, t=training: ours(o, t, batch_norm_relu),
            lambda o, t=training: torch.relu_(theirs(o, t)),
        )  # fmt: skip

    def backward(o: Operands, g: Any) -> Any:
        return fc.batch_norm_backward(
            g, o["x"], o["mean"], o["rstd"], weight=o["weight"], training=True
        )

    def their_backward(o: Operands, g: Any) -> Any:
        return aten.native_batch_norm_backward(
            g, o["x"], o["weight"], None, None, o["mean"], o["rstd"], True, 1e-5, [True] * 3
        )

    yield row("batch_norm_training", "backward", 5 * size, make,
               lambda o: backward(o, o["g"]), lambda o: their_backward(o, o["g"]))  # fmt: skip
    yield row(  # any tensor does for the ReLU's output: x
        "batch_norm_relu_training", "backward", 5 * size, make,
        lambda o: backward(o, fc.relu_backward(o["g"], o["x"])),
        lambda o: their_backward(o, aten.threshold_backward(o["g"], o["x"], 0)),
    )  # fmt: skip


def _response_norm(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    def norm(x: Any) -> Any:
        return F.local_response_norm(x, 5)

    for shape in sizes.responses:
        size, name = size_of(shape, dtype.itemsize), f"local_response_norm_c{shape[1]}"
        make = lambda s=shape: with_graph(images(*s, dtype=dtype), norm, dtype)  # noqa: E731
        yield row(name, "forward", 2 * size, make,
                   lambda o: fc.local_response_norm(o["x"], 5), lambda o: norm(o["x"]))  # fmt: skip
        yield row(name, "backward", 3 * size, make,
                   lambda o: fc.local_response_norm_backward(o["g"], o["x"], 5), of_graph,
                   exact=lambda o: through_autograd(norm, o["x"], o["g"]))  # fmt: skip
