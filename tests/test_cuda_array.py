"""`fc.cuda.Array`: values there and back, views, copies. Runs on a GPU and in the emulated build;
tests/test_cuda_build.py is what runs everywhere."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from cuda_support import numbers

core = fc._core.cuda
DTYPES = ("float32", "float16", "int64")


# ---- NumPy there and back ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (2, 0, 3), (5, 3), (2, 3, 5, 7)])
def test_numpy_there_and_back(shape: tuple[int, ...], dtype: str) -> None:
    x = numbers(shape, dtype)
    a = fc.cuda.asarray(x)
    assert (a.shape, a.dtype, a.ndim, a.size, a.nbytes) == (
        x.shape, x.dtype, x.ndim, x.size, x.nbytes,
    )  # fmt: skip
    back = fc.cuda.asnumpy(a)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(back, x)


def test_memory_order_is_kept() -> None:
    x = numbers((2, 3, 5, 7))
    last = fc.channels_last(x)
    for order, source in itertools.product((None, "channels_last", "C"), (x, last)):
        a = fc.cuda.asarray(source, order=order)
        wanted = {None: source, "channels_last": last, "C": x}[order]
        assert a.strides == wanted.strides
        back = fc.cuda.asnumpy(a)
        assert back.strides == wanted.strides
        np.testing.assert_array_equal(back, x)
    assert fc.cuda.empty((2, 3, 5, 7), order="channels_last").strides == last.strides
    with pytest.raises(ValueError, match="order must be"):
        fc.cuda.asarray(x, order="F")


def test_asarray_shares_and_never_casts_silently() -> None:
    a = fc.cuda.asarray(numbers((3, 4)))
    assert fc.cuda.asarray(a) is a
    assert fc.cuda.shares_memory(a, a[1:])
    assert not fc.cuda.shares_memory(a[:, ::2], a[:, 1::2])
    with pytest.raises(TypeError, match=r"float64.*dtype='float32'"):
        fc.cuda.asarray(np.ones(3))
    assert fc.cuda.asarray([1.5, 2], dtype="float32").dtype == np.float32
    with pytest.raises(TypeError, match="int32"):
        fc.cuda.empty(3, np.int32)


def test_nothing_is_copied_to_the_host_silently() -> None:
    a = fc.cuda.zeros((2, 3))
    with pytest.raises(TypeError, match="asnumpy"):
        np.asarray(a)
    assert "shape=(2, 3)" in repr(a)
    assert "float32" in repr(a)
    with pytest.raises(TypeError, match="not an array"):
        fc.cuda.asnumpy([1, 2])


def test_pinned_memory_and_asynchronous_copies() -> None:
    host = fc.cuda.pinned((4, 5), np.float16)
    assert host.shape == (4, 5)
    assert host.flags.writeable
    host[:] = numbers((4, 5), "float16")
    a = fc.cuda.asarray(host)
    out = fc.cuda.pinned((4, 5), "float16")
    assert fc.cuda.asnumpy(a, out, wait=False) is out
    fc.cuda.synchronize()
    np.testing.assert_array_equal(out, host)
    with pytest.raises(ValueError, match="asnumpy: out has shape"):
        fc.cuda.asnumpy(a, out[:2])


# ---- bfloat16 ------------------------------------------------------------------------------------


def test_bfloat16_through_float32() -> None:
    x = np.array([0, 1, -2.5, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 3.4e38, np.inf, np.nan], np.float32)
    a = fc.cuda.asarray(x, dtype="bfloat16")
    assert a.dtype == fc.cuda.bfloat16
    assert (a.dtype.name, a.itemsize) == ("bfloat16", 2)
    nearest = np.array([0, 1, -2.5, 1, 1 + 2.0**-6, np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), nearest)


def test_bfloat16_by_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = numbers((3, 5)).astype(ml_dtypes.bfloat16)
    a = fc.cuda.asarray(x)
    assert a.dtype == x.dtype
    np.testing.assert_array_equal(fc.cuda.asnumpy(a), x)


def test_bfloat16_without_ml_dtypes() -> None:
    program = """if True:
        import sys
        sys.modules["ml_dtypes"] = None
        import fastconv as fc
        a = fc.cuda.full(3, 1.5, "bfloat16")
        assert a.dtype == "bfloat16" and a.dtype == fc.cuda.bfloat16 and a.dtype.itemsize == 2
        assert float(a[0]) == 1.5
        try:
            fc.cuda.asnumpy(a)
        except TypeError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "fastconv[cuda]" in done.stdout


# ---- views ---------------------------------------------------------------------------------------

KEYS = [
    np.s_[1], np.s_[-1], np.s_[:], np.s_[::-1], np.s_[1:2, ::2], np.s_[..., 3], np.s_[:, None, 1],
    np.s_[1, 2, 3, 4], np.s_[..., ::-3, 1:6:2], np.s_[None, ..., None], np.s_[5:1], np.s_[2:0:-1],
    np.s_[:, -2:, 10:], (),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_numpys(key: Any) -> None:
    x = numbers((2, 3, 5, 7))
    a = fc.cuda.asarray(x)[key]
    wanted = x[key]
    assert a.shape == wanted.shape
    assert a.flags.c_contiguous == wanted.flags.c_contiguous
    if wanted.size and 1 not in wanted.shape:
        assert a.strides == wanted.strides
    np.testing.assert_array_equal(fc.cuda.asnumpy(a), wanted)


@pytest.mark.parametrize("key", [np.s_[2], np.s_[0, 0, 0, 0, 0], np.s_[..., ...], [0], True, "x"])
def test_wrong_indices(key: Any) -> None:
    with pytest.raises((IndexError, TypeError)):
        fc.cuda.zeros((2, 3, 5, 7))[key]


def test_transposing_and_reshaping_are_numpys() -> None:
    x = numbers((2, 3, 4, 6))
    a = fc.cuda.asarray(x)
    assert a.T.strides == x.T.strides
    for axes in itertools.permutations(range(4)):
        y, b = x.transpose(axes), a.transpose(axes)
        assert b.strides == y.strides
        for shape in [(-1,), (6, -1), (2, 3, 24), (4, 1, 36), (144, 1), (2, 2, 2, 2, 3, 3)]:
            reshaped = b.reshape(shape)
            assert reshaped.shape == y.reshape(shape).shape
            is_view = np.shares_memory(y.reshape(shape), x)
            assert fc.cuda.shares_memory(reshaped, a) == is_view
            np.testing.assert_array_equal(fc.cuda.asnumpy(reshaped), y.reshape(shape))
    with pytest.raises(ValueError, match=r"cannot reshape.*\(2, 3, 4, 6\)"):
        a.reshape(5, -1)
    with pytest.raises(ValueError, match="no order of the 4 dimensions"):
        a.transpose(0, 1, 2, 2)
    assert fc.cuda.zeros((0, 3)).reshape(3, 0).shape == (3, 0)


# ---- copies of any strides -----------------------------------------------------------------------

# What the kernels tell apart: blocks, words of 16 .. 2 bytes, tiles with whole and broken edges.
SHAPES = [
    (3, 5, 4, 6),
    (2, 64, 8, 8),
    (1, 70, 9, 8),
    (2, 8, 11, 16),
    (1, 3, 13, 9),
    (2, 130, 1, 67),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("source", "target"),
    [("float32", "float32"), ("float16", "float16"), ("int64", "int64"), ("float32", "float16"),
     ("float16", "float32"), ("float32", "bfloat16"), ("bfloat16", "float32"),
     ("bfloat16", "float16"), ("int64", "float32"), ("float32", "int64")],
)  # fmt: skip
def test_copies_from_and_to_every_memory_order(
    shape: tuple[int, ...], source: str, target: str
) -> None:
    x = np.random.default_rng(1).integers(-50, 50, shape).astype(np.float32)  # exact everywhere
    a = fc.cuda.asarray(x).astype(source)
    for axes in [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 2, 0), (0, 3, 1, 2)]:
        y = x.transpose(axes)
        for keys in [np.s_[:], np.s_[:, ::-1], np.s_[..., 1:], np.s_[:, :, 1::2]]:
            from_, wanted = a.transpose(axes)[keys], y[keys]
            for out in [
                fc.cuda.full(wanted.shape, -77, target),
                fc.cuda.full(wanted.shape, -77, target, order="channels_last"),
                fc.cuda.full((*wanted.shape[:3], wanted.shape[3] + 3), -77, target)[..., 2:-1],
            ]:
                out[...] = from_
                result = fc.cuda.asnumpy(out.astype("float32"))
                np.testing.assert_array_equal(result, wanted)


def test_copies_leave_the_neighbours_alone() -> None:
    whole = fc.cuda.full((4, 9, 8), 5)
    whole[1:3, ::2, 3:7] = fc.cuda.zeros((2, 5, 4))
    wanted = np.full((4, 9, 8), 5, np.float32)
    wanted[1:3, ::2, 3:7] = 0
    np.testing.assert_array_equal(fc.cuda.asnumpy(whole), wanted)
    whole[..., -1] = 2
    wanted[..., -1] = 2
    whole[0] = whole[3, :1]  # broadcast
    wanted[0] = wanted[3, :1]
    np.testing.assert_array_equal(fc.cuda.asnumpy(whole), wanted)
    with pytest.raises(ValueError, match="could not broadcast"):
        whole[0] = whole[:, 0]
    with pytest.raises(TypeError, match="asarray"):
        whole[0] = np.zeros((9, 8))
    with pytest.raises(ValueError, match="read-only"):
        whole.read_only()[0] = 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64"])
def test_fill(dtype: str) -> None:
    for value, shape in itertools.product((0, 3, -1.5), ((5, 7), (4, 8), (1,), (0, 3))):
        value = int(value) if dtype == "int64" else value
        a = fc.cuda.full(shape, value, dtype)
        wanted = np.full(shape, value, np.float32)
        np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), wanted)
        a.T[1:3:2].fill(9)
        wanted.T[1:3:2].fill(9)
        np.testing.assert_array_equal(fc.cuda.asnumpy(a.astype("float32")), wanted)


def test_conversion_rounds_once_to_the_nearest() -> None:
    x = np.random.default_rng(2).normal(size=4099).astype(np.float32) * np.float32(1e-3)
    x[:8] = [0, -0.0, 65504, 65520, 70000, 6e-8, np.nan, -np.inf]
    with np.errstate(over="ignore"):
        wanted = x.astype(np.float16)
    np.testing.assert_array_equal(fc.cuda.asnumpy(fc.cuda.asarray(x).astype("float16")), wanted)
    strided = fc.cuda.asarray(np.stack([x, x], 1))[:, 0]
    np.testing.assert_array_equal(fc.cuda.asnumpy(strided.astype("float16")), wanted)


def test_items() -> None:
    a = fc.cuda.asarray(np.array([[1.5, 2]], np.float16))
    assert a[0, 0].item() == 1.5
    assert float(a[0, 1]) == 2
    assert fc.cuda.full((), 7, "int64").item() == 7
    assert len(a) == 1
    with pytest.raises(ValueError, match="one element"):
        float(a)
