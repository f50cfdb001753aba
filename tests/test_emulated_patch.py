"""Operands of wgmma that start at any line of a patch of an image (csrc/cuda/ptx_sm90.cuh), in the
emulation and, with `FASTCONV_TEST_GPU=1`, on a real GPU of compute capability 9.0."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
import pytest
from emulated_program import case_fixtures, needs_compiler
from support import Array

pytestmark = needs_compiler


library = case_fixtures("wgmma_patch", "wgmma_patch", maps=True)[1]


class Patch(NamedTuple):
    width: int
    height: int
    first: tuple[int, int] = (0, 0)  # row, column

    def values(self, rng: np.random.Generator) -> Array:
        return rng.integers(-8, 9, (self.height, self.width, 64)).astype(np.float32)

    def window(self, of: Array, r: int = 0, s: int = 0) -> Array:
        top, left = self.first[0] + r, self.first[1] + s
        return of[top : top + 8, left : left + 8].reshape(64, 64)  # pixels, channels

    def numbers(self) -> tuple[int, int, int]:
        return self.width, self.height, self.first[0] * self.width + self.first[1]


def run(
    library: ctypes.CDLL,
    role: int,
    taps: tuple[int, int],
    x_patch: Patch,
    dy_patch: Patch,
    x: Array,
    other: Array,
    outs: int,
) -> Array:
    x_bits, other_bits = ((a.view(np.uint32) >> 16).astype(np.uint16) for a in (x, other))
    out = np.full((outs, 64, 64), np.nan, np.float32)
    numbers = (*taps, *x_patch.numbers(), *dy_patch.numbers())
    error = library.wgmma_patch(
        role,
        (ctypes.c_int * len(numbers))(*numbers),
        *(ctypes.c_void_p(a.ctypes.data) for a in (x_bits, other_bits, out)),
    )
    assert error == b"", error.decode()
    return out


# 3 x 3 taps but for the last; widths that are multiples of 8 lines, and odd ones
PATCHES = {
    "10": ((3, 3), Patch(10, 10)),
    "11": ((3, 3), Patch(11, 10)),
    "16": ((3, 3), Patch(16, 11, (1, 5))),
    "18": ((3, 3), Patch(18, 12, (2, 8))),
    "8": ((3, 1), Patch(8, 10)),
    "1x1": ((1, 1), Patch(9, 9, (1, 1))),
    "2x5": ((2, 5), Patch(13, 9)),
}


@pytest.mark.parametrize("role", [0, 1], ids=["pixels a", "pixels b"])
@pytest.mark.parametrize("case", PATCHES)
def test_pixels_at_every_tap(
    library: ctypes.CDLL, case: str, role: int, rng: np.random.Generator
) -> None:
    """K-major: a line is a pixel's 64 channels, 8 lines a row of the image."""
    taps, patch = PATCHES[case]
    x = patch.values(rng)
    w = rng.integers(-8, 9, (64, *taps, 64)).astype(np.float32)
    expected = np.zeros((64, 64), np.float32)
    for r in range(taps[0]):
        for s in range(taps[1]):
            expected += patch.window(x, r, s) @ w[:, r, s].T
    actual = run(library, role, taps, patch, Patch(8, 8), x, w, 1)[0]
    np.testing.assert_array_equal(actual.T if role == 1 else actual, expected)


@pytest.mark.parametrize("dy_patch", [Patch(8, 8), Patch(11, 9, (1, 2))], ids=["dense", "patch"])
@pytest.mark.parametrize("case", PATCHES)
def test_channels_at_every_tap(
    library: ctypes.CDLL, case: str, dy_patch: Patch, rng: np.random.Generator
) -> None:
    """MN-major: a line is a term's 64 rows or columns, 8 terms a row of the image."""
    taps, patch = PATCHES[case]
    x, dy = patch.values(rng), dy_patch.values(rng)
    actual = run(library, 2, taps, patch, dy_patch, x, dy, taps[0] * taps[1])
    expected = [
        patch.window(x, r, s).T @ dy_patch.window(dy)
        for r in range(taps[0])
        for s in range(taps[1])
    ]
    np.testing.assert_array_equal(actual, expected)
