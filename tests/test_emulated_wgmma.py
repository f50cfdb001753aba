"""The products of warpgroups (csrc/cuda/ptx_sm90.cuh) in the emulation: against their definition,
and that it catches the mistakes it is there to catch.

`FASTCONV_TEST_GPU=1` runs them on a real GPU of compute capability 9.0 too, compiled by nvcc."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulated_program import case_fixtures, needs_compiler
from support import Array

pytestmark = needs_compiler

BUGS = [
    "none",
    "missing wait",
    "missing commit",
    "missing fence",
    "missing proxy fence",
    "missing barrier",
    "wrong swizzle",
    "early overwrite",
    "touched registers",
    "different operands",
]


emulated, library = case_fixtures("wgmma", "warpgroup_multiply")


def multiply(
    library: ctypes.CDLL,
    rng: np.random.Generator,
    bug: str = "none",
    bfloat16: bool = True,
    mn_a: bool = False,
    mn_b: bool = False,
    cols: int = 128,
    depth: int = 320,
) -> str:
    """What is wrong with c = a b^T: the error's text, "NaN", "wrong", or "" if nothing is."""
    a, b = (rng.integers(-8, 9, (n, depth)).astype(np.float32) for n in (64, cols))

    def bits(x: Array, transposed: bool) -> Array:
        narrow = (
            (x.view(np.uint32) >> 16).astype(np.uint16)
            if bfloat16
            else x.astype(np.float16).view(np.uint16)
        )
        return np.ascontiguousarray(narrow.T if transposed else narrow)

    a_bits, b_bits = bits(a, mn_a), bits(b, mn_b)
    c = np.zeros((64, cols), np.float32)
    error = library.warpgroup_multiply(
        BUGS.index(bug),
        bfloat16,
        mn_a,
        mn_b,
        ctypes.c_void_p(a_bits.ctypes.data),
        ctypes.c_void_p(b_bits.ctypes.data),
        ctypes.c_void_p(c.ctypes.data),
        cols,
        depth,
    )
    if error:
        return str(error.decode())
    if np.isnan(c).any():
        return "NaN"
    return "" if np.array_equal(c, a @ b.T) else "wrong"


@pytest.mark.parametrize("cols", [64, 128, 256])
@pytest.mark.parametrize("bfloat16", [True, False], ids=["bfloat16", "half"])
@pytest.mark.parametrize("majors", ["kk", "km", "mk", "mm"])
def test_product(
    library: ctypes.CDLL, cols: int, bfloat16: bool, majors: str, rng: np.random.Generator
) -> None:
    found = multiply(
        library, rng, "none", bfloat16, majors[0] == "m", majors[1] == "m", cols=cols, depth=192
    )
    assert found == ""


FINDS = {
    "missing wait": "NaN",
    "missing commit": "NaN",
    "missing fence": "no wgmma.fence",
    "missing proxy fence": "no fence.proxy.async",
    "wrong swizzle": "wrong",
    "early overwrite": "changed between its issue and its wait",
    "touched registers": "registers changed",
    "different operands": "different operands",
}


@pytest.mark.parametrize("order", ["ascending", "descending", "random:1", "random:2"])
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(
    emulated: ctypes.CDLL,
    bug: str,
    order: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    found = multiply(emulated, rng, bug)
    if bug == "none":
        assert found == ""
    elif bug == "missing barrier":
        assert found != ""  # NaN, or an operand that changed
    else:
        assert FINDS[bug] in found
