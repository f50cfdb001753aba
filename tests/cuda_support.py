"""What the tests of the CUDA backend share; they run on a GPU and on emulated kernels alike, and
importing this skips a module where there is neither.

Data     `on_gpu(array, dtype, order)`: the same values behind other strides, in the middle of a
         larger array that is full of NaN; `host(array)`: back, 16 bits as float32.
Outputs  `Poisoned(shape, dtype, order)`: full of NaN, and `.only_wrote()` looks around it.
Exact    Small integers are exact in every dtype and their sums in float32, which every kernel sums
         in: what it stores is `rounded(sum, dtype)`, to the bit.
Orders   Tests marked `kernels` run emulated threads in each of `support.THREAD_ORDERS`; a kernel
         that lacks a barrier gives other results in some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import fastconv as fc
import numpy as np
import pytest

Array = np.ndarray

if not fc.cuda.is_available():
    pytest.skip(f"no CUDA arrays here: {fc.cuda.why_unavailable()}", allow_module_level=True)

DTYPES = ("float32", "float16", "bfloat16")
ORDERS = ("C", "channels_last", "sliced", "channel_slice", "reversed", "transposed")

_EPS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_TINY = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


def numbers(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Values that float16 holds exactly; the same ones for the same shape."""
    x = np.random.default_rng(7).integers(-99, 100, shape)
    return (x / 8 if dtype != "int64" else x).astype(dtype)


def eps(dtype: str) -> float:
    """The distance from 1 to the next number: twice the largest relative rounding error."""
    return _EPS[dtype]


def rounding(values: Any, dtype: str) -> Array:
    """The error of storing `values` once, and what flushed denormals may lose."""
    return _EPS[dtype] * np.abs(values) + _TINY[dtype]


def rounded(values: Any, dtype: str) -> Array:
    """The nearest numbers of `dtype`, ties to even, as float32 (int64 stays)."""
    values = np.asarray(values)
    if values.dtype.kind in "iu" or dtype == "float32":
        return values if values.dtype.kind in "iu" else values.astype(np.float32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = values.astype(np.float32).view(np.uint32)
    nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), nearest.view(np.float32))


def host(array: Any) -> Array:
    """A device array (or a tensor of another library there) as NumPy's; 16 bits widened."""
    if not isinstance(array, fc.cuda.Array):
        array = fc.cuda.asarray(array)
    if array.dtype.name in ("float16", "bfloat16"):
        array = array.astype("float32")
    return fc.cuda.asnumpy(array)


def on_gpu(array: Array, dtype: str | None = None, order: str = "C") -> Any:
    """The values of `array` on the device, converted to `dtype` (None: as they are), behind the
    strides of `order`."""
    if dtype is None:
        dtype = array.dtype.name
    values = fc.cuda.asarray(np.array(array, order="C"), dtype=dtype)
    if order == "C":
        return values
    placed = Poisoned(array.shape, dtype, order).array
    placed[...] = values
    return placed


class Poisoned:
    """An `out` array on the device, full of NaN, as is the memory around it."""

    def __init__(self, shape: Sequence[int], dtype: str = "float32", order: str = "C") -> None:
        self.shape, self.order = tuple(shape), order
        larger = _larger(self.shape, order)
        self.whole = fc.cuda.empty(larger, dtype=dtype)
        self.poison = float(-(2**40)) if dtype == "int64" else float("nan")
        self.whole.fill(self.poison)
        self.array = _inside(self.whole, self.shape, order)

    def only_wrote(self) -> None:
        """Fail unless everything around `array` is still poison."""
        after = host(self.whole)
        untouched = np.isnan(after) if after.dtype.kind == "f" else after == self.poison
        result = np.zeros(after.shape, bool)
        _inside(result, self.shape, self.order)[...] = True
        spoilt = np.argwhere(~untouched & ~result)
        assert len(spoilt) == 0, (
            f"{len(spoilt)} elements outside the result were written; the first at "
            f"{tuple(int(i) for i in spoilt[0])} of the array {after.shape} that holds it"
        )


def _axes(rank: int, order: str) -> list[int]:
    axes = list(range(rank))
    if order in ("channels_last", "channel_slice") and rank >= 3:
        return [*axes[:-3], axes[-2], axes[-1], axes[-3]]
    return axes[::-1] if order == "transposed" else axes


def _larger(shape: tuple[int, ...], order: str) -> tuple[int, ...]:
    memory = tuple(shape[a] for a in _axes(len(shape), order))
    if order not in ("sliced", "channel_slice") or not memory:
        return memory
    step = 2 if order == "sliced" else 1
    return (*(s + 2 for s in memory[:-1]), step * memory[-1] + 5)


def _inside(whole: Any, shape: tuple[int, ...], order: str) -> Any:
    """The view of `shape` in `whole`; the same code for NumPy's and device arrays."""
    axes = _axes(len(shape), order)
    view = whole
    if order in ("sliced", "channel_slice") and shape:
        memory = tuple(shape[a] for a in axes)
        step = 2 if order == "sliced" else 1
        key = [slice(1, 1 + s) for s in memory[:-1]]
        view = view[(*key, slice(3, 3 + step * memory[-1], step))]
    elif order == "reversed":
        view = view[tuple(slice(None, None, -1) for _ in shape)] if shape else view
    return view.transpose(*(int(a) for a in np.argsort(axes))) if len(axes) > 1 else view


def directions() -> dict[str, Callable[..., Any]]:
    return {
        "conv2d": fc.conv2d,
        "conv2d_grad_input": fc.conv2d_grad_input,
        "conv2d_grad_weight": fc.conv2d_grad_weight,
    }


def forced_kernels() -> list[Any]:
    """(direction, kernel) as pytest parameters: every kernel of every direction."""
    return [
        pytest.param(name, kernel, id=f"{name}-{kernel}")
        for name, function in directions().items()
        for kernel in fc.cuda.kernels(function)
    ]
