"""Hypothesis strategies: problems of every kind, arrays behind random strides, the machine's state.

Arrays are drawn as (shape, seed), not element by element: a failing example shrinks to small shapes
and plain strides, which is what a kernel's error hangs on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastconv as fc
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from support import available_isas

Pair = tuple[int, int]

SEEDS = st.integers(0, 2**16)
DTYPES = st.sampled_from([np.float32, np.float64])
ISAS = st.sampled_from(available_isas() or ["none"])
THREADS = st.sampled_from([1, 2, 3, 5])
# Around the tiles' widths, and one beyond a block of filters or channels.
CHANNELS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33])


def examples(count: int) -> settings:
    """`count` examples in the quick profile, more with --full (conftest.py has the profiles)."""
    return settings(max_examples=max(1, count * settings().max_examples // 100))


@contextlib.contextmanager
def machine(isa: str, threads: int = 2) -> Iterator[None]:
    """Runs what is inside on one instruction set with that many threads."""
    before = fc.get_num_threads()
    fc.set_num_threads(threads)
    try:
        with fc.isa(isa):
            yield
    finally:
        fc.set_num_threads(before)


@dataclass(frozen=True)
class Layout:
    """How an array of up to four dimensions lies in memory; see `place`."""

    axes: tuple[int, ...] = (0, 1, 2, 3)  # from the slowest to the fastest
    steps: tuple[int, ...] = (1, 1, 1, 1)
    reversed: tuple[bool, ...] = (False,) * 4
    margin: int = 0


LAYOUTS = st.one_of(
    st.just(Layout()),
    st.just(Layout(axes=(0, 2, 3, 1))),  # channels last
    st.builds(
        Layout,
        axes=st.permutations(range(4)).map(tuple),
        steps=st.tuples(*[st.sampled_from([1, 1, 2, 3])] * 4),
        reversed=st.tuples(*[st.booleans()] * 4),
        margin=st.integers(0, 2),
    ),
)


def place(array: np.ndarray, layout: Layout) -> np.ndarray:
    """The values of `array` behind the strides of `layout`, NaN (or the least integer) between."""
    if array.ndim == 0:
        return np.array(array)
    axes = [a for a in layout.axes if a < array.ndim]
    window = [
        slice(layout.margin, layout.margin + array.shape[a] * layout.steps[a], layout.steps[a])
        for a in axes
    ]
    poison = np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).min
    buffer = np.full([w.stop + layout.margin for w in window], poison, array.dtype)
    view = buffer[tuple(window)].transpose(np.argsort(axes))
    view = view[tuple(slice(None, None, -1 if r else 1) for r in layout.reversed[: array.ndim])]
    view[...] = array
    return view


def poisoned(shape: Any, dtype: Any, layout: Layout) -> np.ndarray:
    """An `out` full of NaN in NaN."""
    return place(np.full(shape, np.nan, dtype), layout)


def pairs(values: st.SearchStrategy[int]) -> st.SearchStrategy[Any]:
    """An int or (height, width)."""
    return values | st.tuples(values, values)


def both(value: Any) -> Pair:
    """(height, width) of an int or a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def ends(padding: Any) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) of any numeric padding."""
    height, width = both(padding)
    return both(height), both(width)


PADDINGS = st.one_of(
    st.integers(0, 3),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 5))] * 2),
    st.sampled_from(["same", "valid"]),
)


@dataclass(frozen=True)
class Problem:
    """Shapes and the keyword arguments of a convolution (or of a transposed one)."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    arguments: dict[str, Any]

    @property
    def window(self) -> dict[str, Any]:
        """The arguments that conv2d_output_shape takes."""
        return {name: self.arguments[name] for name in ("stride", "padding", "dilation")}


@st.composite
def convolutions(draw: st.DrawFn, largest: int = 14) -> Problem:
    """Convolutions into which at least one window fits."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    in_channels = draw(CHANNELS if groups < 3 else st.integers(1, 3))
    out_channels = draw(CHANNELS if groups < 3 else st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    kernel = draw(st.sampled_from([kernel, (kernel[0], kernel[0]), (3, 3), (1, 1)]))
    stride, dilation = draw(pairs(st.integers(1, 3))), draw(pairs(st.sampled_from([1, 1, 2, 3])))
    padding = draw(PADDINGS)
    size = _that_fits(draw, kernel, dilation, padding, largest)
    return Problem(
        (draw(st.integers(0, 3)), in_channels * groups, *size),
        (out_channels * groups, in_channels, *kernel),
        {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
    )


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> Problem:
    """Transposed convolutions with something left of the result."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, dilation = draw(pairs(st.integers(1, 3))), draw(pairs(st.integers(1, 2)))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(both(stride), both(dilation)))
    size = draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    cut = []
    for n, k, s, d, e in zip(size, kernel, both(stride), both(dilation), extra):
        full = (n - 1) * s + (k - 1) * d + 1 + e
        low = draw(st.integers(0, min(3, full - 1)))
        cut.append((low, draw(st.integers(0, min(3, full - 1 - low)))))
    in_channels, out_channels = draw(CHANNELS), draw(st.integers(1, 9))
    return Problem(
        (draw(st.integers(0, 3)), in_channels * groups, *size),
        (in_channels * groups, out_channels, *kernel),
        {
            "stride": stride, "padding": tuple(cut), "output_padding": extra,
            "dilation": dilation, "groups": groups,
        },
    )  # fmt: skip


@st.composite
def poolings(draw: st.DrawFn, dilated: bool) -> tuple[tuple[int, ...], Any, dict[str, Any]]:
    """(input_shape, kernel_size, arguments); every padding is smaller than the window's extent."""
    kernel = draw(pairs(st.integers(1, 4)))
    stride = draw(st.none() | pairs(st.integers(1, 4)))
    dilation = draw(pairs(st.integers(1, 3))) if dilated else 1
    extents = [(k - 1) * d + 1 for k, d in zip(both(kernel), both(dilation))]
    padding = draw(
        st.one_of(
            st.integers(0, min(extents) - 1),
            st.tuples(*[st.integers(0, e - 1) for e in extents]),
            st.tuples(*[st.tuples(*[st.integers(0, e - 1)] * 2) for e in extents]),
            st.sampled_from(["same", "valid"]),
        )
    )
    size = _that_fits(draw, both(kernel), dilation, padding, 13)
    arguments = {"stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    shape = (draw(st.integers(0, 3)), draw(CHANNELS), *size)
    return shape, kernel, arguments | ({"dilation": dilation} if dilated else {})


def _that_fits(draw: st.DrawFn, kernel: Any, dilation: Any, padding: Any, largest: int) -> Pair:
    sides = ((0, 0), (0, 0)) if isinstance(padding, str) else ends(padding)
    return tuple(  # type: ignore[return-value]
        draw(st.integers(max(1, (k - 1) * d + 1 - sum(side) if padding != "same" else 1), largest))
        for k, d, side in zip(kernel, both(dilation), sides)
    )
