"""What a caller's thread has set, rounding or flushing of denormals, changes no result."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from support import normals
from test_properties_errors import CALLS

UPWARD = 0x800  # FE_UPWARD on x86, of x87 and MXCSR
FLUSH = 0x8040  # FTZ and DAZ in MXCSR, which glibc's fenv_t ends with

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="the bits are x86-64's"
)


@contextmanager
def rounding_upward() -> Iterator[None]:
    libm = ctypes.CDLL("libm.so.6")
    before = libm.fegetround()
    assert libm.fesetround(UPWARD) == 0
    try:
        yield
    finally:
        libm.fesetround(before)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    libm = ctypes.CDLL("libm.so.6")
    before, changed = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    libm.fegetenv(before)
    libm.fegetenv(changed)
    changed[7] |= FLUSH
    libm.fesetenv(changed)
    try:
        yield
    finally:
        libm.fesetenv(before)


def test_the_modes_are_what_they_say():
    tenths, tiny = np.float32([7, 10]), np.float32([1e-40, 1])
    with rounding_upward():
        up = tenths[:1] / tenths[1:]
    with flushing_denormals():
        flushed = tiny[:1] * tiny[1:]
    assert up > tenths[:1] / tenths[1:]
    assert flushed == 0 < tiny[:1] * tiny[1:]


NUMBERS = {
    "alpha": 0.7, "beta": 0.3, "k": 1.3, "momentum": 0.3, "eps": 1e-3, "p": 0.37,
    "label_smoothing": 0.1, "negative_slope": 0.3,
}  # fmt: skip
VARIANTS = [
    *((name, {}) for name in CALLS),
    ("batch_norm", {"training": False}),
    ("batch_norm_backward", {"training": False}),
    ("cross_entropy", {"reduction": "sum"}),
    ("cross_entropy", {"reduction": "none"}),
    ("cross_entropy_backward", {"reduction": "sum", "grad_output": 0.3}),
]


def arguments(name: str, changes: dict[str, Any], dtype: Any, scale: float) -> dict[str, Any]:
    """Of a call that is right, its numbers such that most operations on them round."""
    rng = np.random.default_rng(7)

    def spread(key: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim == 0:
            return NUMBERS.get(key, value)
        array = normals(value.shape, rng, dtype)
        array = np.abs(array) if key in ("rstd", "running_var", "output") else array
        return (array * scale).astype(dtype)

    return {key: spread(key, value) for key, value in CALLS[name]().items()} | changes


def results_of(name: str, given: dict[str, Any]) -> list[bytes]:
    """All that the call gives or writes."""
    given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in given.items()}
    result = getattr(fc, name)(**given)
    arrays = [*(result if isinstance(result, tuple) else (result,)), *given.values()]
    return [a.tobytes() for a in arrays if isinstance(a, np.ndarray | np.generic)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "changes"), VARIANTS, ids=["-".join([n, *map(str, c.values())]) for n, c in VARIANTS]
)
def test_results_have_the_same_bits(name, changes, dtype):
    given = arguments(name, changes, dtype, 1.0)
    expected = results_of(name, given)
    with rounding_upward():
        up = results_of(name, given)
    assert up == expected
    tiny = arguments(name, changes, dtype, float(np.finfo(dtype).tiny) / 8)
    expected = results_of(name, tiny)
    with flushing_denormals():
        flushed = results_of(name, tiny)
    assert flushed == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sgd_has_the_same_bits(dtype, rng):
    def stepped() -> bytes:
        parameter = fc.Parameter(data.copy())
        optimizer = fc.optim.SGD([parameter], 0.1, momentum=0.3, weight_decay=0.7)
        for _ in range(2):
            parameter.grad[...] = grad
            optimizer.step()
        return parameter.data.tobytes()

    data, grad = normals((5, 7), rng, dtype), normals((5, 7), rng, dtype)
    expected = stepped()
    with rounding_upward():
        up = stepped()
    assert up == expected
