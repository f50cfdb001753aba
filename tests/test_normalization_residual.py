"""Batch normalization, an addition and a ReLU in one pass: the bits of three calls, the reference's
values."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from fastconv.ops.normalization import batch_norm_add_relu, batch_norm_add_relu_backward
from support import ORDERS, assert_exact, float64, in_order, normals

STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_an_addition_and_a_relu_after_it(isa, rng, order, dtype):
    """The bits of three calls, the second of which is NumPy's, and their gradients; the reference
    within what `test_training` and `test_backward` allow."""
    shape = (3, 18, 5, 7)
    x, side, g = (normals(shape, rng, dtype) for _ in range(3))
    given = {name: normals((18,), rng, dtype) for name in ("weight", "bias")}
    for other in {order, "C", "channels_last"}:
        ours = in_order(x, order), in_order(side, other)
        stats, apart_stats = ({k: np.zeros(18, dtype) for k in STATISTICS} for _ in range(2))
        y, mean, rstd = batch_norm_add_relu(*ours, training=True, **given, **stats)
        inner, *apart = fc.batch_norm(ours[0], training=True, **given, **apart_stats)
        assert_exact(y, np.maximum(inner + side, 0))
        assert y.strides == inner.strides
        for one, another in zip((mean, rstd, *stats.values()),
                                (*apart, *apart_stats.values()), strict=True):  # fmt: skip
            assert_exact(one, another)
        wide = float64(x, side, g, *given.values())
        theirs = reference.batch_norm(wide[0], weight=wide[3], bias=wide[4], training=True)
        expected = reference.relu(theirs[0] + wide[1])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

        output = in_order(y, other)
        grads = batch_norm_add_relu_backward(
            in_order(g, other), output, ours[0], mean, rstd, weight=given["weight"]
        )
        masked = fc.relu_backward(in_order(g, other), output)
        dx, dw, db = fc.batch_norm_backward(masked, ours[0], mean, rstd, weight=given["weight"],
                                            training=True)  # fmt: skip
        assert_exact(grads[1], masked)
        for one, another in zip((grads[0], *grads[2:]), (dx, dw, db), strict=True):
            if other in ("reversed", "transposed"):  # summed in g's order, not in that of a copy
                np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-4)
            else:
                assert_exact(one, another)
        wide_g = reference.relu_backward(wide[2], float64(y)[0])
        expected = reference.batch_norm_backward(
            wide_g, wide[0], *theirs[1:], weight=wide[3], training=True
        )
        for one, another in zip((dx, dw, db), expected, strict=True):
            np.testing.assert_allclose(one, another, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["C", "channels_last", "sliced"])
def test_same_bits_for_any_thread_count(isa, rng, order):
    x, g = in_order(normals((9, 24, 37, 41), rng), order), normals((9, 24, 37, 41), rng)
    before, results = fc.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            y, mean, rstd = batch_norm_add_relu(x, g, training=True)
            gradients = batch_norm_add_relu_backward(g, y, x, mean, rstd)
            results.append([y, mean, rstd, *gradients])
    finally:
        fc.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert_exact(b, a)


@pytest.mark.parametrize("order", ["C", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 64, 15, 17), (9, 6, 37, 41), (3, 1, 130, 129)])
def test_moments_do_not_depend_on_where_the_residual_lies(isa, rng, order, shape):
    """Positions of an array cut in W cannot be joined to one row: a walk would have other tiles."""
    x, side = in_order(normals(shape, rng), order), normals(shape, rng)
    wide = in_order(np.zeros((*shape[:3], shape[3] + 3), np.float32), order)
    cut = wide[..., : shape[3]]
    cut[...] = side
    y, *moments = batch_norm_add_relu(x, cut, training=True)
    inner, *apart = fc.batch_norm(x, training=True)
    assert_exact(y, np.maximum(inner + side, 0))
    for one, another in zip(moments, apart, strict=True):
        assert_exact(one, another)
