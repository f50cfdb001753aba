"""What the tests share: data whose sums are exact, awkward memory, comparisons that say where.

Data       `integers`: small integers, whose sums of products are exact in float32, so that every
           order of summation gives the same bits; `normals`: for error bounds.
Memory     `in_order(array, order)`: the same values behind other strides, or right before or after
           a page that may not be touched; what lies between the values is NaN.
Outputs    `poisoned`: full of NaN, so that an element which is not written shows;
           `assert_only_wrote`: and the NaN around it must survive.
Files      `shared_data`: real data that lies outside the repository; the test is skipped without.
Bounds     n * eps * sum |a| |b|, the sum by calling the reference on absolute values in float64.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Array = np.ndarray

ORDERS = (
    "C",
    "channels_last",
    "sliced",  # every other column of a larger C-order array
    "channel_slice",  # some channels of a wider channels-last array
    "reversed",  # negative strides along every axis
    "transposed",  # Fortran order: all axes turned around
    "guard_end",  # C order, ends where an unreadable page begins
    "guard_begin",  # C order, begins where an unreadable page ends
    "channels_last_guard_end",
    "channels_last_guard_begin",
)

# Of emulated CUDA kernels (tests/emulation/README.md): one alone may hide a missing barrier.
THREAD_ORDERS = ("ascending", "descending", "random:1")


def params(cases: Iterable[Any]) -> list[Any]:
    """Cases as pytest parameters: named by their `id`, the long ones marked `full`."""
    return [
        pytest.param(case, id=case.id, marks=pytest.mark.full if case.full else ())
        for case in cases
    ]


def available_isas() -> list[str]:
    """Names of the instruction sets built and supported here, best first; none before a build."""
    try:
        from fastconv import _core
    except ImportError:
        return []
    return list(_core.supported_isas())


def emulated() -> bool:
    """Whether CUDA kernels are there, emulated (tests/emulation)."""
    import fastconv as fc

    return fc.cuda.is_available() and "Emulated" in fc.cuda.device_info()["name"]


def shared_data(name: str) -> Path:
    """A file or folder of the real data that the repository does not hold; skips where it is not.

    Looked for in the folder that FASTCONV_TEST_DATA names, else in `shared/data` beside the
    checkout or beside the folder it lies in.
    """
    named = os.environ.get("FASTCONV_TEST_DATA")
    beside = [folder / "shared" / "data" for folder in Path(__file__).resolve().parents[2:4]]
    for folder in [Path(named)] if named else beside:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"no {name} in FASTCONV_TEST_DATA={named}, nor in ../shared/data")


def exact_algorithms(function: Callable[..., Any]) -> list[str]:
    """The algorithms whose sums of small integers are exact: all but Winograd, whose transforms
    divide (tests/test_winograd.py has its bounds). "auto" is left to the caller.
    """
    import fastconv as fc

    return [name for name in fc.algorithms(function) if not name.startswith("winograd")]


def integers(
    shape: Sequence[int],
    rng: np.random.Generator,
    dtype: Any = np.float32,
    density: float = 1.0,
    largest: int = 3,
) -> Array:
    """Integers from -largest to largest, a fraction `density` of them not forced to 0.

    Sums of `terms` products are exact in float32 while terms * largest**2 < 2**24, in whatever
    order they are added: compare with `assert_exact`.
    """
    values = rng.integers(-largest, largest + 1, size=tuple(shape))
    if density < 1:
        values = values * (rng.random(size=tuple(shape)) < density)
    return values.astype(dtype)


def normals(shape: Sequence[int], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """Standard normal numbers."""
    return rng.standard_normal(size=tuple(shape)).astype(dtype)


def empty_in_order(shape: Sequence[int], dtype: Any, order: str) -> Array:
    """An array of `shape` in one of `ORDERS`, full of NaN, as is everything around it."""
    shape, dtype = tuple(shape), np.dtype(dtype)
    axes = list(range(len(shape)))
    if order.startswith("channels_last") or order == "channel_slice":
        # (N, C, H, W) lies in memory as (N, H, W, C); vectors have no other order than C.
        axes = [*axes[:-3], axes[-2], axes[-1], axes[-3]] if len(shape) >= 3 else axes
    elif order == "transposed":
        axes = axes[::-1]
    elif order not in ORDERS:
        raise ValueError(f"order={order!r}: wanted one of {ORDERS}")
    in_memory = tuple(shape[a] for a in axes)
    if order.endswith(("guard_end", "guard_begin")):
        array = _beside_guard_page(in_memory, dtype, at_end=order.endswith("guard_end"))
    elif order in ("sliced", "channel_slice"):
        step = 2 if order == "sliced" else 1
        larger = (*(s + 2 for s in in_memory[:-1]), step * in_memory[-1] + 5)
        inner = tuple(slice(1, 1 + s) for s in in_memory[:-1])
        last = slice(3, 3 + step * in_memory[-1], step)
        array = np.empty(larger, dtype)
        array[...] = _poison(dtype)
        array = array[(*inner, last)]
    elif order == "reversed":
        array = np.empty(in_memory, dtype)[tuple(slice(None, None, -1) for _ in in_memory)]
    else:
        array = np.empty(in_memory, dtype)
    array = array.transpose(np.argsort(axes))
    array[...] = _poison(dtype)
    return array


def in_order(array: Array, order: str) -> Array:
    """The values of `array` behind the strides of `order`."""
    copy = empty_in_order(array.shape, array.dtype, order)
    copy[...] = array
    return copy


def poisoned(shape: Sequence[int], dtype: Any = np.float32, order: str = "C") -> Array:
    """An `out` array full of NaN, as is the memory around it."""
    return empty_in_order(shape, dtype, order)


def assert_only_wrote(out: Array) -> None:
    """Fail unless everything around `out`, made by `poisoned`, is still NaN."""
    whole = out
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    written = out.copy()
    out[...] = _poison(out.dtype)
    around = whole.copy()
    out[...] = written
    spoilt = np.argwhere(~_is_poison(around))
    assert len(spoilt) == 0, (
        f"{len(spoilt)} elements outside the result were written; the first at "
        f"{tuple(int(i) for i in spoilt[0])} of the array {around.shape} that holds it"
    )


def assert_exact(actual: Array, expected: Array) -> None:
    """Fail unless every element is equal (NaN equals NaN, -0 equals 0), and so are the shapes."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}: wanted {expected.shape}"
    wrong = ~((actual == expected) | ((actual != actual) & (expected != expected)))
    assert not wrong.any(), _describe(wrong, actual, expected)


def assert_within_bound(actual: Array, expected: Array, bound: Array | float) -> None:
    """Fail unless |actual - expected| <= bound everywhere; NaN and infinities must be the same.

    The message names the worst element, measured in bounds.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}: wanted {expected.shape}"
    bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), expected.shape)
    finite = np.isfinite(expected)
    same_special = (actual == expected) | ((actual != actual) & (expected != expected))
    error = np.zeros(expected.shape)
    error[finite] = np.abs(actual[finite].astype(np.float64) - expected[finite])
    wrong = np.where(finite, ~(error <= bound), ~same_special)
    if wrong.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(wrong & ~(error <= bound), error / bound, 0)
        worst = np.unravel_index(
            np.nanargmax(np.where(np.isnan(ratio), np.inf, ratio)), wrong.shape
        )
        where = tuple(int(i) for i in worst)
        raise AssertionError(
            f"worst at {where}: |{actual[where]!r} - {expected[where]!r}| = {error[where]:.3e}, "
            f"{ratio[where]:.3g} times its bound {bound[where]:.3e}\n"
            + _describe(wrong, actual, expected)
        )


def sum_bound(
    function: Callable[..., Any],
    *arrays: Array | None,
    terms: int,
    dtype: Any = np.float32,
    **arguments: Any,
) -> Array:
    """Bound of the rounding error of a sum of `terms` products, for each element.

    n * eps * sum |a| |b|: N. Higham, "Accuracy and Stability of Numerical Algorithms", 3.1, with
    eps = 2 u and so a factor 2 to spare for bias and residual. `function` is a function of
    `fastconv.reference` that is linear in each array, called on their absolute values in float64.
    In float64 the expected value has an error of its own: the bound is doubled. Flushed denormals
    are allowed for. (`fastconv.verify` rests on the same bound.)
    """
    magnitudes = (None if a is None else np.abs(a).astype(np.float64) for a in arrays)
    magnitude = function(*magnitudes, **arguments)
    info = np.finfo(dtype)
    factor = 2 if info.eps < 1e-10 else 1
    return np.asarray(factor * terms * (float(info.eps) * magnitude + float(info.tiny)))


def float64(*arrays: Array | None) -> tuple[Array | None, ...]:
    """The same values in float64, for the reference."""
    return tuple(None if a is None else np.asarray(a, dtype=np.float64) for a in arrays)


def _describe(wrong: Array, actual: Array, expected: Array) -> str:
    places = [tuple(int(i) for i in place) for place in np.argwhere(wrong)[:5]]
    lines = [f"  at {p}: {actual[p]!r}, wanted {expected[p]!r}" for p in places]
    return f"{int(wrong.sum())} of {wrong.size} elements are wrong:\n" + "\n".join(lines)


def _poison(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else np.iinfo(dtype).min


def _is_poison(array: Array) -> Array:
    return np.isnan(array) if array.dtype.kind == "f" else array == np.iinfo(array.dtype).min


def _beside_guard_page(shape: Sequence[int], dtype: np.dtype, *, at_end: bool) -> Array:
    """An array that ends at, or begins after, a page whose reading or writing is a crash."""
    count = int(np.prod(shape))
    data_bytes = -(-count * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, data_bytes + mmap.PAGESIZE)
    guard = data_bytes if at_end else 0
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory, guard))
    no_access = 0  # PROT_NONE
    if _libc().mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, no_access) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    offset = data_bytes - count * dtype.itemsize if at_end else mmap.PAGESIZE
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, count, offset).reshape(shape)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
