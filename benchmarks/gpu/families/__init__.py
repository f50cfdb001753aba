"""What memory bounds, beside PyTorch's own: activations, normalization, losses, copies, SGD.

Bytes of a row are those of its operands and results, each once: what a fused kernel moves. A second
pass over x (batch norm in training, its gradient) counts, since no cache holds it. Gradients that
PyTorch has no function for come from autograd, over a graph made before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...operations.convolution import Convolution
from ...operations.linear import Linear
from ...problems import Problem
from ..rows import prepare
from . import elementwise, losses, movement, normalization, pooling
from .row import Row, Sizes

__all__ = ["Row", "Sizes", "memory_bound"]


def memory_bound(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """All rows; one is made when its turn comes, since together they would not fit."""
    for family in (elementwise, normalization, losses, pooling, movement):
        yield from family.rows(sizes, dtype)
    yield from _problems(sizes, dtype)


def _problems(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """Depthwise convolution and linear layers, by the calls of the networks' layers."""
    problems = [
        Problem(Convolution(c, (s, s), c, (3, 3), (step, step), (1, 1), groups=c), n, direction)
        for n in sizes.image[:1]
        for c, s, step in sizes.depthwise
        for direction in ("forward", "grad_input", "grad_weight")
    ]
    problems += [
        Problem(Linear(*shape), n, direction)
        for shape in sizes.matrices
        for n in sizes.vectors
        for direction in ("forward", "backward")
    ]
    for problem in problems:
        name = f"{problem.shape.kind}_{problem.shape.key}"
        yield Row(name, problem.direction, lambda p=problem: prepare(p, dtype), problem.batch)
