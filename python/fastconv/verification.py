"""A call held against the float64 reference, element by element: `verify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import reference
from .ops.arrays import Array, take
from .ops.devices import on_device
from .precision import get_float32_precision


@dataclass(frozen=True)
class Verification:
    """What `verify` found; true if every element is within its bound.

    Attributes
    ----------
    function, dtype : str
    passed : bool
    worst : float
        The largest error, in units of its element's bound.
    where : tuple of int
        Index of that element.
    actual, expected, bound : float
        There.
    terms : int
        Products that an element sums.
    """

    function: str
    dtype: str
    passed: bool
    worst: float
    where: tuple[int, ...]
    actual: float
    expected: float
    bound: float
    terms: int

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return (
            f"{self.function} {self.dtype}: {'PASS' if self.passed else 'FAIL'}; largest error "
            f"{self.worst:.3g} of its bound ({self.terms} eps sum|a||b| = {self.bound:.3g}) at "
            f"{self.where}: {self.actual!r}, reference {self.expected!r}"
        )


# Products that one element of the result sums, from the shapes of the operands.
_TERMS: dict[str, Callable[..., int]] = {
    "conv2d": lambda x, w, *_, **k: int(np.prod(w.shape[1:])),
    "conv2d_grad_input": lambda g, w, *_, **k: w.shape[0] // k.get("groups", 1) * _taps(w.shape),
    "conv2d_grad_weight": lambda g, x, *_, **k: int(np.prod(g.shape) // max(1, g.shape[-3])),
    "conv_transpose2d": lambda x, w, *_, **k: w.shape[0] // k.get("groups", 1) * _taps(w.shape),
    "linear": lambda x, w, *_, **k: int(w.shape[1]),
}


def verify(function: Callable[..., Any], *operands: Any, **arguments: Any) -> Verification:
    """Call `function` and its float64 reference, and compare every element with the error bound.

    The bound of an element is n eps sum |a| |b|, n the number of products it sums (N. Higham,
    "Accuracy and Stability of Numerical Algorithms", section 3.1; eps of the operands' dtype is
    twice the unit roundoff, which leaves room for bias and residual). On a CUDA device operands of
    16 bits are summed in float32 and rounded once: (eps of 16 bits + n eps of float32) sum |a| |b|.

    Parameters
    ----------
    function : conv2d, conv2d_grad_input, conv2d_grad_weight, conv_transpose2d or linear
    *operands, **arguments
        The call's own.

    Returns
    -------
    Verification

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    >>> bool(fc.verify(fc.conv2d, x, w, padding=1))
    True
    """
    name = getattr(function, "__name__", repr(function))
    if name not in _TERMS:
        raise ValueError(f"verify: {name} has no written bound; these have: {', '.join(_TERMS)}")
    arrays = [_operand(name, i, operand) for i, operand in enumerate(operands)]
    result = take(name, "result", function(*operands, **arguments))
    actual = _host(result)
    twin = getattr(reference, name)
    problem = {k: v for k, v in arguments.items() if k not in ("algorithm", "out", "accumulate")}
    expected = twin(*_map(arrays, _double), **_map_dict(problem, _double))
    problem.pop("activation", None)  # |relu(y)| <= |y|: the sum of magnitudes is taken before it
    magnitude = twin(*_map(arrays, _magnitude), **_map_dict(problem, _magnitude))
    terms = max(1, _TERMS[name](*arrays, **problem))
    eps, tiny = _rounding(actual.dtype)
    if actual.dtype.itemsize == 2:  # summed in float32, rounded once
        bound = eps * magnitude + tiny + terms * (_FLOAT32_EPS * magnitude + tiny)
    else:
        bound = terms * (eps * magnitude + tiny)
        if on_device(result) and actual.dtype == np.float32:
            bound = bound + _TF32_ERROR[get_float32_precision()] * magnitude
    return _compare(name, actual, np.asarray(expected), np.asarray(bound), terms)


def _compare(name: str, actual: Array, expected: Array, bound: Array, terms: int) -> Verification:
    if actual.size == 0:
        return Verification(name, str(actual.dtype), True, 0.0, (), 0.0, 0.0, 0.0, terms)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(actual.astype(np.float64) - expected) / bound
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    ratio = np.where(same, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    where = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    worst = float(ratio[where])
    return Verification(
        name, str(actual.dtype), worst <= 1.0, worst, tuple(int(i) for i in where),
        float(actual[where]), float(expected[where]), float(bound[where]), terms,
    )  # fmt: skip


def _operand(function: str, index: int, operand: Any) -> Any:
    if operand is None or isinstance(operand, tuple | list):
        return operand
    return take(function, f"operand {index}", getattr(operand, "weight", operand))


# Of a product whose factors are rounded to TF32's 11 bits, or split into three such products.
_TF32_ERROR = {"highest": 0.0, "high": 2.0**-21, "tf32": 2.0**-10}
_FLOAT32_EPS = float(np.finfo(np.float32).eps)


def _rounding(dtype: Any) -> tuple[float, float]:
    """eps and the smallest normal number; NumPy's finfo knows no bfloat16."""
    if dtype.name == "bfloat16":
        return 2.0**-7, float(np.finfo(np.float32).tiny)
    info = np.finfo(dtype)
    return float(info.eps), float(info.tiny)


def _host(value: Any) -> Any:
    if not on_device(value):
        return value
    from . import cuda

    return cuda.asnumpy(value)


def _double(value: Any) -> Any:
    value = _host(value)
    return value.astype(np.float64) if isinstance(value, np.ndarray) else value


def _magnitude(value: Any) -> Any:
    value = _double(value)
    return np.abs(value) if isinstance(value, np.ndarray) else value


def _map(values: list[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [change(value) for value in values]


def _map_dict(values: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: change(value) for key, value in values.items()}


def _taps(shape: tuple[int, ...]) -> int:
    return shape[2] * shape[3]
