"""A row of a family, the sizes of all of them, and gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..rows import Prepared, several

Operands = dict[str, Any]


class Row(NamedTuple):
    """A function on operands of one size, made when it is measured."""

    name: str
    direction: str  # forward, backward or step
    make: Callable[[], Prepared]
    batch: int | None = None  # where it is not the session's


@dataclass(frozen=True)
class Sizes:
    """Shapes of a batch: images (N, C, H, W) of ResNet-50, AlexNet and VGG-16, logits (N, C)."""

    image: tuple[int, int, int, int]
    responses: tuple[tuple[int, int, int, int], ...]
    last: tuple[int, int, int, int]
    halved: tuple[int, int, int, int]
    logits: tuple[int, int]
    parameters: int
    depthwise: tuple[tuple[int, int, int], ...]  # channels, map, stride
    matrices: tuple[tuple[int, int], ...]  # channels, filters
    vectors: tuple[int, ...]

    @classmethod
    def of(cls, batch: int) -> Sizes:
        return cls(
            image=(batch, 256, 56, 56),
            responses=((batch, 96, 55, 55), (batch, 256, 27, 27)),
            last=(8 * batch, 2048, 7, 7),
            halved=(batch, 64, 112, 112),
            logits=(256 * batch, 1000),
            parameters=25_557_032,  # ResNet-50's
            depthwise=((256, 56, 1), (256, 56, 2), (512, 28, 1)),
            matrices=((25088, 4096), (4096, 4096), (4096, 1000), (2048, 1000)),
            vectors=(32, 256),
        )


def size_of(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of an array."""
    return int(torch.Size(shape).numel()) * itemsize


def row(
    name: str, direction: str, size: int, make: Callable[[], Operands],
    ours: Callable[[Operands], Any], theirs: Callable[[Operands], Any], **more: Any,
) -> Row:  # fmt: skip
    """``size``: the bytes that it moves; ``more``: of Prepared."""
    return Row(
        name, direction, lambda: Prepared(ours, theirs, several(make, size), size, 0, **more)
    )


def through_autograd(function: Callable[[Any], Any], x: Any, g: Any) -> Any:
    """The gradient of a function's result with respect to x."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, g)[0]


def of_graph(o: Operands) -> Any:
    return torch.autograd.grad(o["graph"], o["leaf"], o["g"], retain_graph=True)[0]


def with_graph(x: Any, function: Callable[[Any], Any], dtype: torch.dtype) -> Operands:
    """x, its gradient's graph by autograd, and a random gradient of the function's result."""
    leaf = x.detach().clone().requires_grad_()
    graph = function(leaf)
    g = torch.randn_like(graph.detach()).to(dtype)
    return {"x": x, "leaf": leaf, "graph": graph, "g": g}
