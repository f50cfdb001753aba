"""One step of training a whole network: forward, loss, backward, SGD with momentum.

The learning rate is 0, so that every step starts from the same weights and does the same work to
the last write; dropout lets everything through, since libraries draw different masks. Compared are
the loss and the gradients of the first and the last weight with those of the model in float64, by
the largest error against the largest element. The first weight's gradient has gone through every
layer twice, through ReLUs that switch at a rounding and batch norms that amplify it: seen were 0.02
for fastconv and 0.03 for PyTorch (ResNet-50, batch 2), 1e-6 without batch norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..networks import build_model, image_shape, program_of_network
from . import Array, Expected, Operands, sampled_index

TOLERANCES = {"loss": 1e-5, "first weight's gradient": 0.1, "last weight's gradient": 1e-3}
SETTINGS = {"lr": 0.0, "momentum": 0.9, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Training:
    """One network, by the name under which ``benchmarks.networks`` has it."""

    name: str

    operation: ClassVar[str] = "training"
    directions: ClassVar[tuple[str, ...]] = ("step",)

    @property
    def key(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        return "training"

    def macs(self, batch: int, direction: str) -> int:
        """Three products a layer: forward, grad_input, grad_weight; the first layer has two."""
        steps = program_of_network(self.name, batch, folded=True).steps
        first = next(step.multiply_adds for step in steps if step.multiply_adds)
        return 3 * sum(step.multiply_adds for step in steps) - first

    def macs_inside(self, batch: int, direction: str) -> int:
        return self.macs(batch, direction)

    def bytes_moved(self, batch: int, direction: str) -> int:
        """Of the images, and of weights, gradients and velocities, the last two read and written;
        what flows between layers may stay in caches."""
        program = program_of_network(self.name, batch, folded=True)
        weights = sum(c.size for step in program.steps for c in step.constants.values())
        return 4 * (6 * weights + int(np.prod(program.shapes[0])))

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        shape = (batch, *image_shape(self.name))
        return {"x": generator.standard_normal(shape, dtype=np.float32)}

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        return self._in_float64(operands["x"])

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        found = []
        results = self._in_float64(operands["x"])
        for (name, tolerance), whole in zip(TOLERANCES.items(), results, strict=True):
            index = sampled_index(whole.shape, generator, count)
            largest = np.unravel_index(np.abs(whole).argmax(), whole.shape)
            index = tuple(np.append(axis, at) for axis, at in zip(index, largest, strict=True))
            values = whole[index]
            scale = np.full(values.size, np.abs(whole).max())
            found.append(Expected(name, whole.shape, index, values, scale, of_maximum=tolerance))
        return found

    def _in_float64(self, x: Array) -> tuple[Array, ...]:
        return step_of(self.name, x.astype(np.float64))()


def labels(batch: int, classes: int) -> Array:
    return np.arange(batch, dtype=np.int64) % classes


def step_of(name: str, x: Array) -> Callable[[], tuple[Array, ...]]:
    """fastconv's training step, in x's dtype, with a model of its own: it returns the loss and two
    gradients."""
    import fastconv as fc

    model = build_model(name).to(dtype=x.dtype.name).train()
    for _, layer in model.named_layers():
        if isinstance(layer, fc.layers.Dropout):
            layer.p = 0.0
    weights = [p for n, p in model.named_parameters() if n.endswith("weight") and len(p.shape) > 1]
    optimizer = fc.optim.SGD(model.parameters(), **SETTINGS)
    loss = fc.layers.CrossEntropyLoss()

    def step() -> tuple[Array, ...]:
        optimizer.zero_grad()
        output = model(x)
        value = loss(output, labels(*output.shape))
        model.backward(loss.backward(), need_input=False)
        optimizer.step()
        return np.reshape(value, 1), weights[0].grad, weights[-1].grad

    return step
