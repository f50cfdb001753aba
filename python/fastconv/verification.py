"""A call held against the float64 reference, element by element: `verify`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, reference
from .described_call import DIRECTIONS, arguments_of, describe
from .error_bounds import TERMS, TileBound, without_denormals
from .ops.arrays import Array, take
from .ops.conv_problem import PackedWeight
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
    algorithm : str
        What computed it: Winograd's elements have their tile's bound. Empty where there is no
        choice, and on a CUDA device.
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
    algorithm: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        tile = "max|a in the tile| sum|b|" if "winograd" in self.algorithm else "sum|a||b|"
        return (
            f"{self.function} {self.dtype}: {'PASS' if self.passed else 'FAIL'}; largest error "
            f"{self.worst:.3g} of its bound ({self.terms} eps {tile} = {self.bound:.3g}) at "
            f"{self.where}: {self.actual!r}, reference {self.expected!r}"
        )


def verify(function: Callable[..., Any], *operands: Any, **arguments: Any) -> Verification:
    """Call `function` and its float64 reference, and compare every element with the error bound.

    The bound of an element is n eps sum |a| |b|, n the number of products it sums (N. Higham,
    "Accuracy and Stability of Numerical Algorithms", section 3.1; eps of the operands' dtype is
    twice the unit roundoff, which leaves room for bias and residual), in float32 with the products
    of denormal operands, which may be taken for 0. Where Winograd's algorithm is taken, it is the
    tile's, g n eps max |a in the tile| sum |b|, and what an infinity or NaN shares a tile with may
    be one, too (docs/numerics.md). On a CUDA device operands of 16 bits are summed in float32 and
    rounded once: (eps of 16 bits + n eps of float32) sum |a| |b|.

    Parameters
    ----------
    function : conv2d, conv2d_grad_input, conv2d_grad_weight, conv_transpose2d or linear
    *operands, **arguments
        The call's own, by position or by name. `out` is written, with `accumulate` added to.

    Returns
    -------
    Verification

    Raises
    ------
    ValueError, TypeError
        As the call would.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, w = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
    >>> bool(fc.verify(fc.conv2d, x, w, padding=1))
    True
    """
    name = getattr(function, "__name__", repr(function))
    if name not in TERMS:
        raise ValueError(f"verify: {name} has no written bound; these have: {', '.join(TERMS)}")
    given = arguments_of("verify", name, operands, arguments)
    call = describe(name, given) if name in DIRECTIONS else None
    plan = call.plan(_core.num_threads()) if call is not None and call.device == "cpu" else {}
    # All is read before the call: `out` may be an operand, or be added to.
    exact = {key: _exact(name, key, value) for key, value in given.items() if key not in _HOW}
    prior = _exact(name, "out", given.get("out")) if given.get("accumulate") else None
    result = take(name, "result", function(*operands, **arguments))
    actual = _host(result)
    terms, twin = max(1, TERMS[name](exact)), getattr(reference, name)
    expected = np.asarray(twin(**exact))
    sizes = {key: _magnitude(value) for key, value in exact.items()}
    sizes.pop("activation", None)  # |relu(y)| <= |y|: the sum of magnitudes is taken before it
    magnitude = np.asarray(twin(**sizes))
    eps, tiny = _rounding(actual.dtype)
    if actual.dtype.itemsize == 2:  # summed in float32, rounded once
        bound = eps * magnitude + tiny + terms * (_FLOAT32_EPS * magnitude + tiny)
    else:
        bound = terms * (eps * magnitude + tiny)
    if actual.dtype == np.float32:
        if on_device(result):
            bound = bound + _TF32_ERROR[get_float32_precision()] * magnitude
        normal = {key: without_denormals(value) for key, value in sizes.items()}
        if any(normal[key] is not sizes[key] for key in sizes):
            with np.errstate(invalid="ignore"):  # infinite magnitudes
                bound = bound + np.nan_to_num(magnitude - twin(**normal), posinf=0.0)
    spoilt = np.zeros(expected.shape, bool)
    if call is not None and plan.get("winograd"):
        tiles = TileBound(call, plan["winograd"], exact)
        allowed = eps * tiles.products + tiny * tiles.least
        bound = bound + allowed.reshape(bound.shape)
        spoilt = tiles.spoilt.reshape(bound.shape)
    if prior is not None:
        expected, bound = expected + prior, bound + eps * np.abs(prior)
    algorithm = plan.get("algorithm", "")
    return _compare(name, algorithm, actual, expected, bound, spoilt, terms)


def _compare(
    name: str,
    algorithm: str,
    actual: Array,
    expected: Array,
    bound: Array,
    spoilt: Array,
    terms: int,
) -> Verification:
    dtype = str(actual.dtype)
    if actual.size == 0:
        return Verification(name, dtype, True, 0.0, (), 0.0, 0.0, 0.0, terms, algorithm)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(actual.astype(np.float64) - expected) / bound
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    same |= spoilt & ~np.isfinite(actual.astype(np.float64))
    ratio = np.where(same, 0.0, np.where(np.isnan(ratio), np.inf, ratio))
    where = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    worst = float(ratio[where])
    return Verification(
        name, dtype, worst <= 1.0, worst, tuple(int(i) for i in where), float(actual[where]),
        float(expected[where]), float(bound[where]), terms, algorithm,
    )  # fmt: skip


# Say how to compute, not what; a call's other arguments are the reference's too.
_HOW = ("algorithm", "out", "accumulate")
_ARRAYS = ("x", "weight", "bias", "grad_output", "residual", "out")


def _exact(function: str, name: str, value: Any) -> Any:
    """An array as a copy in float64 on the host; what else there is as it is."""
    if name not in _ARRAYS or value is None:
        return value
    taken = take(function, name, value.weight if type(value) is PackedWeight else value)
    return _host(taken).astype(np.float64)


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


def _magnitude(value: Any) -> Any:
    return np.abs(value) if isinstance(value, np.ndarray) else value
