"""``fastconv.reference``: the readable NumPy functions that everything else is checked against."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..operations import Operands
from ..operations.network import Network
from ..operations.training import Training
from ..problems import Problem
from . import Prepared, Settings


class NumpyReference:
    """One row: the reference as it stands, in float32, C order."""

    def __init__(self) -> None:
        self._module: Any = None

    def start(self, settings: Settings) -> str | None:
        try:
            from fastconv import reference
        except ImportError as error:
            return f"fastconv.reference cannot be imported: {error}"
        self._module = reference
        return None

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def variants(self, problem: Problem) -> list[str]:
        return [] if isinstance(problem.shape, (Network, Training)) else ["reference"]

    def slowness(self, variant: str) -> float:
        return 1.0

    def prepare(self, problem: Problem, operands: Operands, variant: str) -> Prepared:
        def call() -> Any:
            return problem.shape.reference(self._module, operands, problem.direction)

        return Prepared(call, tuple)


def peer() -> NumpyReference:
    return NumpyReference()
