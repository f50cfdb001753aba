"""Batch and local response normalization on CUDA."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, ORDERS, Poisoned, host, on_gpu, rounded, rounding
from fastconv import reference
from fastconv.ops.normalization import batch_norm_relu
from support import assert_exact, assert_within_bound, integers, normals

pytestmark = pytest.mark.kernels

SHAPES = [
    (2, 3, 5, 7),
    (3, 8, 4, 4),
    (2, 17, 3, 5),
    (4, 65, 1, 1),
    (2, 16, 6, 31),
    (9, 5),
    (3, 4, 6),
]
FLOAT32 = 2.0**-23


def channels_of(shape):
    return shape[0] if len(shape) == 3 else shape[1]


def per_channel(vector, ndim):
    return vector if ndim == 2 else vector[:, None, None]


def vectors(channels, rng):
    """weight, bias, running_mean and running_var, float32."""
    names = ("weight", "bias", "running_mean")
    given = {name: normals((channels,), rng) for name in names}
    return given | {"running_var": 0.5 + rng.random(channels).astype(np.float32)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_training(shape, dtype, shift, rng):
    """mean and rstd to a few roundings of float32, whatever x is. A mean 100 times the deviation is
    what a sum of squares without a shift would fail."""
    x = rounded(normals(shape, rng) + np.float32(shift), dtype)
    given = vectors(channels_of(shape), rng)
    wide = {name: v.astype(np.float64) for name, v in given.items()}
    y, mean, rstd = reference.batch_norm(x.astype(np.float64), training=True, **wide)
    size = np.abs(x).max().astype(np.float64)
    gain = per_channel(rstd * np.abs(wide["weight"]), x.ndim)
    offset = np.abs(per_channel(wide["bias"], x.ndim))
    for order in ("C", "channels_last"):
        own = {name: on_gpu(v) for name, v in given.items()}
        ours = fc.batch_norm(on_gpu(x, dtype, order), training=True, **own)
        assert [a.dtype.name for a in ours[1:]] == ["float32", "float32"]
        assert_within_bound(host(ours[1]), mean, 4 * FLOAT32 * size)
        assert_within_bound(host(ours[2]), rstd, 16 * FLOAT32 * rstd * (1 + FLOAT32 * size**2))
        bound = 32 * FLOAT32 * (size * gain + offset + np.abs(y)) + rounding(y, dtype)
        assert_within_bound(host(ours[0]), y, bound)
        for name in ("running_mean", "running_var"):  # the reference has updated its own
            bound = 16 * FLOAT32 * (np.abs(wide[name]) + size)
            assert_within_bound(host(own[name]), wide[name], bound)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_relu_in_its_pass_has_the_bits_of_one_after_it(shape, dtype, training, rng):
    x, given = rounded(normals(shape, rng), dtype), vectors(channels_of(shape), rng)
    x.flat[1] = np.nan
    for order in ("C", "channels_last"):
        own = [{name: on_gpu(v) for name, v in given.items()} for _ in range(2)]
        array = on_gpu(x, dtype, order)
        joined = batch_norm_relu(array, training=training, **own[0])
        apart = fc.batch_norm(array, training=training, **own[1])
        assert_exact(host(joined[0]), host(fc.relu(apart[0])))
        for name, value in own[0].items():
            assert_exact(host(value), host(own[1][name]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation(shape, dtype, rng):
    x, given = rounded(normals(shape, rng), dtype), vectors(channels_of(shape), rng)
    wide = {name: v.astype(np.float64) for name, v in given.items()}
    expected = reference.batch_norm(x.astype(np.float64), training=False, **wide)
    for order in ("C", "channels_last"):
        own = {name: on_gpu(v) for name, v in given.items()}
        y, mean, rstd = fc.batch_norm(on_gpu(x, dtype, order), training=False, **own)
        bound = 16 * FLOAT32 * (np.abs(expected[0]) + 30) + rounding(expected[0], dtype)
        assert_within_bound(host(y), expected[0], bound)
        assert_exact(host(mean), given["running_mean"])
        np.testing.assert_allclose(host(rstd), expected[2], rtol=8 * FLOAT32)
        for name, value in given.items():
            assert_exact(host(own[name]), value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, training, dtype, rng):
    x, g = rounded(normals(shape, rng) + 3, dtype), rounded(normals(shape, rng), dtype)
    channels = channels_of(shape)
    weight, mean = normals((channels,), rng), normals((channels,), rng)
    rstd = 1 + rng.random(channels).astype(np.float32)
    wide = [a.astype(np.float64) for a in (g, x, mean, rstd)]
    expected = reference.batch_norm_backward(
        *wide, weight=weight.astype(np.float64), training=training
    )
    axes = tuple(i for i in range(x.ndim) if i != (0 if x.ndim == 3 else 1))
    distance = np.abs(wide[1] - per_channel(wide[2], x.ndim)) * per_channel(wide[3], x.ndim)
    sums = np.abs(g).sum(axes), (np.abs(g) * distance).sum(axes)
    terms = 64  # of one thread's sum and the tree that joins them
    count = max(1, x.size // channels)
    spread = per_channel(sums[0] + sums[1], x.ndim) / count * (1 + distance)
    gain = per_channel(wide[3] * np.abs(weight), x.ndim)
    for order in ("C", "channels_last"):
        small = [on_gpu(a) for a in (mean, rstd)]
        dx, dw, db = fc.batch_norm_backward(
            on_gpu(g, dtype, order), on_gpu(x, dtype, order), *small, weight=on_gpu(weight),
            training=training,
        )  # fmt: skip
        assert dw.dtype.name == "float32"
        assert_within_bound(host(db), expected[2], terms * FLOAT32 * sums[0])
        assert_within_bound(host(dw), expected[1], terms * FLOAT32 * sums[1])
        bound = terms * FLOAT32 * gain * (np.abs(g) + spread) + rounding(expected[0], dtype)
        assert_within_bound(host(dx), expected[0], bound)


@pytest.mark.parametrize("order", ORDERS)
def test_any_memory_order(order, rng):
    x, g = normals((3, 18, 5, 7), rng), normals((3, 18, 5, 7), rng)
    given = vectors(18, rng)
    affine = {name: given[name] for name in ("weight", "bias")}
    y, mean, rstd = reference.batch_norm(x, training=True, **affine)
    grads = reference.batch_norm_backward(g, x, mean, rstd, weight=affine["weight"], training=True)
    strided = {name: on_gpu(v, None, "sliced") for name, v in affine.items()}
    for target in (order, "C"):
        out = Poisoned(x.shape, "float32", target)
        _, own_mean, own_rstd = fc.batch_norm(
            on_gpu(x, None, order), training=True, out=out.array, **strided
        )
        np.testing.assert_allclose(host(out.array), y, rtol=1e-5, atol=1e-5)
        out.only_wrote()
        out = Poisoned(x.shape, "float32", target)
        ours = fc.batch_norm_backward(
            on_gpu(g, None, order), on_gpu(x, None, "channels_last"), own_mean, own_rstd,
            weight=strided["weight"], training=True, out=out.array,
        )  # fmt: skip
        for mine, theirs in zip(ours, grads, strict=True):
            np.testing.assert_allclose(host(mine), theirs, rtol=1e-4, atol=1e-4)
        out.only_wrote()


def test_integers_give_exact_statistics(rng):
    x = rng.integers(-4, 5, (4, 6, 8, 8)).astype(np.float32)
    x += x[:, :, ::-1, ::-1] * -1  # every channel's mean is 0
    g = integers(x.shape, rng)
    for order in ("C", "channels_last"):
        placed = on_gpu(x, "bfloat16", order)
        _, mean, _ = fc.batch_norm(placed, training=True)
        assert_exact(host(mean), np.zeros(6, np.float32))
        zeros, ones = on_gpu(np.zeros(6, np.float32)), on_gpu(np.ones(6, np.float32))
        _, dw, db = fc.batch_norm_backward(
            on_gpu(g, "bfloat16", order), placed, zeros, ones, training=True
        )
        assert_exact(host(db), g.sum((0, 2, 3)))
        assert_exact(host(dw), (g * x).sum((0, 2, 3)))


def test_an_empty_batch_and_special_values():
    empty = on_gpu(np.empty((0, 4, 3, 3), np.float32))
    y, mean, rstd = fc.batch_norm(empty, training=True)
    assert y.shape == (0, 4, 3, 3)
    assert_exact(host(mean), np.zeros(4))
    np.testing.assert_allclose(host(rstd), np.full(4, 1e-5**-0.5), rtol=1e-6)
    _, dw, db = fc.batch_norm_backward(empty, empty, mean, rstd, training=True)
    assert_exact(host(dw), np.zeros(4))
    assert_exact(host(db), np.zeros(4))
    x = np.ones((2, 3, 2, 2), np.float32)
    x[1, 1, 0, 1] = np.nan
    y = host(fc.batch_norm(on_gpu(x), training=True)[0])
    assert np.isnan(y[:, 1]).all()
    assert np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "beta"), [(1, 0.75), (3, 0.5), (5, 0.75), (4, 1.0), (9, 0.3)])
def test_local_response_norm(size, beta, dtype, rng):
    options = {"alpha": 0.5, "beta": beta, "k": 2.0}
    for shape in [(2, 3, 5, 7), (1, 33, 7, 2), (2, 16, 3, 4), (4, 65, 1, 1), (5, 7), (0, 3, 2, 2)]:
        x, g = rounded(normals(shape, rng), dtype), rounded(normals(shape, rng), dtype)
        wide = x.astype(np.float64), g.astype(np.float64)
        y = reference.local_response_norm(wide[0], size, **options)
        back = reference.local_response_norm_backward(wide[1], wide[0], size, **options)
        for order in ("C", "channels_last", "sliced"):
            given, upstream = on_gpu(x, dtype, order), on_gpu(g, dtype, order)
            ours = fc.local_response_norm(given, size, **options)
            assert_within_bound(host(ours), y, rounding(y, dtype) + 32 * rounding(x, "float32"))
            out = Poisoned(shape, dtype, order)
            fc.local_response_norm_backward(upstream, given, size, **options, out=out.array)
            bound = rounding(back, dtype) + 64 * size * rounding(1 + np.abs(x), "float32")
            assert_within_bound(host(out.array), back, bound)
            out.only_wrote()


def test_errors():
    x = on_gpu(np.ones((2, 3, 4, 4), np.float32), "bfloat16")
    half = on_gpu(np.ones(3, np.float32), "bfloat16")
    with pytest.raises(TypeError, match=r"weight has dtype bfloat16, but .* \(C,\) is float32"):
        fc.batch_norm(x, weight=half, training=True)
    with pytest.raises(ValueError, match=r"weight is on the CPU, but x is on CUDA device 0"):
        fc.batch_norm(x, weight=np.ones(3, np.float32), training=True)
