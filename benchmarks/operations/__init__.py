"""What every operation of the suite says about itself.

An operation is a frozen dataclass of one layer's shape for one image; the batch and the direction
come with each question. To add one: a file here, its suites in ``shapes/``, a function in each
peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Operands = dict[str, Array]


@dataclass(frozen=True)
class Expected:
    """Some elements of one result, computed in float64.

    ``shape`` is the whole result's, ``index`` addresses the elements in its logical order,
    ``scale`` is the sum of the absolute values of the terms of each: the size against which its
    rounding error is judged. Without rounding (``exact``) a result must be equal; with
    ``of_maximum`` no element may be further off than that share of the largest, which is what is
    asked of many layers one after the other.
    """

    name: str
    shape: tuple[int, ...]
    index: tuple[Array, ...]
    values: Array
    scale: Array
    exact: bool = False
    of_maximum: float | None = None


class Operation(Protocol):
    """A layer's shape, and everything that the suite derives from it."""

    operation: ClassVar[str]

    @property
    def directions(self) -> tuple[str, ...]:
        """What can be asked of this shape."""
        ...

    @property
    def key(self) -> str:
        """Equal for equal shapes, readable, without spaces."""
        ...

    @property
    def kind(self) -> str:
        """The group whose rows are summed up together, such as ``3x3 stride 1``."""
        ...

    def macs(self, batch: int, direction: str) -> int:
        """Multiply-adds of the direct algorithm, those that fall in the padding included."""
        ...

    def macs_inside(self, batch: int, direction: str) -> int:
        """Multiply-adds that touch the input: no direct algorithm can do with fewer."""
        ...

    def bytes_moved(self, batch: int, direction: str) -> int:
        """Bytes of all operands and results, each counted once, in float32."""
        ...

    def operands(self, batch: int, direction: str, generator: np.random.Generator) -> Operands:
        """Random float32 operands in C order."""
        ...

    def reference(self, module: Any, operands: Operands, direction: str) -> tuple[Array, ...]:
        """The results by ``fastconv.reference`` on the operands as they are."""
        ...

    def expected(
        self, operands: Operands, direction: str, generator: np.random.Generator, count: int
    ) -> list[Expected]:
        """About ``count`` elements of each result, straight from the formula, in float64."""
        ...


def sampled_index(
    shape: tuple[int, ...], generator: np.random.Generator, count: int
) -> tuple[Array, ...]:
    """Indices of the corners of the last two axes and of random elements, ``count`` in all."""
    columns = [generator.integers(0, extent, count) for extent in shape]
    for column, extent in zip(columns[-2:], shape[-2:], strict=True):
        column[: count // 4] = generator.choice([0, extent - 1], count // 4)
    return tuple(columns)
