"""Activations, dropout, sums and the optimiser's update on CUDA."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, ORDERS, Poisoned, eps, host, on_gpu, rounded, rounding
from fastconv import reference
from fastconv.layers.arithmetic import (
    add,
    add_to_each,
    concatenate,
    multiply,
    multiply_into,
    subtract,
    sum_over_batch,
)
from fastconv.ops.optimizer import sgd_update
from support import assert_exact, assert_within_bound, integers, normals

pytestmark = pytest.mark.kernels

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh")
SHAPES = [(), (1,), (7,), (8,), (9,), (257,), (0,), (2, 3, 5, 7), (3, 4), (2, 1, 3, 1, 2, 4)]
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e-30, 60.0, -60.0, 9.0, -9.0)
# Of sigmoid and tanh in float32 before they are stored.
ULPS = 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_and_backward(name, dtype, rng):
    for shape in SHAPES:
        x = rounded(normals(shape, rng) * 3, dtype)
        y = getattr(reference, name)(x.astype(np.float64))
        bound = rounding(y, dtype) + ULPS * rounding(y, "float32")
        actual = getattr(fc, name)(on_gpu(x, dtype))
        assert_within_bound(host(actual), y, bound)
        grad, stored = rounded(normals(shape, rng), dtype), host(actual)
        expected = getattr(reference, name + "_backward")(
            grad.astype(np.float64), stored.astype(np.float64)
        )
        back = getattr(fc, name + "_backward")(on_gpu(grad, dtype), actual)
        bound = rounding(expected, dtype) + ULPS * rounding(grad, "float32")
        assert_within_bound(host(back), expected, bound)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values(name):
    x = np.array(SPECIAL * 3, np.float32)
    with np.errstate(all="ignore"):
        expected = getattr(reference, name)(x)
    for dtype in DTYPES:
        y = host(getattr(fc, name)(on_gpu(x, dtype)))
        assert np.array_equal(np.isnan(y), np.isnan(x))
        np.testing.assert_allclose(y, expected, rtol=2 * eps(dtype) + 2e-6, atol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
def test_any_memory_order(order, rng):
    x, grad = integers((2, 19, 5, 6), rng), integers((2, 19, 5, 6), rng)
    for dtype in DTYPES:
        for other in ("C", order):
            out = Poisoned(x.shape, dtype, other)
            fc.relu(on_gpu(x, dtype, order), out=out.array)
            assert_exact(host(out.array), np.maximum(x, 0))
            out.only_wrote()
            out = Poisoned(x.shape, dtype, order)
            fc.relu_backward(on_gpu(grad, dtype, other), on_gpu(x, dtype, order), out=out.array)
            assert_exact(host(out.array), np.where(x > 0, grad, 0))
            out.only_wrote()


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_dropout_is_the_cpu_s_to_the_bit(p, rng):
    # Channels last, maps of a multiple of four pixels take a counter for four of them.
    maps = [(3, 8, 5, 7), (2, 16, 4, 6), (1, 24, 2, 2), (3, 8, 6, 10), (2, 12, 3, 4)]
    for shape in [(1,), (1023,), (0, 3), (2, 3, 4), *maps]:
        x = integers(shape, rng) + 4
        kept = reference.dropout(x, p, seed=11)
        for dtype in DTYPES:
            for order in ("C", "channels_last", "reversed", "sliced"):
                given = on_gpu(x, dtype, order)
                expected = rounded(kept, dtype)
                assert_exact(host(fc.dropout(given, p, seed=11)), expected)
                assert_exact(host(fc.dropout_backward(given, p, seed=11)), expected)
    assert_exact(host(fc.dropout(given, p, seed=11, training=False)), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_between_layers(dtype, rng):
    x, y = integers((3, 16, 4, 5), rng), integers((3, 16, 4, 5), rng)
    a, b = on_gpu(x, dtype, "channels_last"), on_gpu(y, dtype)
    assert_exact(host(add(a, b)), rounded(x + y, dtype))
    assert fc.is_channels_last(add(a, b))
    assert_exact(host(add_to_each(a, b[0])), rounded(x + y[0], dtype))
    assert_exact(host(sum_over_batch(a)), rounded(x.sum(0), dtype))
    joined = concatenate([a, b[:, :3], a])
    assert_exact(host(joined), np.concatenate([x, y[:, :3], x], axis=1))
    assert fc.is_channels_last(joined)


@pytest.mark.parametrize("dtype", DTYPES)
def test_differences_and_products(dtype, rng):
    """Exact but for one rounding, in any memory order and in place."""
    for shape in [*SHAPES, (2, 19, 5, 6)]:
        x, y = (rounded(normals(shape, rng), dtype) for _ in range(2))
        difference, product = rounded(x - y, dtype), rounded(x * y, dtype)
        for order in ORDERS if len(shape) == 4 else ("C",):
            a, b = on_gpu(x, dtype, order), on_gpu(y, dtype)
            assert_exact(host(subtract(a, b)), difference)
            assert_exact(host(multiply(a, b)), product)
            multiply_into(a, b)
            assert_exact(host(a), product)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_update(momentum, dtype, rng):
    """Float32 throughout, whatever the gradient is; the copy is the parameter rounded once."""
    hyper = {"lr": 0.1, "momentum": momentum, "weight_decay": 0.01, "nesterov": momentum > 0}
    for size in (1, 7, 8, 129, 1000):
        p, v = normals((size,), rng), normals((size,), rng)
        g = rounded(normals((size,), rng), dtype)
        ours, speed = on_gpu(p), on_gpu(v) if momentum else None
        copy = None if dtype == "float32" else on_gpu(0 * p, dtype)
        sgd_update(ours, on_gpu(g, dtype), speed, **hyper, copy=copy)
        sgd_update(p, g, v if momentum else None, **hyper)
        for mine, theirs in ((ours, p), (speed, v)):
            if mine is not None:
                bound = 4 * rounding(1 + np.abs(theirs), "float32")
                assert_within_bound(host(mine), theirs.astype(np.float64), bound)
        if copy is not None:
            assert_exact(host(copy), rounded(host(ours), dtype))
