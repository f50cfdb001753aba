"""Every implementation is checked before it is timed.

Where the problem is small enough the whole result is compared with ``fastconv.reference`` in
float64. Everywhere some hundred elements (corners and edges among them) are compared with sums
taken straight from the formula in float64, and every whole result with the first implementation
that passed. The bounds are relative to the arithmetic: with n terms of size a b the rounding error
of a float32 sum grows like sqrt(n) eps |a b| where errors are independent, so

- sampled elements: relative L2 error at most ``1e-5`` (the contract allows Winograd 2e-6 up to
  depth 4608; one tap left out of 4608 costs 1.5e-2), and no element further off than
  ``1e-4 sum|a b|``;
- whole results of two implementations: relative L2 at most ``2e-5``, no element further apart than
  ``1e-3`` of the root mean square.

A whole network's result may be ``1e-4`` of its largest element off (``Expected.of_maximum``).
Results without rounding (indices) must be equal. A NaN fails every bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .operations import Array, Expected, Operands
from .problems import Problem

SAMPLED_L2 = 1e-5
SAMPLED_ELEMENT = 1e-4
AGREEMENT_L2 = 2e-5
AGREEMENT_ELEMENT = 1e-3
SAMPLED_COUNT = 256


@dataclass(frozen=True)
class Verdict:
    """Whether a result is right, how far off it is, and what it was held against."""

    passed: bool
    error: float
    against: str

    def __str__(self) -> str:
        if not np.isfinite(self.error):
            return self.against
        return f"error {self.error:.1e} against {self.against}"


class Checker:
    """Holds the expected values of one problem; the operands must not change after it is made."""

    def __init__(
        self, problem: Problem, operands: Operands, reference: Any = None, reference_macs: float = 0
    ) -> None:
        self._expected = problem.shape.expected(
            operands, problem.direction, problem.generator("check"), SAMPLED_COUNT
        )
        self._whole: tuple[Array, ...] | None = None
        self._whole_name = ""
        if reference is not None and problem.macs <= reference_macs:
            wide = {name: operand.astype(np.float64) for name, operand in operands.items()}
            self._whole = problem.shape.reference(reference, wide, problem.direction)
            self._whole_name = "the float64 reference"

    def check(self, name: str, results: Sequence[Array]) -> Verdict:
        """Judge one implementation's results, arrays in logical order."""
        verdict = self._check_sampled(results)
        if verdict.passed and self._whole is not None:
            verdict = self._check_whole(results, self._whole, verdict)
        if verdict.passed and self._whole is None:
            self._whole, self._whole_name = tuple(np.array(result) for result in results), name
        return verdict

    def _check_sampled(self, results: Sequence[Array]) -> Verdict:
        against = f"{len(self._expected[0].values)} elements in float64"
        if len(results) != len(self._expected):
            return Verdict(
                False, float("inf"), f"{len(self._expected)} results, not {len(results)}"
            )
        worst = 0.0
        for expected, result in zip(self._expected, results, strict=True):
            if result.shape != expected.shape:
                wanted = f"{expected.name} of shape {expected.shape}, not {result.shape}"
                return Verdict(False, float("inf"), wanted)
            error, passed = _sampled_error(expected, result)
            worst = max(worst, error)
            if not passed:
                return Verdict(False, error, f"{against} of {expected.name}")
        return Verdict(True, worst, against)

    def _check_whole(
        self, results: Sequence[Array], whole: tuple[Array, ...], sampled: Verdict
    ) -> Verdict:
        for expected, result, other in zip(self._expected, results, whole, strict=True):
            error, passed = _whole_error(expected, result, other)
            if not passed:
                return Verdict(False, error, f"{expected.name} of {self._whole_name}")
        return Verdict(True, sampled.error, f"{sampled.against} and {self._whole_name}")


def _sampled_error(expected: Expected, result: Array) -> tuple[float, bool]:
    """Relative L2 error over the sampled elements, and whether every bound holds."""
    apart = np.abs(result[expected.index].astype(np.float64) - expected.values)
    size = float(np.sqrt(np.mean(expected.values**2))) or 1.0
    error = float(np.sqrt(np.mean(apart**2))) / size
    if expected.exact:
        return error, bool((apart == 0).all())
    if expected.of_maximum is not None:
        error = float(apart.max() / np.abs(expected.values).max())
        return error, error <= expected.of_maximum
    bound = SAMPLED_ELEMENT * expected.scale + 1e-30
    return error, bool(error <= SAMPLED_L2 and (apart <= bound).all())


def _whole_error(expected: Expected, result: Array, other: Array) -> tuple[float, bool]:
    """Relative L2 distance of two whole results, and whether they agree."""
    if expected.exact:
        equal = bool(np.array_equal(result, other))
        return (0.0 if equal else float("inf")), equal
    if expected.of_maximum is not None:
        error = float(np.abs(result - other).max() / np.abs(other).max())
        return error, error <= expected.of_maximum
    squares = difference = largest = 0.0
    for mine, theirs in zip(result, other, strict=True):  # slice by slice: the caches are small
        apart = np.subtract(mine, theirs, dtype=np.float64)
        difference += float(np.vdot(apart, apart))
        squares += float(np.sum(np.square(theirs, dtype=np.float64)))
        largest = max(largest, float(np.abs(apart).max())) if apart.size else largest
        if not difference < np.inf:  # NaN too: max() may have dropped it
            return float("inf"), False
    size = np.sqrt(squares / result.size) or 1.0
    error = float(np.sqrt(difference / result.size) / size)
    return error, bool(error <= AGREEMENT_L2 and largest / size <= AGREEMENT_ELEMENT)
