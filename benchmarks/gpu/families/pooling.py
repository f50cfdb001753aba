"""Global average pooling and unpooling, which no network's table has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fastconv as fc
import torch
import torch.nn.functional as F

from ..rows import images
from .row import Operands, Row, Sizes, of_graph, row, size_of, through_autograd, with_graph


def rows(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """Global average pooling and unpooling, which no network's table has."""

    def mean(x: Any) -> Any:
        return F.adaptive_avg_pool2d(x, 1)

    size, shape = size_of(sizes.last, dtype.itemsize), sizes.last
    ends = size_of(sizes.last[:2], dtype.itemsize)
    make = lambda: with_graph(images(*shape, dtype=dtype), mean, dtype)  # noqa: E731
    yield row("global_avg_pool2d", "forward", size + ends, make,
               lambda o: fc.global_avg_pool2d(o["x"]), lambda o: mean(o["x"]))  # fmt: skip
    yield row("global_avg_pool2d", "backward", size + ends, make,
               lambda o: fc.global_avg_pool2d_backward(o["g"], shape), of_graph,
               exact=lambda o: through_autograd(mean, o["x"], o["g"]))  # fmt: skip

    extent = tuple(2 * side for side in sizes.halved[2:])
    size = size_of(sizes.halved, dtype.itemsize) * 5 + size_of(sizes.halved, 8)

    def unpooled() -> Operands:
        whole = images(*sizes.halved[:2], *extent, dtype=dtype)
        x, indices = F.max_pool2d(whole, 2, return_indices=True)
        return {
            **with_graph(x, lambda leaf: F.max_unpool2d(leaf, indices, 2), dtype),
            "indices": indices,
        }

    yield row(
        "max_unpool2d", "forward", size, unpooled,
        lambda o: fc.max_unpool2d(o["x"], o["indices"], output_size=extent),
        lambda o: F.max_unpool2d(o["x"], o["indices"], 2),
    )  # fmt: skip
    # A gather: of the larger gradient, one element a window is wanted.
    size = size_of(sizes.halved, dtype.itemsize) * 2 + size_of(sizes.halved, 8)
    yield row(
        "max_unpool2d", "backward", size, unpooled,
        lambda o: fc.max_unpool2d_backward(o["g"], o["indices"]), of_graph,
        exact=lambda o: through_autograd(
            lambda leaf: F.max_unpool2d(leaf, o["indices"], 2), o["x"], o["g"]
        ),
    )  # fmt: skip
