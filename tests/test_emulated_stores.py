"""Tiles that leave a block by stmatrix and TMA (csrc/cuda/ptx_tma.cuh) in the emulation: against
their definitions, and that it catches the mistakes it is there to catch.

`FASTCONV_TEST_GPU=1` runs them on a real GPU of compute capability 9.0 too, compiled by nvcc."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from emulated_program import ORDERS, address, case_fixtures, ints, needs_compiler

pytestmark = needs_compiler

BUGS = [
    "none",
    "no fence",
    "one lane fences",
    "no barrier before",
    "no wait",
    "shallow wait",
    "no barrier after",
    "no commit",
    "no last wait",
    "reads back",
]


emulated, library = case_fixtures("store", "tma_scatter", "tma_store", maps=True)


def test_stored_matrices(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    words = rng.integers(1, 1 << 32, (32, 4)).astype(np.uint32)
    places = rng.permutation(64)[:32]
    out = np.zeros((64, 4), np.uint32)
    error = library.tma_scatter(address(words), ints(*places), address(out))
    assert error == b"", error.decode()
    expected = np.zeros((64, 4), np.uint32)
    for matrix, row in itertools.product(range(4), range(8)):
        expected[places[matrix * 8 + row]] = words[row * 4 : row * 4 + 4, matrix]
    np.testing.assert_array_equal(out, expected)


# ---- tiles --------------------------------------------------------------------------------------

Four = tuple[int, int, int, int]


def store(
    library: ctypes.CDLL,
    rng: np.random.Generator,
    shape: Four,
    box: Four,
    at: Four,
    step: Four = (0, 0, 0, 0),
    tiles: int = 1,
    bug: str = "none",
) -> str:
    """What is wrong with (batch, height, width, channels) that tiles were written into: the error's
    text, "wrong", or "" if nothing is."""
    batch, height, width, channels = shape
    spare = -channels % 8 + 16
    before = rng.integers(0, 1 << 16, (batch, height, width, channels + spare)).astype(np.uint16)
    lines = int(np.prod(box[1:]))
    given = rng.integers(0, 1 << 16, (tiles, -(-lines // 8) * 8, 64)).astype(np.uint16)
    actual = before.copy()
    error = library.tma_store(
        BUGS.index(bug),
        address(actual),
        ints(channels, width, height, batch),
        spare,
        ints(*box),
        ints(*at, *step),
        address(given),
        tiles,
    )
    if error:
        return str(error.decode())
    expected = before.copy()
    for tile in range(tiles):
        c, w, h, n = (a + tile * s for a, s in zip(at, step))
        pixels = itertools.product(range(box[3]), range(box[2]), range(box[1]))
        for line, (dn, dh, dw) in enumerate(pixels):
            pixel = n + dn, h + dh, w + dw
            if not all(0 <= i < size for i, size in zip(pixel, shape)):
                continue
            for i in range(64):
                if 0 <= c + i < channels:
                    expected[pixel][c + i] = given[tile, line, i]
    if bug == "reads back":
        expected.flat[0] = given[0, 0, 0]
    return "" if np.array_equal(actual, expected) else "wrong"


@pytest.mark.parametrize(
    ("shape", "box", "at"),
    [
        ((2, 3, 5, 64), (64, 5, 3, 2), (0, 0, 0, 0)),
        ((2, 3, 5, 72), (64, 4, 2, 1), (64, 3, 2, 1)),  # ends within the box, along every dimension
        ((3, 4, 6, 128), (64, 3, 2, 2), (64, 4, 3, 2)),
        ((2, 3, 5, 64), (64, 2, 2, 2), (8, 0, 0, 0)),
        ((2, 3, 5, 64), (64, 2, 2, 2), (64, 5, 3, 2)),  # wholly outside
        ((2, 3, 5, 20), (64, 8, 1, 1), (8, 0, 1, 0)),  # channels that are no multiple of 8
        ((1, 1, 300, 64), (64, 256, 1, 1), (0, 50, 0, 0)),
        ((1, 300, 2, 64), (64, 1, 200, 1), (0, 1, 150, 0)),
        ((4, 16, 32, 64), (64, 7, 3, 4), (0, 20, 9, 0)),  # more than 128 KiB
    ],
)
def test_copy_out_of_a_tile(
    library: ctypes.CDLL, shape: Four, box: Four, at: Four, rng: np.random.Generator
) -> None:
    assert store(library, rng, shape, box, at) == ""


@pytest.mark.parametrize("batch", [1, 5], ids=["small", "large"])
def test_copies_out_of_two_buffers(
    library: ctypes.CDLL, batch: int, rng: np.random.Generator
) -> None:
    """Tiles one after another, the last ending outside, of a tensor below and above 128 KiB."""
    shape, at = (batch, 3, 100, 64), (0, 10, 1, batch - 1)
    assert store(library, rng, shape, (64, 24, 1, 1), at, (0, 24, 0, 0), 6) == ""


# ---- mistakes -----------------------------------------------------------------------------------


def store_with(library: ctypes.CDLL, rng: np.random.Generator, bug: str) -> str:
    shape = (1, 2, 100, 64)
    return store(library, rng, shape, (64, 32, 1, 1), (0, 0, 1, 0), (0, 32, 0, 0), 4, bug=bug)


@pytest.mark.parametrize("copies", ["delayed", "immediate"])
@pytest.mark.parametrize("order", ORDERS)
def test_right_copies_out_pass(
    emulated: ctypes.CDLL,
    order: str,
    copies: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", copies)
    assert store_with(emulated, rng, "none") == ""


UNFENCED = "copy_tile_out: no fence.proxy.async after what was written to offset"
CHANGED = "copy_tile_out: shared memory changed between its issue and its wait"
NOT_AWAITED = "nothing waited for a copy by TMA issued at"
FINDS = {
    "no fence": UNFENCED,
    "one lane fences": UNFENCED,
    "no wait": CHANGED,
    "shallow wait": CHANGED,
    "no commit": NOT_AWAITED,
    "no last wait": NOT_AWAITED,
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
    assert FINDS[bug] in store_with(emulated, rng, bug)
    assert store_with(emulated, rng, "none") == ""  # nothing of it is left


@pytest.mark.parametrize(
    ("bug", "order"),
    [
        # The thread that copies, of the first warp, must not be the last to come there ...
        ("no barrier before", "ascending"),
        ("no barrier before", "random:1"),
        ("no barrier before", "random:2"),
        # ... nor the first to go on.
        ("no barrier after", "descending"),
        ("no barrier after", "random:1"),
        ("no barrier after", "random:2"),
    ],
)
def test_missing_barrier_is_found(
    emulated: ctypes.CDLL,
    bug: str,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    found = store_with(emulated, rng, bug)
    assert CHANGED in found or (UNFENCED in found and "before" in bug), found


def test_reading_back_is_found(
    emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """bulk_wait does not wait for the tensor to be written."""
    assert store_with(emulated, rng, "reads back") == "wrong"
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", "immediate")
    assert store_with(emulated, rng, "reads back") == ""
