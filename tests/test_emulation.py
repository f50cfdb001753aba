"""The emulation of CUDA (tests/emulation) itself: its instructions against their definitions, and
that it catches the mistakes it is there to catch.

`FASTCONV_TEST_GPU=1` compares the instructions on a real GPU too, compiled by nvcc."""

from __future__ import annotations

import concurrent.futures
import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from emulated_program import ORDERS, case_fixtures, needs_compiler
from support import Array

pytestmark = needs_compiler

emulated, library = case_fixtures(
    "conformance", "conform", "misuse", "multiply_with_bug", architecture="-arch=native"
)


def conform(library: ctypes.CDLL, name: str, given: Array, out: Array) -> Array:
    given = np.ascontiguousarray(given)
    error = library.conform(
        name.encode(),
        ctypes.c_void_p(given.ctypes.data),
        ctypes.c_size_t(given.nbytes),
        ctypes.c_void_p(out.ctypes.data),
        ctypes.c_size_t(out.nbytes),
    )
    assert error == b"", error.decode()
    return out


def same_bits(actual: Array, expected: Array, names_nan: Callable[[Array], Array]) -> None:
    """Equal bit patterns, but any NaN for a NaN."""
    nan = names_nan(expected)
    np.testing.assert_array_equal(names_nan(actual), nan)
    np.testing.assert_array_equal(actual[~nan], expected[~nan])


# ---- conversions --------------------------------------------------------------------------------


def bfloat16_bits(x: Array) -> Array:
    """The nearest bfloat16, by comparing with both neighbours in float64."""
    lower = (x.view(np.uint32) >> 16).astype(np.uint32)
    upper = lower + 1
    finite = np.isfinite(x)
    value = np.where(finite, x, 0).astype(np.float64)
    at_lower = np.where(finite, (lower << 16).view(np.float32), 0).astype(np.float64)
    # Beyond the largest finite number the next one would be 2^128.
    overflow = (upper & 0x7FFF) == 0x7F80
    at_upper = np.where(finite & ~overflow, (upper << 16).view(np.float32), 0).astype(np.float64)
    at_upper = np.where(overflow, np.copysign(2.0**128, value), at_upper)
    down, up = np.abs(value - at_lower), np.abs(at_upper - value)
    up_wins = (up < down) | ((up == down) & (lower % 2 == 1))
    result = np.where(up_wins, upper, lower)
    result = np.where(np.isnan(x), 0x7FFF, np.where(finite, result, lower))
    return result.astype(np.uint16)


def hard_floats(rng: np.random.Generator) -> Array:
    """Every pattern of the 16 high bits with low bits at and beside every tie, and random ones."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    lows = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x3000, 0xEFFF, 0xF000]
    bits = np.concatenate([high | low for low in lows])
    return np.concatenate([bits, rng.integers(0, 1 << 32, 1 << 16, np.uint32)]).view(np.float32)


def test_half_to_float(library: ctypes.CDLL) -> None:
    given = np.arange(1 << 16, dtype=np.uint16)
    actual = conform(library, "half_to_float", given, np.empty(1 << 16, np.float32))
    same_bits(actual, given.view(np.float16).astype(np.float32), np.isnan)
    positive = actual[~np.isnan(actual)]
    assert np.array_equal(np.signbit(positive), given[~np.isnan(actual)] >= 0x8000)


def test_bfloat16_to_float(library: ctypes.CDLL) -> None:
    given = np.arange(1 << 16, dtype=np.uint16)
    actual = conform(library, "bfloat16_to_float", given, np.empty(1 << 16, np.uint32))
    np.testing.assert_array_equal(actual, given.astype(np.uint32) << 16)


def test_float_to_half(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    given = hard_floats(rng)
    actual = conform(library, "float_to_half", given, np.empty(given.size, np.uint16))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = given.astype(np.float16).view(np.uint16)
    same_bits(actual, expected, lambda bits: np.isnan(bits.view(np.float16)))


def test_float_to_bfloat16(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    given = hard_floats(rng)
    actual = conform(library, "float_to_bfloat16", given, np.empty(given.size, np.uint16))
    same_bits(actual, bfloat16_bits(given), lambda bits: (bits & 0x7FFF) > 0x7F80)


def test_float_to_tf32(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    """To 10 bits of mantissa, ties away from zero."""
    given = hard_floats(rng)
    actual = conform(library, "float_to_tf32", given, np.empty(given.size, np.uint32))
    bits = given.view(np.uint32)
    finite = np.isfinite(given)
    unit = 1 << 13
    expected = np.where(finite, (bits.astype(np.uint64) + unit // 2) // unit * unit, bits)
    expected = expected.astype(np.uint32)
    is_nan = (expected & 0x7FFFFFFF) > 0x7F800000
    # The 13 low bits do not count: on hardware a NaN of nothing else becomes an infinity.
    assert ((actual[is_nan & (bits & 0x7FE000 != 0)] & 0x7FFFFFFF) > 0x7F800000).all()
    np.testing.assert_array_equal(actual[~is_nan] // unit, expected[~is_nan] // unit)


@pytest.mark.parametrize("kind", ["float", "half", "bfloat16"])
def test_maximum_keeps_nan(library: ctypes.CDLL, kind: str, rng: np.random.Generator) -> None:
    special = [0, 1, 0x3C00, 0x7BFF, 0x7C00, 0x7C01, 0x7F80, 0x7F81, 0x7FFF]
    bits16 = np.array([*special, *(s | 0x8000 for s in special)], np.uint16)
    if kind == "float":
        values = (bits16.astype(np.uint32) << 16).view(np.float32)
        pairs = np.stack(np.meshgrid(values, values), -1).reshape(-1, 2)
        pairs = np.concatenate([pairs, pairs[: -len(pairs) % 32]])
        actual = conform(library, "max_float", pairs, np.empty(len(pairs), np.float32))
        same_bits(actual, np.maximum(pairs[:, 0], pairs[:, 1]), np.isnan)
        return
    pairs = np.stack(np.meshgrid(bits16, bits16), -1).reshape(-1, 2)
    pairs = np.concatenate([pairs, pairs[: -len(pairs) % 64]])
    a, b = pairs[:, 0].reshape(-1, 2), pairs[:, 1].reshape(-1, 2)
    given = np.ascontiguousarray(np.stack([a, b], 1))  # (i, which, half)
    out = conform(library, f"max_{kind}", given, np.empty((len(a), 2), np.uint16))

    def to_float(bits: Array) -> Array:
        if kind == "half":
            return bits.view(np.float16).astype(np.float32)
        return (bits.astype(np.uint32) << 16).view(np.float32)

    same_bits(to_float(out), np.maximum(to_float(a), to_float(b)), np.isnan)


# ---- warps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bfloat16", "half", "tf32"])
@pytest.mark.parametrize("exact", [True, False])
def test_matrix_product(
    library: ctypes.CDLL, kind: str, exact: bool, rng: np.random.Generator
) -> None:
    """d = a b + c; exactly with small integers, else within the rounding of float32 sums."""
    depth = 8 if kind == "tf32" else 16

    def operand(*shape: int) -> Array:
        if exact:
            return rng.integers(-16, 17, shape).astype(np.float32)
        return rng.standard_normal(shape, np.float32)

    a, b, c = operand(16, depth), operand(depth, 8), operand(16, 8)
    if kind == "half":
        words = [a.astype(np.float16), b.astype(np.float16)]
        a, b = (word.astype(np.float32) for word in words)
    elif kind == "bfloat16":
        words = [bfloat16_bits(a.ravel()), bfloat16_bits(b.ravel())]
        a, b = ((w.astype(np.uint32) << 16).view(np.float32) for w in words)
        a, b = a.reshape(16, depth), b.reshape(depth, 8)
    else:  # the low 13 bits do not count: truncated
        words = [a, b]
        a, b = ((w.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for w in words)
    given = np.frombuffer(b"".join([w.tobytes() for w in words] + [c.tobytes()]), np.uint8)
    actual = conform(library, f"multiply_{kind}", given, np.empty((16, 8), np.float32))
    a64, b64, c64 = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    expected = a64 @ b64 + c64
    if exact:
        np.testing.assert_array_equal(actual, expected.astype(np.float32))
    else:
        bound = (depth + 1) * 2.0**-23 * (np.abs(a64) @ np.abs(b64) + np.abs(c64))
        assert (np.abs(actual - expected) <= bound).all()


def test_tf32_sums_are_rounded_towards_zero(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    """Why csrc/cuda/tf32.cuh keeps chains of sums short: here no addend has another's sign, so that
    none of what is cut off makes up for another."""
    operands = [rng.integers(1 << 10, 1 << 11, shape) for shape in ((16, 8), (8, 8))]
    a, b = (operand.astype(np.float32) for operand in operands)  # 11 bits
    c = (2.0**23 * (1 + rng.random((16, 8)))).astype(np.float32)
    given = np.frombuffer(b"".join(x.tobytes() for x in (a, b, c)), np.uint8)
    actual = conform(library, "multiply_tf32", given, np.empty((16, 8), np.float32))
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    lost = exact - actual
    spacing = np.spacing(exact.astype(np.float32))
    assert (lost >= 0).all()
    assert (lost < 2 * spacing).all()
    assert 0.25 < (lost / spacing).mean() < 1.5  # to nearest it would be 0


@pytest.mark.parametrize("transposed", [False, True])
def test_load_matrix(library: ctypes.CDLL, transposed: bool) -> None:
    given = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    name = "load_matrix_transposed" if transposed else "load_matrix"
    actual = conform(library, name, given, np.empty((32, 4, 2), np.uint16))
    matrices = given.transpose(0, 2, 1) if transposed else given
    for lane in range(32):
        row, col = lane // 4, lane % 4 * 2
        np.testing.assert_array_equal(actual[lane], matrices[:, row, col : col + 2])


def test_shuffles(library: ctypes.CDLL, rng: np.random.Generator) -> None:
    given = rng.integers(-1000, 1000, 32).astype(np.int32)
    actual = conform(library, "shuffle", given, np.empty((9, 32), np.int32))
    lanes = np.arange(32)

    def within(source: Array, width: int, from_below: bool) -> Array:
        first = lanes // width * width
        kept = source >= first if from_below else source < first + width
        return given[np.where(kept, source, lanes)]

    expected = [
        given[np.full(32, 5)],
        given[lanes // 8 * 8 + lanes * 7 % 8],
        given[lanes ^ 3],
        within(lanes ^ 9, 8, False),
        within(lanes - 3, 32, True),
        within(lanes - 3, 16, True),
        within(lanes + 5, 32, False),
        within(lanes + 5, 16, False),
    ]
    np.testing.assert_array_equal(actual[:8], expected)
    # C's remainder of a negative multiple of 3 is 0 as well.
    ballot = sum(1 << int(lane) for lane in lanes[given % 3 == 0])
    np.testing.assert_array_equal(actual[8].view(np.uint32), np.full(32, ballot, np.uint32))


# ---- planted bugs -------------------------------------------------------------------------------

BUGS = [
    "none",
    "missing barrier",
    "missing barrier before reuse",
    "missing wait",
    "tile edge",
    "padding",
    "wrong fragment",
]


def multiply(emulated: ctypes.CDLL, bug: str, rng: np.random.Generator) -> str:
    """What is wrong with c = a b^T: the error's text, "NaN", "wrong", or "" if nothing is."""
    rows, cols, depth = 83, 16, 80
    a, b = (rng.integers(-8, 9, (n, depth)).astype(np.float32) for n in (rows, cols))
    a_bits, b_bits = ((x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b))
    c = np.zeros((rows, cols), np.float32)
    error = emulated.multiply_with_bug(
        BUGS.index(bug),
        ctypes.c_void_p(a_bits.ctypes.data),
        ctypes.c_void_p(b_bits.ctypes.data),
        ctypes.c_void_p(c.ctypes.data),
        rows,
        cols,
        depth,
    )
    if error:
        return str(error.decode())
    if np.isnan(c).any():
        return "NaN"
    return "" if np.array_equal(c, a @ b.T) else "wrong"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("copies", ["delayed", "immediate"])
def test_right_kernel_passes(
    emulated: ctypes.CDLL,
    order: str,
    copies: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", copies)
    assert multiply(emulated, "none", rng) == ""


# bug -> what each of the first three orders must find; None where that order hides it
FINDS: dict[str, list[str | None]] = {
    "missing barrier": [None, "NaN", "NaN"],  # ascending: the warp that copies b runs first
    "missing barrier before reuse": ["NaN", None, "NaN"],  # descending: it is the last to do so
    "missing wait": ["NaN", "NaN", "NaN"],
    "tile edge": ["past the end"] * 3,
    "padding": ["NaN"] * 3,
    "wrong fragment": ["wrong"] * 3,
}


@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("bug", FINDS)
def test_planted_bug_is_found(
    emulated: ctypes.CDLL,
    bug: str,
    order: int,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", ORDERS[order])
    found = multiply(emulated, bug, rng)
    expected = FINDS[bug][order]
    if expected is None:
        assert found == ""
    else:
        assert expected in found
    if bug == "tile edge":
        assert "multiply<" in found  # the kernel's name
        assert "thread (" in found


def test_missing_wait_needs_delayed_copies(
    emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_CP_ASYNC", "immediate")
    assert multiply(emulated, "missing wait", rng) == ""


# ---- misuse -------------------------------------------------------------------------------------

REPORTS = {
    "barrier_after_exit": ["never reach", "32 threads at __syncthreads", "32 threads ended"],
    "two_barriers": ["different barriers", "32 threads at __syncthreads, misuse.cu:"],
    "barrier_in_half_a_warp": ["lanes of a warp wait", "__shfl_xor_sync", "__syncthreads"],
    "shuffle_after_exit": ["lanes of a warp wait", "1 threads ended, the first of them (40, 0, 0)"],
    "shuffle_and_vote": ["lanes of a warp wait", "16 threads at a vote"],
    "read_past_end": ["past the end of 40 bytes of device memory"],
    "write_past_end": ["written 0 bytes past the end of 40 bytes of device memory"],
    "write_before_start": ["before the start of 40 bytes of device memory"],
    "null_pointer": ["thread (5, 0, 0)", "a null pointer"],
    "shared_past_end": ["past the end of the block's 96 bytes of shared memory"],
    "shared_write_past_end": ["written beyond the end of the block's 96 bytes"],
    "misaligned_vector": ["a misaligned access"],
    "misaligned_float": ["a misaligned access"],
    "misaligned_copy": ["cp.async", "no multiple of 16", "misuse.cu:"],
    "copy_past_end": ["past the end of 40 bytes of device memory"],
    "load_matrix_outside": ["ldmatrix", "lane 6 is offset 96 of 96"],
    "division_by_zero": ["division by zero"],
    "deep_recursion": ["local variables"],
}


@pytest.mark.parametrize("order", ORDERS[:3])
@pytest.mark.parametrize("name", REPORTS)
def test_misuse_is_reported(
    emulated: ctypes.CDLL, name: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)
    report = emulated.misuse(name.encode()).decode()
    assert f"kernel (anonymous namespace)::{name}(float*), grid (2, 1, 1)" in report
    for words in REPORTS[name]:
        assert words in report, report
    # ... and nothing of it is left for the next launch.
    assert emulated.misuse(b"nothing") == b""


@pytest.mark.parametrize("name", ["graphs", "captures", "captures_and_threads", "memory"])
def test_runtime(emulated: ctypes.CDLL, name: str) -> None:
    assert emulated.misuse(name.encode()).decode() == ""


def test_threads_launch_at_once(emulated: ctypes.CDLL, rng: np.random.Generator) -> None:
    seeds = rng.integers(0, 1 << 30, 16)

    def work(seed: int) -> str:
        return str((emulated.misuse(b"nothing") + emulated.misuse(b"graphs")).decode())

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, seeds)) == {""}
