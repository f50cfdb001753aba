"""Convolution: ``y[n, k, p, q] = sum over c, r, s of x[n, c, h, w] weight[k, c, r, s]``
with ``h = p stride + r dilation - padding``, likewise ``w``, and zero outside of x.

Directions: forward, grad_input, grad_weight, backward (both gradients) and forward_packed, as in
inference: ``max(y + bias[k], 0)``, which every implementation fuses, by weights that it has packed
ahead. Operands are C order (N, C, H, W) and (K, C / groups, R, S); each implementation brings them
into its own order before it is timed. Inputs are ReLU'd normal values, weights have He's variance
2 / depth, as in a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import Array, Expected, Operands, sampled_index


@dataclass(frozen=True)
class Convolution:
    """The shape of one convolution layer; pairs are (height, width)."""

    channels: int
    size: tuple[int, int]
    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    operation: ClassVar[str] = "conv2d"
    directions: ClassVar[tuple[str, ...]] = (
        "forward", "forward_packed", "backward", "grad_input", "grad_weight",
    )  # fmt: skip

    @property
    def output_size(self) -> tuple[int, int]:
        """(P, Q), by (size + 2 padding - (kernel - 1) dilation - 1) / stride + 1."""
        height, width = (
            (
                self.size[axis]
                + 2 * self.padding[axis]
                - (self.kernel[axis] - 1) * self.dilation[axis]
                - 1
            )
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        )
        return height, width

    @property
    def key(self) -> str:
        pairs = {
            "i": self.size,
            "r": self.kernel,
            "s": self.stride,
            "p": self.padding,
            "d": self.dilation,
        }
        text = {name: "x".join(map(str, pair)) for name, pair in pairs.items()}
        key = f"c{self.channels}i{text['i']}k{self.filters}r{text['r']}s{text['s']}p{text['p']}"
        if self.dilation != (1, 1):
            key += f"d{text['d']}"
        return key + (f"g{self.groups}" if self.groups > 1 else "")

    @property
    def kind(self) -> str:
        stride = "stride 1" if self.stride == (1, 1) else f"stride {self.stride[0]}"
        if self.groups > 1:
            return "depthwise" if self.groups == self.channels else "grouped"
        if self.channels <= 4:
            return "first layer"
        return f"{self.kernel[0]}x{self.kernel[1]} {stride}"

    @property
    def depth(self) -> int:
        """Terms of one output element."""
        return self.channels // self.groups * self.kernel[0] * self.kernel[1]

    def _results(self, direction: str) -> int:
        return 2 if direction == "backward" else 1

    def macs(self, batch: int, direction: str) -> int:
        return (
            self._results(direction)
            * batch
            * self.filters
            * self.depth
            * int(np.prod(self.output_size))
        )

    def macs_inside(self, batch: int, direction: str) -> int:
        taps = 1
        for axis in (0, 1):
            rows = (
                np.arange(self.output_size[axis])[:, None] * self.stride[axis] - self.padding[axis]
            )
            rows = rows + np.arange(self.kernel[axis]) * self.dilation[axis]
            taps *= int(np.count_nonzero((rows >= 0) & (rows < self.size[axis])))
        return self._results(direction) * batch * self.filters * self.channels // self.groups * taps

    def bytes_moved(self, batch: int, direction: str) -> int:
        image = batch * self.channels * int(np.prod(self.size))
        output = batch * self.filters * int(np.prod(self.output_size))
        weight = self.filters * self.depth
        once = image + output + weight + (self.filters if direction == "forward_packed" else 0)
        return 4 * (once + image + weight if direction == "backward" else once)

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        image = (batch, self.channels, *self.size)
        weight = (self.filters, self.channels // self.groups, *self.kernel)
        output = (batch, self.filters, *self.output_size)
        x = np.maximum(generator.standard_normal(image, dtype=np.float32), 0)
        w = generator.standard_normal(weight, dtype=np.float32) * np.float32(
            np.sqrt(2 / self.depth)
        )
        if direction == "forward":
            return {"x": x, "weight": w}
        if direction == "forward_packed":
            bias = generator.standard_normal(self.filters, dtype=np.float32)
            return {"x": x, "weight": w, "bias": bias}
        return {
            "x": x,
            "weight": w,
            "grad_output": generator.standard_normal(output, dtype=np.float32),
        }

    def keywords(self) -> dict[str, Any]:
        """The arguments that describe the layer, as fastconv names them."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        x, weight, arguments = operands["x"], operands["weight"], self.keywords()
        if direction == "forward":
            return (module.conv2d(x, weight, **arguments),)
        if direction == "forward_packed":
            bias = operands["bias"]
            return (module.conv2d(x, weight, bias, activation="relu", **arguments),)
        grad_output = operands["grad_output"]
        results = []
        if direction in ("grad_input", "backward"):
            results.append(module.conv2d_grad_input(grad_output, weight, x.shape, **arguments))
        if direction in ("grad_weight", "backward"):
            results.append(module.conv2d_grad_weight(grad_output, x, weight.shape, **arguments))
        return tuple(results)

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        if direction in ("forward", "forward_packed"):
            return [self._expected_output(operands, generator, count)]
        found = []
        if direction in ("grad_input", "backward"):
            found.append(self._expected_grad_input(operands, generator, count))
        if direction in ("grad_weight", "backward"):
            # each of these sums over the whole batch and map: fewer of them for the same effort
            found.append(self._expected_grad_weight(operands, generator, max(16, count // 8)))
        return found

    def _padded(self, x: Array) -> Array:
        high, wide = self.padding
        return np.pad(x, ((0, 0), (0, 0), (high, high), (wide, wide)))

    def _expected_output(
        self, operands: Operands, generator: np.random.Generator, count: int
    ) -> Expected:
        padded, weight = self._padded(operands["x"]), operands["weight"]
        shape = (padded.shape[0], self.filters, *self.output_size)
        index = sampled_index(shape, generator, count)
        values, scale = np.empty(count), np.empty(count)
        per_group, group_filters = self.channels // self.groups, self.filters // self.groups
        for at, (n, k, p, q) in enumerate(zip(*index, strict=True)):
            first = k // group_filters * per_group
            rows = p * self.stride[0] + np.arange(self.kernel[0]) * self.dilation[0]
            cols = q * self.stride[1] + np.arange(self.kernel[1]) * self.dilation[1]
            window = padded[n, first : first + per_group][
                :, rows[:, None], cols
            ]  # (C / groups, R, S)
            terms = window.astype(np.float64) * weight[k]
            values[at], scale[at] = terms.sum(), np.abs(terms).sum()
        if "bias" in operands:
            bias = operands["bias"][index[1]].astype(np.float64)
            values, scale = np.maximum(values + bias, 0), scale + np.abs(bias)
        return Expected("output", shape, index, values, scale)

    def _expected_grad_input(
        self, operands: Operands, generator: np.random.Generator, count: int
    ) -> Expected:
        grad_output, weight = operands["grad_output"], operands["weight"]
        index = sampled_index(operands["x"].shape, generator, count)
        values, scale = np.empty(count), np.empty(count)
        per_group, group_filters = self.channels // self.groups, self.filters // self.groups
        for at, (n, c, h, w) in enumerate(zip(*index, strict=True)):
            first = c // per_group * group_filters
            taken = slice(first, first + group_filters)
            rows, row_taps = self._outputs_that_read(int(h), 0)
            cols, col_taps = self._outputs_that_read(int(w), 1)
            gradient = grad_output[n, taken][:, rows[:, None], cols]  # (K / groups, taps, taps)
            terms = (
                gradient.astype(np.float64)
                * weight[taken, c % per_group][:, row_taps[:, None], col_taps]
            )
            values[at], scale[at] = terms.sum(), np.abs(terms).sum()
        return Expected("grad_input", operands["x"].shape, index, values, scale)

    def _outputs_that_read(self, position: int, axis: int) -> tuple[Array, Array]:
        """The output positions and the taps by which they read one input position, on one axis."""
        taps = np.arange(self.kernel[axis])
        start = position + self.padding[axis] - taps * self.dilation[axis]
        outputs = start // self.stride[axis]
        reads = (start % self.stride[axis] == 0) & (start >= 0) & (outputs < self.output_size[axis])
        return outputs[reads], taps[reads]

    def _expected_grad_weight(
        self, operands: Operands, generator: np.random.Generator, count: int
    ) -> Expected:
        padded, grad_output = self._padded(operands["x"]), operands["grad_output"]
        index = sampled_index(operands["weight"].shape, generator, count)
        values, scale = np.empty(count), np.empty(count)
        per_group, group_filters = self.channels // self.groups, self.filters // self.groups
        height, width = self.output_size
        for at, (k, c, r, s) in enumerate(zip(*index, strict=True)):
            top, left = r * self.dilation[0], s * self.dilation[1]
            read = padded[
                :,
                k // group_filters * per_group + c,
                top : top + (height - 1) * self.stride[0] + 1 : self.stride[0],
                left : left + (width - 1) * self.stride[1] + 1 : self.stride[1],
            ]  # (N, P, Q)
            terms = read.astype(np.float64) * grad_output[:, k]
            values[at], scale[at] = terms.sum(), np.abs(terms).sum()
        return Expected("grad_weight", operands["weight"].shape, index, values, scale)
