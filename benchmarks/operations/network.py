"""A whole network's inference, by name (``benchmarks/networks``): x (N, C, H, W) to its result.

Results are compared with the model in float64 on the first and the last image of the batch: no
element may be further off than 1e-4 of the largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..networks import image_shape, model_of, program_of_network
from . import Array, Expected, Operands

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Network:
    """One network, by the name under which ``benchmarks.networks`` has it."""

    name: str

    operation: ClassVar[str] = "network"
    directions: ClassVar[tuple[str, ...]] = ("forward",)

    @property
    def key(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        return "network"

    def macs(self, batch: int, direction: str) -> int:
        program = program_of_network(self.name, batch, folded=True)
        return sum(step.multiply_adds for step in program.steps)

    def macs_inside(self, batch: int, direction: str) -> int:
        return self.macs(batch, direction)

    def bytes_moved(self, batch: int, direction: str) -> int:
        """Of the weights, the input and the result; what flows inside may stay in caches."""
        program = program_of_network(self.name, batch, folded=True)
        weights = sum(c.size for step in program.steps for c in step.constants.values())
        ends = [program.shapes[0], program.shapes[program.outputs[0]]]
        return 4 * (weights + sum(int(np.prod(shape)) for shape in ends))

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        shape = (batch, *image_shape(self.name))
        return {"x": generator.standard_normal(shape, dtype=np.float32)}

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        return (self._in_float64(operands["x"]),)

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        x = operands["x"]
        images = [0, len(x) - 1]
        values = self._in_float64(x[images])
        index = tuple(axis.ravel() for axis in np.indices(values.shape))
        scale = np.full(values.size, np.abs(values).max())
        index = (np.array(images)[index[0]], *index[1:])
        shape = (len(x), *values.shape[1:])
        return [Expected("output", shape, index, values.ravel(), scale, of_maximum=TOLERANCE)]

    def _in_float64(self, x: Array) -> Array:
        """Layer by layer, nothing folded; float64 has no Winograd."""
        model = model_of(self.name)
        try:
            result: Array = model.to(dtype="float64")(x.astype(np.float64))
        finally:
            model.to(dtype="float32")  # there and back without rounding
        return result
