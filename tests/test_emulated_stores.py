"""Tiles that leave a block by stmatrix and TMA (csrc/cuda/ptx_tma.cuh) in the emulation: against
their definitions, and that it catches the mistakes it is there to catch.

`FASTCONV_TEST_GPU=1` runs them on a real GPU of compute capability 9.0 too, compiled by nvcc."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest
from emulated_program import EMULATION, ROOT, build_for_gpu, cases, needs_compiler

pytestmark = needs_compiler
SOURCE = EMULATION / "cases" / "store.cu"
BUGS = ["none", "no fence", "no wait", "no commit", "no last wait"]


def load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.tma_store.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def emulated() -> ctypes.CDLL:
    return load(cases())


@pytest.fixture(scope="module", params=["emulated", "gpu"])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    if request.param == "emulated":
        found: ctypes.CDLL = request.getfixturevalue("emulated")
        return found
    made = tmp_path_factory.mktemp("store_gpu") / "store.so"
    maps = [ROOT / "csrc" / "cuda" / "tensor_map.cpp", EMULATION / "cases" / "check.cpp"]
    return load(build_for_gpu(made, SOURCE, "-gencode=arch=compute_90a,code=sm_90a", *maps))


def store(
    library: ctypes.CDLL,
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    box: tuple[int, int, int, int],
    bug: str = "none",
    shift: int = 0,
) -> str:
    """What is wrong with (batch, height, width, channels) of which boxes side by side are written
    from -shift on: the error's text, "wrong", or "" if nothing is."""
    sizes = shape[::-1]
    starts = [range(-shift if d else 0, size, box[d]) for d, size in enumerate(sizes)]
    at = np.array([place[::-1] for place in itertools.product(*starts[::-1])], np.int32)
    tiles = rng.integers(0, 0x7F80, (len(at), 16, 64)).astype(np.uint16)
    data = np.full(shape, 0x7FFF, np.uint16)
    expected = data.copy()
    for (c, w, h, n), tile in zip(at.tolist(), tiles):
        for line in range(16):
            i = (n + line // box[1] // box[2], h + line // box[1] % box[2], w + line % box[1])
            if all(0 <= value < size for value, size in zip(i, shape)):
                width = min(64, shape[3] - c)
                expected[(*i, slice(c, c + width))] = tile[line, :width]
    error = library.tma_store(
        BUGS.index(bug),
        ctypes.c_void_p(data.ctypes.data),
        (ctypes.c_int * 4)(*sizes),
        (ctypes.c_int * 4)(*box),
        ctypes.c_void_p(tiles.ctypes.data),
        ctypes.c_void_p(at.ctypes.data),
        len(at),
    )
    if error:
        return str(error.decode())
    return "" if np.array_equal(data, expected) else "wrong"


@pytest.mark.parametrize(
    ("shape", "box", "shift"),
    [
        ((1, 1, 64, 128), (64, 16, 1, 1), 0),
        ((1, 1, 39, 72), (64, 16, 1, 1), 0),
        ((3, 5, 6, 72), (64, 4, 2, 2), 0),
        ((3, 5, 6, 72), (64, 4, 2, 2), 1),
        ((2, 3, 9, 8), (64, 2, 8, 1), 2),
        ((9, 16, 16, 64), (64, 8, 2, 1), 0),  # more than 128 KiB
    ],
)
def test_tiles(
    library: ctypes.CDLL,
    shape: tuple[int, int, int, int],
    box: tuple[int, int, int, int],
    shift: int,
    rng: np.random.Generator,
) -> None:
    assert store(library, rng, shape, box, shift=shift) == ""


FINDS = {
    "none": "",
    "no fence": "copy_tile_out: no fence.proxy.async after what was written",
    "no wait": "copy_tile_out: shared memory changed between its issue and its wait",
    "no commit": "nothing waited for a copy by TMA issued at",
    "no last wait": "nothing waited for a copy by TMA issued at",
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
    found = store(emulated, rng, (1, 1, 80, 128), (64, 16, 1, 1), bug)
    assert FINDS[bug] in found
    assert bug != "none" or not found


def test_copies_at_once(
    emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", "immediate")
    assert store(emulated, rng, (1, 1, 80, 128), (64, 16, 1, 1)) == ""
