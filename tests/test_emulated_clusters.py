"""Clusters of blocks (csrc/cuda/ptx_tma.cuh) in the emulation: against their definition, and the
reports of what a kernel must not do with them, with barriers that count bytes, copies by TMA and
setmaxnreg.

`FASTCONV_TEST_GPU=1` runs sums of clusters on a real GPU of compute capability 9.0 too, compiled by
nvcc."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulated_program import ORDERS, case_fixtures, needs_compiler

pytestmark = needs_compiler
BUGS = ["none", "no barrier before", "no barrier after"]


emulated, library = case_fixtures("cluster", "tma_sum", "tma_ranks", "tma_misuse", "tma_launch")


def sum_cluster(library: ctypes.CDLL, ranks: int, bug: str = "none") -> str:
    """What is wrong with sums that depend on the order of their terms: the error's text, "NaN",
    "wrong", or "" if nothing is."""
    rng = np.random.default_rng(ranks)
    parts = rng.standard_normal((3, ranks, 256)) * 10.0 ** rng.integers(-4, 5, (3, ranks, 256))
    parts = parts.astype(np.float32)
    out = np.full((3, 256), np.nan, np.float32)
    addresses = (ctypes.c_void_p(array.ctypes.data) for array in (parts, out))
    error = library.tma_sum(BUGS.index(bug), 3, ranks, *addresses)
    if error:
        return str(error.decode())
    if np.isnan(out).any():
        return "NaN"
    expected = np.zeros((3, 256), np.float32)
    for rank in range(ranks):
        expected += parts[:, rank]
    return "" if np.array_equal(out, expected) else "wrong"


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_sums_of_a_cluster(library: ctypes.CDLL, ranks: int) -> None:
    assert sum_cluster(library, ranks) == ""


@pytest.mark.parametrize("cluster", [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 2, 3), (2, 1, 3)])
def test_ranks_of_blocks(library: ctypes.CDLL, cluster: tuple[int, int, int]) -> None:
    grid = (4, 4, 6)
    out = np.full((6, 4, 4, 2), -1, np.int32)
    error = library.tma_ranks(
        (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*cluster), ctypes.c_void_p(out.ctypes.data)
    )
    assert error == b"", error.decode()
    z, y, x = np.indices((6, 4, 4))
    rank = (z % cluster[2] * cluster[1] + y % cluster[1]) * cluster[0] + x % cluster[0]
    of_first = [place // size * size for place, size in zip((x, y, z), cluster)]
    first = (of_first[2] * 4 + of_first[1]) * 4 + of_first[0]
    np.testing.assert_array_equal(out, np.stack([rank, first], -1))


@pytest.mark.parametrize("order", ORDERS)
def test_missing_barriers_of_a_cluster_are_found(
    emulated: ctypes.CDLL, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    assert sum_cluster(emulated, 4) == ""
    for ranks in (2, 4):
        assert sum_cluster(emulated, ranks, "no barrier before") == "NaN"
        assert "has ended" in sum_cluster(emulated, ranks, "no barrier after")


# ---- misuse -------------------------------------------------------------------------------------

# case -> words of the report; in brackets, any of them, whatever comes first in an order
REPORTS: dict[str, list[str | list[str]]] = {
    "never_initialised": ["barrier_wait: no barrier has been initialised at offset 12288"],
    "never_fenced": ["barrier_arrive: the barrier at offset 12288", "before fence_barrier_init"],
    "not_known_to_all": [["with no barrier of the block since", "no barrier has been initialised"]],
    "initialised_twice": ["barrier_init: the barrier at offset 12288", "was initialised before"],
    "no_arrivals": ["0 arrivals, not 1 .. 1048575"],
    "misaligned_barrier": ["address must be a multiple of 8"],
    "overwritten": ["the barrier at offset 12288 of shared memory has been overwritten"],
    "overwritten_by_a_copy": ["barrier_wait: the barrier at offset 64", "has been overwritten"],
    "arrival_too_many": ["an arrival too many: all 1 of phase 0 of the barrier at offset 12288"],
    "arrival_too_few": [
        "no thread can go on",
        "512 threads at barrier_wait, tma_misuse.cu:",
        "for phase 0 of the barrier at offset 12288 of shared memory, which misses 1 of 2 arrivals",
    ],
    "negative_bytes": ["barrier_arrive_expect: -16 bytes"],
    "megabyte": ["cannot count 1048576 bytes"],
    "no_parity": ["barrier_wait: parity 2"],
    "missed_phase": [["threads that wait for the phase before", "for phase 2 of the barrier"]],
    "copy_before_fence": ["copy_tile: the barrier", "before fence_barrier_init"],
    "unexpected_bytes": [["told to expect too few bytes", "4096 bytes more than the barrier"]],
    "never_awaited": ["nothing waited for a copy by TMA issued at", "tma_misuse.cu:"],
    "misaligned_destination": ["copy_tile: offset 512 of shared memory is no multiple of 1024"],
    "destination_beyond": ["4096 bytes to offset 15360 of 16384 bytes of shared memory"],
    "no_map": ["what should be a map is none"],
    "tile_of_an_image": ["copy_tile: the map is one of im2col"],
    "walk_of_a_tile": ["copy_im2col: the map is a tiled one"],
    "outside_the_walk": ["h is 4, and the map walks 0 .. 3"],
    "far_tap": ["tap_w is 256, not 0 .. 255"],
    "channel_between": ["copy_tile: channels from -4 on: no multiple of 8, which are 16 bytes"],
    "channel_of_an_image_between": ["copy_im2col: channels from 60 on: no multiple of 8"],
    "store_channel_between": ["copy_tile_out: channels from 2 on: no multiple of 8"],
    "store_before_channels": ["copy_tile_out: begins at (-8, 0, 0, 0), before the tensor"],
    "store_before_images": ["copy_tile_out: begins at (0, 7, 3, -1), before the tensor"],
    "store_past_end": ["past the end of 8192 bytes of device memory", "by a copy by TMA issued at"],
    "store_from_beyond": ["copy_tile_out: 4096 bytes from offset 16384 of 16384 bytes"],
    "misaligned_matrices": ["stmatrix: the row address of lane 1 is offset 8 of 16384 bytes"],
    "source_past_end": [
        "past the end of 8192 bytes of device memory",
        "by a copy by TMA issued at",
    ],
    "no_such_rank": ["load_cluster_16: block 2 of a cluster of 2"],
    "misaligned_load": ["load_cluster_16: no multiple of 16 bytes"],
    "load_beyond": ["16 bytes at offset 16384 of 16384 bytes"],
    "barriers_of_lanes": ["different barriers of the cluster", "16 threads at cluster_barrier"],
    "barrier_of_one_block": [
        "512 threads at barrier_wait",
        "512 threads at cluster_barrier, tma_misuse.cu:",
        "of block (1, 0, 0)",
    ],
    "registers_of_three_warps": ["warp 0 never reached its warpgroup's setmaxnreg"],
    "different_registers": ["warps of a warpgroup have different numbers"],
    "more_registers_than_there_are": ["end with 84992 registers of 65536"],
    "gives_more_than_it_has": ["give_registers<208>: its threads have 128"],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", REPORTS)
def test_misuse_is_reported(
    emulated: ctypes.CDLL, name: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    report = emulated.tma_misuse(name.encode()).decode()
    assert f"kernel (anonymous namespace)::{name}(" in report
    for words in REPORTS[name]:
        assert any(w in report for w in ([words] if isinstance(words, str) else words)), report
    # ... and nothing of it is left for the next launch.
    assert emulated.tma_misuse(b"nothing") == b""


def test_launches_of_clusters(emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    assert emulated.tma_launch(4, 2) == b"launched"
    assert b"no whole number of clusters" in emulated.tma_launch(4, 3)
    assert b"16 blocks a cluster (1 to 8)" in emulated.tma_launch(16, 16)
    assert b"0 blocks a cluster" in emulated.tma_launch(4, 0)
    monkeypatch.setenv("FASTCONV_EMULATION_CAPABILITY", "80")
    assert b"before compute capability 9.0" in emulated.tma_launch(4, 2)
