"""Pooling: the maximum or the mean of each window of one channel.

Directions: forward, forward_indices (maximum only: as training needs it) and backward. A row for
the forward direction gives the result alone. No multiply-adds are counted: pooling is measured in
bytes a second. Global pooling is the window that covers the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import Array, Expected, Operands, sampled_index


@dataclass(frozen=True)
class Pooling:
    """The shape of one pooling layer; pairs are (height, width)."""

    mode: str  # "max" or "avg"
    channels: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    ceil_mode: bool = False

    operation: ClassVar[str] = "pool2d"

    @property
    def directions(self) -> tuple[str, ...]:
        both = ("forward", "backward")
        return (*both, "forward_indices") if self.mode == "max" else both

    @property
    def output_size(self) -> tuple[int, int]:
        """(P, Q); with ``ceil_mode`` a window must still start inside the input or left padding."""
        result = []
        for axis in (0, 1):
            room = self.size[axis] + 2 * self.padding[axis] - self.kernel[axis]
            step = self.stride[axis]
            extent = (room + step - 1) // step + 1 if self.ceil_mode else room // step + 1
            if self.ceil_mode and (extent - 1) * step >= self.size[axis] + self.padding[axis]:
                extent -= 1
            result.append(extent)
        return result[0], result[1]

    @property
    def key(self) -> str:
        pairs = {"i": self.size, "r": self.kernel, "s": self.stride, "p": self.padding}
        text = "".join(name + "x".join(map(str, pair)) for name, pair in pairs.items())
        return f"{self.mode}c{self.channels}{text}" + ("ceil" if self.ceil_mode else "")

    @property
    def kind(self) -> str:
        return f"{self.mode} pooling"

    def macs(self, batch: int, direction: str) -> int:
        return 0

    def macs_inside(self, batch: int, direction: str) -> int:
        return 0

    def bytes_moved(self, batch: int, direction: str) -> int:
        image = batch * self.channels * int(np.prod(self.size))
        output = batch * self.channels * int(np.prod(self.output_size))
        with_indices = direction == "forward_indices" or (
            direction == "backward" and self.mode == "max"
        )
        return 4 * (image + output) + (8 * output if with_indices else 0)

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        x = generator.standard_normal((batch, self.channels, *self.size), dtype=np.float32)
        if direction != "backward":
            return {"x": x}
        output = (batch, self.channels, *self.output_size)
        return {"x": x, "grad_output": generator.standard_normal(output, dtype=np.float32)}

    def keywords(self) -> dict[str, Any]:
        """The arguments after the kernel size, as fastconv names them."""
        return {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        x, arguments = operands["x"], self.keywords()
        if self.mode == "avg":
            if direction == "forward":
                return (module.avg_pool2d(x, self.kernel, **arguments),)
            return (
                module.avg_pool2d_backward(
                    operands["grad_output"], x.shape, self.kernel, **arguments
                ),
            )
        if direction == "forward":
            return (module.max_pool2d(x, self.kernel, **arguments),)
        output, indices = module.max_pool2d(x, self.kernel, return_indices=True, **arguments)
        if direction == "forward_indices":
            return output, indices
        return (
            module.max_pool2d_backward(
                operands["grad_output"], indices, x.shape, self.kernel, **arguments
            ),
        )

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        x = operands["x"]
        if direction == "backward":
            return [self._expected_grad_input(operands, generator, count)]
        shape = (*x.shape[:2], *self.output_size)
        index = sampled_index(shape, generator, count)
        values, scale, places = np.empty(count), np.empty(count), np.empty(count)
        for at, (n, c, p, q) in enumerate(zip(*index, strict=True)):
            window, place, cells = self._window(x, int(n), int(c), int(p), int(q))
            values[at] = window.max() if self.mode == "max" else window.sum() / cells
            scale[at], places[at] = np.abs(window).max(), place
        found = [Expected("output", shape, index, values, scale, exact=self.mode == "max")]
        if direction == "forward_indices":
            found.append(Expected("indices", shape, index, places, scale, exact=True))
        return found

    def _window(self, x: Array, n: int, c: int, p: int, q: int) -> tuple[Array, int, int]:
        """One window's elements inside x, its maximum's place in H W, the mean's divisor."""
        top, left = p * self.stride[0] - self.padding[0], q * self.stride[1] - self.padding[1]
        rows = slice(max(top, 0), min(top + self.kernel[0], self.size[0]))
        cols = slice(max(left, 0), min(left + self.kernel[1], self.size[1]))
        window = x[n, c, rows, cols].astype(np.float64)
        row, col = np.unravel_index(int(window.argmax()), window.shape)
        place = (rows.start + int(row)) * self.size[1] + cols.start + int(col)
        # padding counts, what lies beyond it (ceil_mode) does not, as in PyTorch
        high = min(top + self.kernel[0], self.size[0] + self.padding[0]) - top
        wide = min(left + self.kernel[1], self.size[1] + self.padding[1]) - left
        return window, place, high * wide

    def _expected_grad_input(
        self, operands: Operands, generator: np.random.Generator, count: int
    ) -> Expected:
        x, grad_output = operands["x"], operands["grad_output"]
        index = sampled_index(x.shape, generator, count)
        values, scale = np.zeros(count), np.zeros(count)
        for at, (n, c, h, w) in enumerate(zip(*index, strict=True)):
            place = int(h) * self.size[1] + int(w)
            for p in self._windows_over(int(h), 0):
                for q in self._windows_over(int(w), 1):
                    _, largest, cells = self._window(x, int(n), int(c), p, q)
                    term = float(grad_output[n, c, p, q])
                    if self.mode == "avg":
                        term /= cells
                    elif largest != place:
                        term = 0.0
                    values[at] += term
                    scale[at] += abs(term)
        return Expected("grad_input", x.shape, index, values, scale)

    def _windows_over(self, position: int, axis: int) -> range:
        """The output positions whose window covers one input position, on one axis."""
        last = (position + self.padding[axis]) // self.stride[axis]
        first = -(-(position + self.padding[axis] - self.kernel[axis] + 1) // self.stride[axis])
        return range(max(first, 0), min(last, self.output_size[axis] - 1) + 1)
