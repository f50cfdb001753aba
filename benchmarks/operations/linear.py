"""Linear layers: ``y[n, k] = sum over c of x[n, c] w[k, c]``; backward gives both gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import Array, Expected, Operands, sampled_index


@dataclass(frozen=True)
class Linear:
    """The shape of one linear layer."""

    channels: int
    filters: int

    operation: ClassVar[str] = "linear"
    directions: ClassVar[tuple[str, ...]] = ("forward", "backward")

    @property
    def key(self) -> str:
        return f"c{self.channels}k{self.filters}"

    @property
    def kind(self) -> str:
        return "linear"

    def macs(self, batch: int, direction: str) -> int:
        return (2 if direction == "backward" else 1) * batch * self.channels * self.filters

    def macs_inside(self, batch: int, direction: str) -> int:
        return self.macs(batch, direction)

    def bytes_moved(self, batch: int, direction: str) -> int:
        x, weight, output = (
            batch * self.channels,
            self.channels * self.filters,
            batch * self.filters,
        )
        return 4 * (x + weight + output + (x + weight if direction == "backward" else 0))

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        x = np.maximum(generator.standard_normal((batch, self.channels), dtype=np.float32), 0)
        weight = generator.standard_normal((self.filters, self.channels), dtype=np.float32)
        weight *= np.float32(np.sqrt(2 / self.channels))
        if direction == "forward":
            return {"x": x, "weight": weight}
        grad_output = generator.standard_normal((batch, self.filters), dtype=np.float32)
        return {"x": x, "weight": weight, "grad_output": grad_output}

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        x, weight = operands["x"], operands["weight"]
        if direction == "forward":
            return (module.linear(x, weight),)
        both = module.linear_backward(operands["grad_output"], x, weight, need=("input", "weight"))
        return tuple(both[:2])

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        x, weight = operands["x"], operands["weight"]
        if direction == "forward":
            return [_expected_product("output", x, weight, generator, count)]
        grad_output = operands["grad_output"]
        return [
            _expected_product("grad_input", grad_output, weight.T, generator, count),
            _expected_product("grad_weight", grad_output.T, x.T, generator, count),
        ]


def _expected_product(
    name: str, left: Array, right: Array, generator: np.random.Generator, count: int
) -> Expected:
    """Elements of ``left @ right.T``."""
    shape = (left.shape[0], right.shape[0])
    index = sampled_index(shape, generator, count)
    terms = left[index[0]].astype(np.float64) * right[index[1]]
    return Expected(name, shape, index, terms.sum(axis=1), np.abs(terms).sum(axis=1))
