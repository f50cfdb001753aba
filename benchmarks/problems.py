"""A problem is a layer's shape, a batch and a direction: one row group of the table.

Equal shapes of several layers are one problem, measured once; the problem remembers every layer
that it stands for, so that a network's time is the sum of count x time over its layers.
"""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .operations import Operands, Operation
from .shapes import Layer


@dataclass(frozen=True)
class Problem:
    """One shape x batch x direction, and the layers that have it."""

    shape: Operation
    batch: int
    direction: str
    layers: tuple[Layer, ...] = field(default=(), compare=False)

    @property
    def identity(self) -> str:
        """Equal for equal problems in any run; ``-k`` finds it: the reproducer of a row."""
        return f"{self.shape.operation}.{self.direction}.n{self.batch}.{self.shape.key}"

    @property
    def title(self) -> str:
        """The name of the first layer, or of the shape where no layer has it."""
        return self.layers[0].title if self.layers else self.shape.key

    @property
    def conditions(self) -> str:
        """What the time holds of the weights' packing, and what is fused: every library's."""
        if self.direction == "forward_packed":
            return "weights packed ahead, bias and ReLU fused"
        where = "before" if self.shape.operation == "network" else "inside"
        return f"packing of weights {where} the time"

    @property
    def macs(self) -> int:
        return self.shape.macs(self.batch, self.direction)

    @property
    def macs_inside(self) -> int:
        return self.shape.macs_inside(self.batch, self.direction)

    @property
    def bytes_moved(self) -> int:
        return self.shape.bytes_moved(self.batch, self.direction)

    def operands(self) -> Operands:
        """The operands, the same in every run and in every process."""
        return self.shape.operands(self.batch, self.direction, self.generator("operands"))

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator of random numbers that depends on the problem and the purpose alone."""
        return np.random.default_rng(zlib.crc32(f"{self.identity} {purpose}".encode()))

    def matches(self, pattern: str) -> bool:
        """Whether ``pattern`` (a part, or with ``*``; or several of them with commas) names the
        problem or a layer of it."""
        names = [
            self.identity,
            *(f"{layer.title} {self.direction} {self.identity}" for layer in self.layers),
        ]
        return any(
            fnmatch.fnmatchcase(name.lower(), f"*{part}*")
            for name in names
            for part in pattern.lower().split(",")
        )


def problems(
    layers: Iterable[Layer], batches: Sequence[int], directions: Sequence[str], pattern: str = ""
) -> list[Problem]:
    """The distinct problems of some layers, in the layers' order within each direction and batch.

    A direction that an operation does not have is left out for that operation alone.
    """
    shapes: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        shapes.setdefault((layer.shape.operation, layer.shape.key), []).append(layer)
    listed = [
        Problem(alike[0].shape, batch, direction, tuple(alike))
        for direction in directions
        for batch in batches
        for alike in shapes.values()
        if direction in alike[0].shape.directions
    ]
    return [problem for problem in listed if not pattern or problem.matches(pattern)]
