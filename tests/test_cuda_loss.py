"""Softmax, log-softmax and cross-entropy on CUDA."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, ORDERS, Poisoned, host, on_gpu, rounded, rounding
from fastconv import reference
from support import assert_exact, assert_within_bound, normals

pytestmark = pytest.mark.kernels

FLOAT32 = 2.0**-23
LINES = [(1, 1), (3, 10), (17, 33), (65, 7), (5, 130), (2, 1000), (33, 32)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis, dtype, rng):
    for shape in LINES:
        x, g = rounded(normals(shape, rng) * 3, dtype), rounded(normals(shape, rng), dtype)
        wide_x, wide_g = x.astype(np.float64), g.astype(np.float64)
        y = reference.softmax(wide_x, axis)
        ours = fc.softmax(on_gpu(x, dtype), axis)
        spread = 40 + np.abs(x - x.max()).max()  # rounding of x - max, of exp, of the sum
        assert_within_bound(host(ours), y, spread * FLOAT32 * y + rounding(y, dtype))
        logs = fc.log_softmax(on_gpu(x, dtype), axis)
        wide_logs = reference.log_softmax(wide_x, axis)
        bound = 128 * FLOAT32 + rounding(wide_logs, dtype)
        assert_within_bound(host(logs), wide_logs, bound)

        stored = host(ours).astype(np.float64)
        back = reference.softmax_backward(wide_g, stored, axis)
        total = np.abs(wide_g * stored).sum(axis, keepdims=True) + np.abs(wide_g)
        bound = FLOAT32 * max(shape) * 4 * stored * total + rounding(back, dtype)
        assert_within_bound(host(fc.softmax_backward(on_gpu(g, dtype), ours, axis)), back, bound)
        stored = host(logs).astype(np.float64)
        back = reference.log_softmax_backward(wide_g, stored, axis)
        total = np.abs(wide_g).sum(axis, keepdims=True)
        bound = FLOAT32 * max(shape) * 8 * (np.exp(stored) * total + np.abs(wide_g))
        back_ours = fc.log_softmax_backward(on_gpu(g, dtype), logs, axis)
        assert_within_bound(host(back_ours), back, bound + rounding(back, dtype))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_any_memory_order(axis, order, rng):
    x, g = normals((3, 5, 4, 35), rng), normals((3, 5, 4, 35), rng)
    for name in ("softmax", "log_softmax"):
        expected = getattr(reference, name)(x, axis)
        out = Poisoned(x.shape, "float32", order)
        getattr(fc, name)(on_gpu(x, None, order), axis, out=out.array)
        np.testing.assert_allclose(host(out.array), expected, rtol=1e-5, atol=1e-6)
        out.only_wrote()
        grad = getattr(reference, name + "_backward")(g, expected, axis)
        ours = getattr(fc, name + "_backward")(
            on_gpu(g, None, order), on_gpu(expected, None, "channels_last"), axis
        )
        np.testing.assert_allclose(host(ours), grad, rtol=5e-5, atol=5e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1])
def test_special_values(name, axis):
    inf, nan = np.inf, np.nan
    lines = [[1, nan, 2], [nan, 1, 2], [inf, 1, 2], [-inf] * 3, [-inf, 0, 1], [1e30, -1e30, 1e30],
             [-1000, 1000, 999]]  # fmt: skip
    for length in (3, 40):
        x = np.array([line + [-3.0] * (length - 3) for line in lines], np.float32)
        x = x if axis == 1 else np.ascontiguousarray(x.T)
        with np.errstate(invalid="ignore", over="ignore"):
            expected = getattr(reference, name)(x, axis)
        ours = host(getattr(fc, name)(on_gpu(x), axis))
        np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 3, 4)])
def test_shapes(shape):
    x = np.ones(shape, np.float32)
    for axis in range(len(shape)):
        ours = host(fc.softmax(on_gpu(x), axis))
        np.testing.assert_allclose(ours, reference.softmax(x, axis), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction, smoothing, dtype, rng):
    for n, classes in [(1, 1), (5, 10), (33, 17), (7, 1000), (129, 3)]:
        x = rounded(normals((n, classes), rng) * 5, dtype)
        target = rng.integers(0, classes, n)
        settings = {"label_smoothing": smoothing, "reduction": reduction}
        weights = normals((n,), rng) if reduction == "none" else 2.0
        wide = x.astype(np.float64)
        expected = reference.cross_entropy(wide, target, **settings)
        grad = reference.cross_entropy_backward(wide, target, grad_output=weights, **settings)
        places = on_gpu(target)
        for order in ("C", "transposed", "sliced"):
            given = on_gpu(x, dtype, order)
            loss = fc.cross_entropy(given, places, **settings)
            assert (loss.dtype.name, loss.shape) == ("float32", np.shape(expected))
            np.testing.assert_allclose(host(loss), expected, rtol=1e-5, atol=2e-5)
            scale = on_gpu(weights) if reduction == "none" else weights
            out = Poisoned(x.shape, dtype, order)
            fc.cross_entropy_backward(given, places, grad_output=scale, out=out.array, **settings)
            bound = rounding(grad, dtype) + 1e-5 * np.abs(grad) + 1e-6
            assert_within_bound(host(out.array), grad, bound)
            out.only_wrote()


def test_a_gradient_that_is_a_number_on_the_device(rng):
    x, target = on_gpu(normals((5, 7), rng)), on_gpu(rng.integers(0, 7, 5))
    scale = on_gpu(np.array(3, np.float32))
    ours = fc.cross_entropy_backward(x, target, grad_output=scale)
    np.testing.assert_allclose(
        host(ours), 3 * host(fc.cross_entropy_backward(x, target)), rtol=1e-6
    )


def test_a_class_that_is_none_makes_its_loss_nan(rng):
    x, target = on_gpu(normals((4, 3), rng)), on_gpu(np.array([0, 3, -1, 2]))
    losses = host(fc.cross_entropy(x, target, reduction="none"))
    assert np.isnan(losses).tolist() == [False, True, True, False]
    assert np.isnan(host(fc.cross_entropy(x, target)))


def test_no_rows():
    x, target = on_gpu(np.empty((0, 3), np.float32)), on_gpu(np.empty(0, np.int64))
    assert np.isnan(host(fc.cross_entropy(x, target)))
    assert_exact(host(fc.cross_entropy(x, target, reduction="sum")), 0)
    assert fc.cross_entropy(x, target, reduction="none").shape == (0,)
    assert fc.cross_entropy_backward(x, target).shape == (0, 3)


def test_errors(rng):
    x = on_gpu(normals((4, 3), rng))
    with pytest.raises(ValueError, match=r"target is on the CPU.*fc\.cuda\.asarray\(target\)"):
        fc.cross_entropy(x, np.array([0, 1, 2, 0]))
    with pytest.raises(TypeError, match=r"target has dtype float32, wanted int64"):
        fc.cross_entropy(x, on_gpu(np.zeros(4, np.float32)))
    with pytest.raises(ValueError, match=r"target has shape \(3,\)"):
        fc.cross_entropy(x, on_gpu(np.zeros(3, np.int64)))
    with pytest.raises(ValueError, match=r"grad_output has shape \(4,\)"):
        fc.cross_entropy_backward(
            x, on_gpu(np.zeros(4, np.int64)), grad_output=on_gpu(np.ones(4, np.float32))
        )
