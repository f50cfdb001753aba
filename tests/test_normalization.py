"""Batch normalization against the reference in float64, within bounds of its arithmetic."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    in_order,
    normals,
    poisoned,
)

DTYPES = (np.float32, np.float64)
SHAPES = [(2, 1), (7, 3), (300, 5), (2, 3, 1, 1), (2, 5, 3, 7), (3, 33, 7, 9), (1, 17, 20, 31),
          (2, 3, 101, 103), (5, 4, 9), (40, 64, 7, 7), (2, 1, 30, 30)]  # fmt: skip


def parameters(channels, rng, dtype):
    return {"weight": normals((channels,), rng, dtype), "bias": normals((channels,), rng, dtype)}


def running(channels, rng, dtype):
    mean, var = normals((channels,), rng, dtype), 1 + rng.random(channels).astype(dtype)
    return {"running_mean": mean, "running_var": var}


def channels_of(shape):
    return shape[0] if len(shape) == 3 else shape[1]


def per_channel(vector, ndim):
    return vector.reshape((-1, 1, 1) if ndim > 2 else (-1,))


def summed(values):
    """Over all axes but the channel's."""
    channel = 0 if values.ndim == 3 else 1
    return values.sum(axis=tuple(i for i in range(values.ndim) if i != channel))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_training(isa, rng, shape, dtype, shift):
    """mean and rstd to a few roundings; y to those of mean, times rstd * weight. A mean 100 times
    the deviation is what a sum of squares without a shift would fail."""
    eps = np.finfo(dtype).eps
    x = normals(shape, rng, dtype) + dtype(shift)
    affine, stats = (
        parameters(channels_of(shape), rng, dtype),
        running(channels_of(shape), rng, dtype),
    )
    wide = {k: v.astype(np.float64) for k, v in (affine | stats).items()}
    expected = reference.batch_norm(x.astype(np.float64), training=True, **wide)
    for order in ("C", "channels_last"):
        own = {k: v.copy() for k, v in stats.items()}
        y, mean, rstd = fc.batch_norm(in_order(x, order), training=True, **affine, **own)
        size = np.abs(x).max().astype(np.float64)
        own_error = 4 * eps * size if dtype == np.float64 else 0  # the reference's
        assert_within_bound(mean, expected[1], 2 * eps * size + own_error)
        assert_within_bound(rstd, expected[2], 8 * eps * expected[2] * (1 + eps * size**2))
        gain = per_channel(expected[2] * np.abs(wide["weight"]), x.ndim)
        offset = np.abs(per_channel(wide["bias"], x.ndim))
        assert_within_bound(y, expected[0], 16 * eps * (size * gain + offset + np.abs(expected[0])))
        for key in own:  # the reference has updated its own
            assert_within_bound(own[key], wide[key], 8 * eps * (np.abs(wide[key]) + size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation(isa, rng, shape, dtype):
    x = normals(shape, rng, dtype)
    given = parameters(channels_of(shape), rng, dtype) | running(channels_of(shape), rng, dtype)
    kept = {k: v.copy() for k, v in given.items()}
    wide = {k: v.astype(np.float64) for k, v in given.items()}
    expected = reference.batch_norm(x.astype(np.float64), training=False, **wide)
    for order in ("C", "channels_last"):
        y, mean, rstd = fc.batch_norm(in_order(x, order), training=False, **given)
        bound = 16 * np.finfo(dtype).eps * (np.abs(expected[0]) + 30)
        assert_within_bound(y, expected[0], bound)
        assert_exact(mean, given["running_mean"])
        np.testing.assert_allclose(rstd, expected[2], rtol=4 * np.finfo(dtype).eps)
        for key, value in given.items():
            assert_exact(value, kept[key])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(isa, rng, shape, training, dtype):
    eps = np.finfo(dtype).eps
    x, g = normals(shape, rng, dtype) + 3, normals(shape, rng, dtype)
    weight = normals((channels_of(shape),), rng, dtype)
    mean, rstd = normals((channels_of(shape),), rng, dtype), 1 + rng.random(channels_of(shape))
    rstd = rstd.astype(dtype)
    wide_g, wide_x, wide_mean, wide_rstd, wide_weight = float64(g, x, mean, rstd, weight)
    expected = reference.batch_norm_backward(
        wide_g, wide_x, wide_mean, wide_rstd, weight=wide_weight, training=training
    )
    distance = np.abs(wide_x - per_channel(wide_mean, x.ndim)) * per_channel(wide_rstd, x.ndim)
    sums = summed(np.abs(wide_g)), summed(np.abs(wide_g) * distance)
    terms = 64  # of one accumulator and the joins of lanes: tiles hold 256 rows at most
    for order in ("C", "channels_last"):
        dx, dw, db = fc.batch_norm_backward(
            in_order(g, order), in_order(x, order), mean, rstd, weight=weight, training=training
        )
        assert_within_bound(db, expected[2], terms * eps * sums[0])
        assert_within_bound(dw, expected[1], terms * eps * sums[1])
        count = max(1, x.size // len(weight))
        spread = per_channel(sums[0] + sums[1], x.ndim) / count * (1 + distance)
        gain = per_channel(wide_rstd * np.abs(wide_weight), x.ndim)
        bound = terms * eps * gain * (np.abs(wide_g) + spread)
        assert_within_bound(dx, expected[0], bound)


def test_integers_give_exact_statistics(isa, rng):
    """Every sum of small integers is exact in float32, and so is a power-of-two mean of them."""
    x = rng.integers(-4, 5, (4, 6, 16, 16)).astype(np.float32)
    x += x[:, :, ::-1, ::-1] * -1  # every channel's mean is 0
    _, mean, rstd = fc.batch_norm(x, training=True)
    assert_exact(mean, np.zeros(6, np.float32))
    var = (x.astype(np.float64) ** 2).mean((0, 2, 3))
    assert_exact(rstd, (1 / np.sqrt(var + 1e-5)).astype(np.float32))
    g = rng.integers(-4, 5, x.shape).astype(np.float32)
    for order in ("C", "channels_last"):
        given = in_order(g, order), in_order(x, order)
        ones = np.ones(6, np.float32)
        _, dw, db = fc.batch_norm_backward(*given, 0 * ones, ones, training=True)
        assert_exact(db, g.sum((0, 2, 3)))
        assert_exact(dw, (g * x).sum((0, 2, 3)))


@pytest.mark.parametrize("order", ORDERS)
def test_any_memory_order(isa, rng, order):
    x, g = normals((3, 18, 5, 7), rng), normals((3, 18, 5, 7), rng)
    given = parameters(18, rng, np.float32)
    expected = reference.batch_norm(x, training=True, **given)
    strided = {k: np.repeat(v, 3)[::3] for k, v in given.items()}
    for target in (order, "C", "channels_last"):
        y = poisoned(x.shape, order=target)
        _, mean, rstd = fc.batch_norm(in_order(x, order), training=True, out=y, **strided)
        np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
        assert_only_wrote(y)
    grads = reference.batch_norm_backward(
        g, x, expected[1], expected[2], weight=given["weight"], training=True
    )
    for other in ("C", "channels_last", "sliced"):
        dx = poisoned(x.shape, order=other)
        ours = fc.batch_norm_backward(in_order(g, order), in_order(x, other), mean, rstd,
                                      weight=strided["weight"], training=True, out=dx)  # fmt: skip
        assert ours[0] is dx
        for mine, theirs in zip(ours, grads, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
        assert_only_wrote(dx)


@pytest.mark.parametrize("order", ["C", "channels_last", "sliced"])
def test_same_bits_for_any_thread_count(isa, rng, order):
    x, g = in_order(normals((9, 24, 37, 41), rng), order), normals((9, 24, 37, 41), rng)
    before, results = fc.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            y, mean, rstd = fc.batch_norm(x, training=True)
            results.append(
                [y, mean, rstd, *fc.batch_norm_backward(g, x, mean, rstd, training=True)]
            )
    finally:
        fc.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_exact(b, a)


@pytest.mark.parametrize("order", ["C", "channels_last"])
def test_evaluation_has_the_same_bits_for_any_batch(rng, order):
    x = in_order(normals((5, 7, 6, 11), rng), order)
    stats = running(7, rng, np.float32)
    whole = fc.batch_norm(x, training=False, **stats)[0]
    for n in range(5):
        assert_exact(fc.batch_norm(x[n : n + 1], training=False, **stats)[0][0], whole[n])
        assert_exact(fc.batch_norm(x[n], training=False, **stats)[0], whole[n])


def test_special_values(isa):
    x = np.ones((4, 6, 5, 5), np.float32)
    x[1, 0, 2, 3], x[2, 1, 0, 0], x[3, 2, 4, 4] = np.nan, np.inf, -np.inf
    x[0, 3], x[0, 4] = 1e-41, 3e18
    mean_before = np.zeros(6, np.float32)
    for order in ("C", "channels_last"):
        stats = {"running_mean": mean_before.copy(), "running_var": np.ones(6, np.float32)}
        y, _, rstd = fc.batch_norm(in_order(x, order), training=True, **stats)
        assert np.isnan(y[:, :3]).all()
        assert np.isnan(rstd[:3]).all()
        assert np.isnan(stats["running_var"][:3]).all()
        assert np.isfinite(y[:, 3:]).all()
        assert_exact(y[:, 5], np.zeros((4, 5, 5)))  # a constant channel
        assert rstd[5] == np.float32(1 / np.sqrt(1e-5))


def test_an_empty_batch():
    x = np.ones((0, 3, 2, 2), np.float32)
    stats = {"running_mean": np.full(3, 2.0, np.float32), "running_var": np.ones(3, np.float32)}
    y, mean, rstd = fc.batch_norm(x, training=True, **stats)
    expected = reference.batch_norm(x, training=True)
    assert y.shape == x.shape
    assert_exact(mean, expected[1])
    np.testing.assert_allclose(rstd, expected[2], rtol=1e-6)
    assert_exact(stats["running_mean"], np.full(3, 2.0))
    dx, dw, db = fc.batch_norm_backward(x, x, mean, rstd, training=True)
    assert dx.shape == x.shape
    assert_exact(dw, np.zeros(3))
    assert_exact(db, np.zeros(3))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (4, 3, 5), (5, 2)])
def test_gradients(rng, shape, training):
    channels = channels_of(shape)
    stats = {} if training else running(channels, rng, np.float64)

    def normalized(x, weight, bias):
        y, mean, rstd = fc.batch_norm(x, weight=weight, bias=bias, training=training, **stats)
        return y, lambda g: fc.batch_norm_backward(
            g, x, mean, rstd, weight=weight, training=training
        )

    inputs = (
        rng.standard_normal(shape),
        rng.standard_normal(channels),
        rng.standard_normal(channels),
    )
    report = fc.gradcheck(normalized, inputs)
    assert report, report


def test_errors():
    x, v = np.ones((2, 3, 4, 4), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"batch_norm: weight has shape \(4,\).*\(3,\)"):
        fc.batch_norm(x, weight=np.ones(4, np.float32), training=True)
    with pytest.raises(TypeError, match=r"bias has dtype float64, but x has float32"):
        fc.batch_norm(x, bias=np.ones(3), training=True)
    with pytest.raises(ValueError, match=r"training=False.*but running_var is None"):
        fc.batch_norm(x, running_mean=v, training=False)
    with pytest.raises(ValueError, match=r"more than one value per channel.*\(1, 3, 1, 1\)"):
        fc.batch_norm(x[:1, :, :1, :1], training=True)
    with pytest.raises(ValueError, match=r"x has 5 dimensions"):
        fc.batch_norm(x[None], training=True)
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 3, 4\)"):
        fc.batch_norm_backward(x[..., 0], x, v, v, training=True)
    with pytest.raises(ValueError, match=r"out overlaps x"):
        fc.batch_norm(x, training=True, out=x)
    frozen = v.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"running_mean is read-only"):
        fc.batch_norm(x, running_mean=frozen, running_var=v, training=True)


def test_running_statistics_that_overlap_are_refused():
    x, both = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.ones((3, 2), np.float32)
    x, v, m = x.reshape(2, 3, 4, 1), both[:, 0], both[:, 1]
    fc.batch_norm(x, running_mean=m, running_var=v, training=True)  # columns, apart

    def call(training=True, **given):
        statistics = {"running_mean": np.zeros(3, np.float32), "running_var": v} | given
        fc.batch_norm(x, training=training, **statistics)

    before = both.copy(), x.copy()
    wrong = [
        ({"running_mean": v}, "running_var overlaps running_mean in memory"),
        ({"running_mean": both.reshape(-1)[1:4]}, "running_var overlaps running_mean"),
        ({"running_mean": x[0, :, 0, 0]}, "running_mean overlaps x in memory"),
        ({"weight": m, "running_mean": m}, "running_mean overlaps weight in memory"),
        ({"bias": v[::-1]}, "running_var overlaps bias in memory"),
        ({"running_mean": np.broadcast_to(v[:1], 3)}, "running_mean is read-only"),
        (
            {"running_mean": np.lib.stride_tricks.as_strided(np.ones(1, "f4"), (3,), (0,))},
            "running_mean has a stride of 0",
        ),
    ]
    for given, message in wrong:
        with pytest.raises(ValueError, match=f"batch_norm: {message}"):
            call(**given)
    assert np.array_equal(both, before[0])
    assert np.array_equal(x, before[1])
    call(training=False, running_mean=v)  # they are only read


def test_a_negative_eps_is_refused():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"batch_norm: eps is -0.001; wanted 0 or more"):
        fc.batch_norm(x, training=True, eps=-1e-3)
    fc.batch_norm(x, training=True, eps=0.0)


def test_against_torch(isa, rng):
    torch = pytest.importorskip("torch")
    x, g = normals((4, 10, 6, 5), rng), normals((4, 10, 6, 5), rng)
    given, stats = parameters(10, rng, np.float32), running(10, rng, np.float32)
    leaves = [
        torch.from_numpy(a.copy()).requires_grad_() for a in (x, given["weight"], given["bias"])
    ]
    theirs = [torch.from_numpy(a.copy()) for a in stats.values()]
    y = torch.nn.functional.batch_norm(leaves[0], *theirs, leaves[1], leaves[2], training=True)
    grads = torch.autograd.grad(y, leaves, torch.from_numpy(g))
    tensors = {k: torch.from_numpy(v) for k, v in (given | stats).items()}
    ours, mean, rstd = fc.batch_norm(torch.from_numpy(x), training=True, **tensors)
    assert isinstance(ours, torch.Tensor)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-5, atol=1e-6)
    for mine, their in zip(stats.values(), theirs, strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-5, atol=1e-7)
    backward = fc.batch_norm_backward(
        torch.from_numpy(g),
        torch.from_numpy(x),
        mean,
        rstd,
        weight=tensors["weight"],
        training=True,
    )
    for mine, their in zip(backward, grads, strict=True):
        np.testing.assert_allclose(mine, their, rtol=1e-4, atol=1e-5)
