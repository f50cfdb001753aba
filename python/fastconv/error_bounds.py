"""How far from the exact result an element may be: what `verify` allows (docs/numerics.md).

A sum of n products a b, in any order, is within n eps sum |a| |b| (N. Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.1). Winograd's outputs share the transforms of their
tile, and its bound: g n eps max |a in the tile| sum |b|, b the weight; of the weight's gradient,
which sums over tiles, g n eps times the sum over them of max |x in the tile| sum |grad_output in
the tile|. g is a growth, and n at least a tile's points: the transforms round as often however few
the products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .described_call import DescribedCall
from .ops.arrays import Array
from .ops.conv_problem import FORWARD, GRAD_INPUT, GRAD_WEIGHT

Operands = Mapping[str, Any]

# Products that one element of the result sums.
TERMS: dict[str, Callable[[Operands], int]] = {
    "conv2d": lambda a: int(np.prod(a["weight"].shape[1:])),
    "conv2d_grad_input": lambda a: _filters(a) * _taps(a),
    "conv2d_grad_weight": lambda a: a["grad_output"].size // max(1, a["grad_output"].shape[-3]),
    "conv_transpose2d": lambda a: _filters(a) * _taps(a),
    "linear": lambda a: int(a["weight"].shape[1]),
}


def _filters(operands: Operands) -> int:
    return int(operands["weight"].shape[0]) // int(operands.get("groups", 1))


def _taps(operands: Operands) -> int:
    return int(np.prod(operands["weight"].shape[2:]))


def without_denormals(value: Any) -> Any:
    """Magnitudes as float32's multiply-adds may read them: denormals are 0. The same object where
    there are none."""
    if not isinstance(value, np.ndarray):
        return value
    denormal = (value > 0) & (value < float(np.finfo(np.float32).tiny))
    return np.where(denormal, 0.0, value) if denormal.any() else value


class TileBound:
    """Winograd's bound of a call, but for eps: of each element, in the result's shape.

    Attributes
    ----------
    products : array
        g n max |a in the tile| sum |b|, infinities and NaN left out.
    spoilt : array of bool
        Where one of those may have got to.
    least : array
        What denormals flushed to zero may take off, in units of the least normal number.
    """

    def __init__(self, call: DescribedCall, winograd: dict[str, Any], operands: Operands) -> None:
        self._call, self._winograd = call, winograd
        self._groups = call.numbers[-1]
        data = _four(operands["grad_output" if call.function == "conv2d_grad_input" else "x"])
        back = call.direction == GRAD_WEIGHT
        kernel = _four(operands["grad_output"]) if back else operands["weight"]
        sizes, faults = zip(*(_split(array) for array in (data, kernel)), strict=True)
        points = winograd["m"] + winograd["r"] - 1
        growth = 2 if points < 8 else 8
        terms = growth * max(points**2, TERMS[call.function](operands))
        largest, total = self._largest(sizes[0]), self._sums(sizes[1])
        self.products = terms * self._shared(largest, total)
        self.least = growth * self._shared(np.ones_like(largest), total)
        self.least = self.least + terms * self._shared(largest, np.ones_like(total))
        some, few = self._largest(faults[0]), self._sums(faults[1])
        self.spoilt = (
            self._shared(some, np.ones_like(few)) + self._shared(np.ones_like(some), few) > 0
        )

    def _largest(self, data: Array) -> Array:
        """(N, C, tiles, tiles): the largest of what each tile reads."""
        call, n = self._call, self._winograd
        stride, low, dilation = call.numbers[0:2], call.numbers[2:6:2], call.numbers[6:8]
        assert dilation == (1, 1)
        for axis in (0, 1):
            taps = call.weight[2 + axis]
            step = 1 if call.direction == GRAD_INPUT else stride[axis]
            # Zeros complete the kernel to runs of r taps, of each phase of the stride.
            reach = step * n["r"] * _ceil_div(_ceil_div(taps, step), n["r"])
            first = low[axis] - taps + 1 if call.direction == GRAD_INPUT else -low[axis]
            begins = [first + t * n["m"] * step for t in range(n["tiles"][axis])]
            data = _along(data, 2 + axis, begins, (n["m"] - 1) * step + reach)
        return data

    def _sums(self, kernel: Array) -> Array:
        """Of a weight (channels of the result,); of grad_output (N, K, tiles, tiles)."""
        if self._call.direction == GRAD_WEIGHT:
            m = self._winograd["m"]
            for axis, tiles in enumerate(self._winograd["tiles"]):
                kernel = np.add.reduceat(kernel, np.arange(tiles) * m, axis=2 + axis)
            return kernel
        if self._call.direction == FORWARD:
            return kernel.sum(axis=(1, 2, 3))
        grouped = kernel.reshape(self._groups, -1, *kernel.shape[1:])
        return grouped.sum(axis=(1, 3, 4)).reshape(-1)

    def _shared(self, largest: Array, total: Array) -> Array:
        """Their products where each element of the result has them."""
        groups = self._groups
        n, c, rows, cols = largest.shape
        largest = largest.reshape(n, groups, c // groups, rows, cols)
        if self._call.direction == GRAD_WEIGHT:
            total = total.reshape(n, groups, -1, rows, cols)
            sums = np.einsum("ngcij,ngkij->gkc", largest, total)
            shape = self._call.weight
            return np.broadcast_to(sums.reshape(*shape[:2], 1, 1), shape)
        of_group = largest.max(axis=2)
        shape = self._call.output if self._call.direction == FORWARD else self._call.input
        each = np.repeat(of_group, shape[1] // groups, axis=1) * total[:, None, None]
        for axis in (2, 3):
            each = np.repeat(each, self._winograd["m"], axis=axis)
        return each[:, :, : shape[2], : shape[3]]


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _along(data: Array, axis: int, begins: list[int], size: int) -> Array:
    """The largest of `size` neighbours from each of `begins` on, 0 beyond the edges."""
    end = data.shape[axis]
    pieces = [
        data.take(range(max(begin, 0), max(0, min(begin + size, end))), axis).max(axis, initial=0)
        for begin in begins
    ]
    return np.stack(pieces, axis)


def _split(array: Array) -> tuple[Array, Array]:
    """|array| where it is finite, and 1 where it is not."""
    finite = np.isfinite(array)
    return np.where(finite, np.abs(array), 0.0), np.where(finite, 0.0, 1.0)


def _four(array: Array) -> Array:
    return array if array.ndim == 4 else array[None]
