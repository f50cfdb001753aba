"""Copies by TMA and the barriers that count them (csrc/cuda/ptx_tma.cuh) in the emulation: against
their definitions, and that it catches the mistakes it is there to catch.

`FASTCONV_TEST_GPU=1` runs them on a real GPU of compute capability 9.0 too, compiled by nvcc."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import pytest
from emulated_program import ORDERS, address, case_fixtures, ints, needs_compiler
from support import Array

pytestmark = needs_compiler

BUGS = [
    "none",
    "no full wait",
    "no empty wait",
    "no empty arrive",
    "early arrive",
    "wrong parity",
    "too many bytes",
    "too few bytes",
    "wrong tap",
]


emulated, library = case_fixtures("tma", "tma_copy", "tma_convolve", maps=True)


# ---- one copy -----------------------------------------------------------------------------------


class Walk(NamedTuple):
    first_w: int
    last_w: int
    first_h: int
    last_h: int
    step_w: int
    step_h: int
    pixels: int


def copy(
    library: ctypes.CDLL,
    x: Array,
    at: tuple[int, int, int, int],
    box: tuple[int, ...] | None = None,
    walk: Walk | None = None,
    tap: tuple[int, int] = (0, 0),
    spare: int = 0,
    passes: int = 1,
) -> Array:
    """Lines of 64 elements, as they lie in shared memory; x (batch, height, width, channels)."""
    batch, height, width, channels = x.shape
    held = np.full((batch, height, width, channels + spare), 0x7FFF, np.uint16)
    held[..., :channels] = x
    lines = int(np.prod(box[1:])) if box else (walk.pixels if walk else 0)
    out = np.full((lines, 64), 0xFFFF, np.uint16)
    error = library.tma_copy(
        address(held),
        ints(channels, width, height, batch),
        spare,
        ints(*box) if box else None,
        ints(*walk) if walk else None,
        ints(*at, *tap),
        passes,
        address(out),
    )
    assert error == b"", error.decode()
    return out


def line_of(x: Array, channel: int, w: int, h: int, n: int) -> Array:
    """64 channels of a pixel, zeros where x has none."""
    line = np.zeros(64, np.uint16)
    batch, height, width, channels = x.shape
    if 0 <= n < batch and 0 <= h < height and 0 <= w < width:
        for i in range(64):
            if 0 <= channel + i < channels:
                line[i] = x[n, h, w, channel + i]
    return line


def swizzled(lines: list[Array]) -> Array:
    """Chunk q of 16 bytes of line l is at place q ^ (l & 7)."""
    out = np.empty((len(lines), 64), np.uint16)
    for i, line in enumerate(lines):
        for chunk in range(8):
            to = (chunk ^ (i & 7)) * 8
            out[i, to : to + 8] = line[chunk * 8 : chunk * 8 + 8]
    return out


def elements(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(1, 0x7F80, shape).astype(np.uint16)  # finite bfloat16, none of them 0


@pytest.mark.parametrize(
    ("shape", "box", "at"),
    [
        ((2, 3, 5, 64), (64, 5, 3, 2), (0, 0, 0, 0)),
        ((2, 3, 5, 72), (64, 4, 2, 1), (64, 3, 2, 1)),  # ends within the box, along every dimension
        ((3, 4, 6, 128), (64, 3, 2, 2), (64, -1, -1, -1)),
        ((2, 3, 5, 64), (64, 2, 2, 2), (-8, 0, 0, 0)),
        ((2, 3, 5, 64), (64, 2, 2, 2), (64, 5, 3, 2)),  # wholly outside
        ((2, 3, 5, 20), (64, 8, 1, 1), (8, 0, 1, 0)),  # channels that are no multiple of 8
        ((1, 1, 300, 64), (64, 256, 1, 1), (0, 50, 0, 0)),
        ((1, 300, 2, 64), (64, 1, 200, 1), (0, 1, 150, 0)),
        ((4, 16, 32, 64), (64, 7, 3, 4), (0, 20, 9, 0)),  # more than 128 KiB
    ],
)
def test_copy_of_a_tile(
    library: ctypes.CDLL,
    shape: tuple[int, ...],
    box: tuple[int, ...],
    at: tuple[int, int, int, int],
    rng: np.random.Generator,
) -> None:
    x = elements(rng, *shape)
    actual = copy(library, x, at, box=box, spare=-shape[3] % 8 + 16)
    expected = [
        line_of(x, at[0], at[1] + w, at[2] + h, at[3] + n)
        for n in range(box[3])
        for h in range(box[2])
        for w in range(box[1])
    ]
    np.testing.assert_array_equal(actual, swizzled(expected))


WALKS = {
    "inside": ((2, 6, 7, 64), Walk(0, 6, 0, 5, 1, 1, 40), (0, 0, 0, 0), (0, 0)),
    "padding": ((2, 6, 7, 64), Walk(-1, 5, -1, 4, 1, 1, 64), (0, -1, -1, 0), (2, 2)),
    "corners differ": ((3, 6, 9, 64), Walk(-3, 7, -1, 6, 1, 1, 128), (0, 2, 0, 0), (1, 0)),
    "stride": ((2, 9, 11, 64), Walk(-1, 9, -1, 7, 2, 2, 70), (0, 3, 1, 0), (1, 2)),
    "strides differ": ((2, 9, 11, 64), Walk(-2, 10, -1, 8, 3, 2, 50), (0, 1, 3, 1), (0, 0)),
    "dilation": ((2, 8, 8, 64), Walk(-2, 5, -2, 5, 1, 1, 100), (0, -2, -2, 0), (4, 2)),
    "across images": ((4, 3, 3, 64), Walk(-1, 1, -1, 1, 1, 1, 30), (0, 1, 1, 1), (1, 1)),
    "beyond the last": ((2, 4, 4, 64), Walk(0, 3, 0, 3, 1, 1, 64), (0, 2, 3, 1), (0, 0)),
    "channels end": ((2, 5, 5, 72), Walk(-1, 3, -1, 3, 1, 1, 33), (64, -1, -1, 0), (1, 1)),
    "odd channels": ((2, 5, 5, 12), Walk(-1, 3, -1, 3, 1, 1, 50), (0, -1, -1, 0), (2, 0)),
    "one wide": ((5, 1, 1, 64), Walk(0, 0, 0, 0, 1, 1, 9), (0, 0, 0, 0), (0, 0)),
    "last but one step": ((2, 8, 8, 64), Walk(0, 6, 0, 5, 4, 4, 20), (0, 4, 0, 0), (1, 1)),
    "far taps": ((1, 3, 200, 64), Walk(-100, 84, 0, 2, 8, 1, 64), (0, -100, 0, 0), (255, 0)),
    "largest": ((5, 16, 16, 64), Walk(-1, 14, -1, 14, 1, 1, 1024), (0, 5, 5, 0), (2, 1)),
}


@pytest.mark.parametrize("case", WALKS)
def test_copy_by_im2col(library: ctypes.CDLL, case: str, rng: np.random.Generator) -> None:
    shape, walk, (channel, w, h, n), tap = WALKS[case]
    x = elements(rng, *shape)
    actual = copy(library, x, (channel, w, h, n), walk=walk, tap=tap, spare=-shape[3] % 8)
    expected = []
    for _ in range(walk.pixels):
        expected.append(line_of(x, channel, w + tap[0], h + tap[1], n))
        w += walk.step_w
        if w > walk.last_w:
            w = walk.first_w
            h += walk.step_h
        if h > walk.last_h:
            h = walk.first_h
            n += 1
    np.testing.assert_array_equal(actual, swizzled(expected))


@pytest.mark.parametrize("batch", [1, 40], ids=["small", "large"])
def test_phases_of_a_barrier(library: ctypes.CDLL, batch: int, rng: np.random.Generator) -> None:
    """Five copies through one barrier, out of a tensor below and above 128 KiB."""
    x = elements(rng, batch, 4, 8, 64)
    actual = copy(library, x, (0, 0, 0, 0), walk=Walk(0, 7, 0, 3, 1, 1, 32), passes=5)
    np.testing.assert_array_equal(actual, swizzled(list(x[0].reshape(32, 64))))


# ---- a convolution ------------------------------------------------------------------------------


class Problem(NamedTuple):
    batch: int
    channels: int
    size: tuple[int, int]
    taps: tuple[int, int]
    stride: int = 1
    dilation: int = 1
    pad: int = 0

    def out(self) -> tuple[int, int]:
        spans = [(t - 1) * self.dilation + 1 for t in self.taps]
        p, q = ((n + 2 * self.pad - s) // self.stride + 1 for n, s in zip(self.size, spans))
        return p, q


def convolve(
    library: ctypes.CDLL, rng: np.random.Generator, problem: Problem, bug: str = "none"
) -> str:
    """What is wrong with the sums: the error's text, "NaN", "wrong", or "" if nothing is."""
    n, c, (h, w), (taps_h, taps_w), stride, dilation, pad = problem
    p, q = problem.out()
    x = rng.integers(-8, 9, (n, h, w, c)).astype(np.float32)
    weight = rng.integers(-8, 9, (64, taps_h, taps_w, c)).astype(np.float32)
    x_bits, w_bits = ((a.view(np.uint32) >> 16).astype(np.uint16) for a in (x, weight))
    out = np.full((n, p, q, 64), np.nan, np.float32)
    numbers = (n, c, h, w, taps_h, taps_w, stride, dilation, pad, p, q)
    error = library.tma_convolve(
        BUGS.index(bug), ints(*numbers), address(x_bits), address(w_bits), address(out)
    )
    if error:
        return str(error.decode())
    if np.isnan(out).any():
        return "NaN"
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    expected = np.zeros_like(out)
    for r in range(taps_h):
        for s in range(taps_w):
            rows = slice(r * dilation, r * dilation + (p - 1) * stride + 1, stride)
            cols = slice(s * dilation, s * dilation + (q - 1) * stride + 1, stride)
            expected += padded[:, rows, cols] @ weight[:, r, s].T
    return "" if np.array_equal(out, expected) else "wrong"


PROBLEMS = {
    "3x3": Problem(2, 64, (9, 11), (3, 3), pad=1),
    "1x1": Problem(3, 128, (8, 8), (1, 1)),
    "stride": Problem(3, 64, (13, 11), (3, 3), stride=2, pad=1),
    "dilation": Problem(2, 72, (12, 10), (3, 2), dilation=2, pad=2),
    "ragged images": Problem(7, 72, (5, 6), (2, 3), pad=1),
    "few channels": Problem(2, 8, (10, 10), (5, 5), stride=2, pad=2),
    "more than 128 KiB": Problem(10, 128, (11, 10), (3, 3), pad=1),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_convolution(library: ctypes.CDLL, case: str, rng: np.random.Generator) -> None:
    assert convolve(library, rng, PROBLEMS[case]) == ""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", ["delayed", "immediate"])
def test_right_convolution_passes(
    emulated: ctypes.CDLL,
    order: str,
    copies: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", copies)
    assert convolve(emulated, rng, PROBLEMS["ragged images"]) == ""


# bug -> one of these is found, whichever comes first in an order
CHANGED = "operands in shared memory changed between its issue and its wait"
FINDS = {
    "no full wait": [CHANGED, "an arrival too many", "misses 8 of 8 arrivals and 0 bytes"],
    "no empty wait": ["barrier_arrive_expect: an arrival too many: all 1 of phase 0"],
    "no empty arrive": ["misses 1 of 8 arrivals and 0 bytes"],
    "early arrive": [CHANGED],
    "wrong parity": [CHANGED, "an arrival too many", "misses 1 of 1 arrivals and 0 bytes"],
    "too many bytes": ["misses 0 of 1 arrivals and 16 bytes (copies in flight to it: 0)"],
    "too few bytes": ["was told to expect too few bytes", "8192 bytes more than the barrier"],
    "wrong tap": ["wrong"],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bug", FINDS)
def test_planted_bug_is_found(
    emulated: ctypes.CDLL,
    bug: str,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    found = convolve(emulated, rng, PROBLEMS["3x3"], bug)
    assert any(words in found for words in FINDS[bug]), found


# ---- maps ---------------------------------------------------------------------------------------


def refusal(library: ctypes.CDLL, spare: int = 0, **of: tuple[int, ...]) -> str:
    """What is said to a map of a (2, 4, 8, 64) tensor with one thing wrong."""
    x, out = np.zeros(2 * 4 * 8 * (64 + spare), np.uint16), np.zeros(1 << 20, np.uint16)
    box = ints(*of["box"]) if "box" in of else None
    walk = ints(*of.get("walk", (0, 7, 0, 3, 1, 1, 32)))
    shape = ints(*of.get("shape", (64, 8, 4, 2)))
    error = library.tma_copy(
        address(x), shape, spare, box, walk, ints(0, 0, 0, 0, 0, 0), 1, address(out)
    )
    return str(error.decode())


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ({"spare": 4}, "tensor.elems[0] is 68, no multiple of 8"),
        ({"box": (64, 8, 4, 1), "shape": (64, 0, 4, 2)}, "tensor.size[1] is 0, not 1 .."),
        ({"box": (64, 257, 1, 1)}, "box[1] is 257, not 1 .. 256"),
        ({"walk": (-129, 7, 0, 3, 1, 1, 32)}, "walk.first_w is -129, not -128 .. 127"),
        ({"walk": (0, 135, 0, 3, 1, 1, 32)}, "walk.last_w is 135, not -121 .. 134"),
        ({"walk": (0, 7, 0, 3, 1, 9, 32)}, "walk.step_h is 9, not 1 .. 8"),
        ({"walk": (0, 7, 0, 3, 1, 1, 1025)}, "walk.pixels is 1025, not 1 .. 1024"),
    ],
)
def test_maps_that_cannot_be(
    library: ctypes.CDLL, request: pytest.FixtureRequest, of: dict[str, tuple[int, ...]], says: str
) -> None:
    """A driver refuses them too, in its own words."""
    refused = refusal(library, **of)  # type: ignore[arg-type]
    if "gpu" in request.node.name:
        says = "cuTensorMapEncode"
    assert says in refused


def test_boxes_are_as_wide_as_the_swizzle(emulated: ctypes.CDLL) -> None:
    """A driver would take others, which copy_tile is not for."""
    assert "box[0] is 32, not 64 .. 64" in refusal(emulated, box=(32, 8, 4, 1))
