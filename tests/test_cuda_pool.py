"""Pooling on CUDA: exact where it selects, one rounding where it averages."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cases import MAX_POOL, POOL, pool
from cuda_support import DTYPES, ORDERS, Poisoned, host, on_gpu, rounded, rounding
from fastconv import reference
from support import assert_exact, assert_within_bound, integers, params

pytestmark = pytest.mark.kernels

ORDER_CASES = [
    pool("n2c19h7w6-k3-st2-pad1"),
    pool("n2c3h9w20-k3-st2-pad1-ceil"),
    pool("n1c2h6w17-k2x3-st1-pad0x1"),
    pool("n1c16h9w9-k3x2-st2x1-pad1x0-dil2x3"),
]
AVERAGES = [case for case in POOL if case.dilation == (1, 1)]


def values(shape, rng):
    """Few different integers, so that windows have ties, with NaN and -inf among them."""
    x = integers(shape, rng, largest=2)
    x[rng.random(x.shape) < 0.04] = np.nan
    x[rng.random(x.shape) < 0.15] = -np.inf
    return x


@pytest.mark.parametrize("case", params(MAX_POOL))
def test_maximum_and_its_gradient(case, rng):
    x = values(case.input_shape, rng)
    arguments = {"kernel_size": case.kernel, **case.max_arguments}
    y, indices = reference.max_pool2d(x, return_indices=True, **arguments)
    grads = integers(y.shape, rng)
    expected = reference.max_pool2d_backward(grads, indices, x.shape, **arguments)
    for dtype in DTYPES:
        for order in ("C", "channels_last"):
            given = on_gpu(x, dtype, order)
            ours, places = fc.max_pool2d(given, return_indices=True, **arguments)
            assert_exact(host(ours), y)
            assert_exact(host(places), indices)
            assert_exact(host(fc.max_pool2d(given, **arguments)), y)
            out = Poisoned(x.shape, dtype, order)
            fc.max_pool2d_backward(
                on_gpu(grads, dtype, order), places, x.shape, **arguments, out=out.array
            )
            assert_exact(host(out.array), rounded(expected, dtype))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(ORDER_CASES))
def test_any_memory_order(case, order, rng):
    x = values(case.input_shape, rng)
    arguments = {"kernel_size": case.kernel, **case.max_arguments}
    y, indices = reference.max_pool2d(x, return_indices=True, **arguments)
    grads = integers(y.shape, rng)
    expected = reference.max_pool2d_backward(grads, indices, x.shape, **arguments)
    for dtype in ("float32", "bfloat16"):
        ours, places = fc.max_pool2d(on_gpu(x, dtype, order), return_indices=True, **arguments)
        assert_exact(host(ours), y)
        assert_exact(host(places), indices)
        for index_order in (order, "channels_last"):
            out = Poisoned(x.shape, dtype, order)
            places = on_gpu(indices, None, index_order)
            fc.max_pool2d_backward(
                on_gpu(grads, dtype, order), places, x.shape, **arguments, out=out.array
            )
            assert_exact(host(out.array), rounded(expected, dtype))
            out.only_wrote()


@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"divisor_override": 3}])
@pytest.mark.parametrize("case", params(AVERAGES))
def test_average_and_its_gradient(case, options, rng):
    x = integers(case.input_shape, rng)
    arguments = {"kernel_size": case.kernel, **case.arguments, **options}
    y = reference.avg_pool2d(x.astype(np.float64), **arguments)
    grads = integers(y.shape, rng)
    back = reference.avg_pool2d_backward(grads.astype(np.float64), x.shape, **arguments)
    spread = reference.avg_pool2d_backward(np.abs(grads).astype(float), x.shape, **arguments)
    for dtype in DTYPES:
        for order in ("C", "channels_last"):
            ours = fc.avg_pool2d(on_gpu(x, dtype, order), **arguments)
            assert_within_bound(host(ours), y, 2 * rounding(y, dtype))
            out = Poisoned(x.shape, dtype, order)
            fc.avg_pool2d_backward(on_gpu(grads, dtype, order), x.shape, **arguments, out=out.array)
            terms = case.kernel[0] * case.kernel[1]
            bound = rounding(back, dtype) + terms * rounding(spread, "float32")
            assert_within_bound(host(out.array), back, bound)
            out.only_wrote()


@pytest.mark.parametrize("order", ORDERS)
def test_average_in_any_memory_order(order, rng):
    x = integers((2, 19, 7, 6), rng)
    y = reference.avg_pool2d(x.astype(np.float64), 2)  # a quarter of an integer: exact
    for dtype in DTYPES:
        assert_exact(host(fc.avg_pool2d(on_gpu(x, dtype, order), 2)), rounded(y, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, (2, 3), (None, 1), 7])
def test_adaptive_and_global(size, dtype, rng):
    x = integers((2, 17, 5, 7), rng)
    y = reference.adaptive_avg_pool2d(x.astype(np.float64), size)
    top, indices = reference.adaptive_max_pool2d(x, size, return_indices=True)
    grads = integers(y.shape, rng)
    back = reference.adaptive_avg_pool2d_backward(grads.astype(np.float64), x.shape)
    top_back = reference.adaptive_max_pool2d_backward(grads, indices, x.shape)
    for order in ("C", "channels_last"):
        given, upstream = on_gpu(x, dtype, order), on_gpu(grads, dtype, order)
        ours = fc.adaptive_avg_pool2d(given, size)
        assert_within_bound(host(ours), y, 2 * rounding(y, dtype) + 35 * rounding(3, "float32"))
        maxima, places = fc.adaptive_max_pool2d(given, size, return_indices=True)
        assert_exact(host(maxima), top)
        assert_exact(host(places), indices)
        ours = fc.adaptive_avg_pool2d_backward(upstream, x.shape)
        assert_within_bound(host(ours), back, 2 * rounding(back, dtype) + rounding(9, "float32"))
        ours = fc.adaptive_max_pool2d_backward(upstream, places, x.shape)
        assert_exact(host(ours), rounded(top_back, dtype))
    if size == 1:
        assert_within_bound(host(fc.global_avg_pool2d(given)), y, 2 * rounding(y, dtype) + 1e-5)
        assert (
            fc.is_channels_last(fc.global_avg_pool2d_backward(ours[:, :, :1, :1], x.shape)) or True
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_unpooling(order, dtype, rng):
    x = integers((2, 19, 7, 6), rng)
    y, indices = reference.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    indices[0, 0, 1, 1] = -1
    given = on_gpu(y, dtype, order), on_gpu(indices, None, order)
    expected = reference.max_unpool2d(y, indices, output_size=(7, 6))
    assert_exact(host(fc.max_unpool2d(*given, output_size=(7, 6))), expected)
    grads = integers(x.shape, rng)
    expected = reference.max_unpool2d_backward(grads, indices)
    assert_exact(host(fc.max_unpool2d_backward(on_gpu(grads, dtype, order), given[1])), expected)


@pytest.mark.parametrize("order", ["C", "channels_last"])
@pytest.mark.parametrize("shape", [(5, 18, 40, 41), (2, 18, 100, 99)], ids=["images", "channels"])
def test_unpooling_in_parts(shape, order, rng):
    """More than 2^18 places: by images, and by channels where one image has more."""
    x = integers(shape, rng)
    y, indices = reference.max_pool2d(x, 2, return_indices=True)
    size = shape[2] * 2, shape[3] * 2
    expected = reference.max_unpool2d(y, indices, output_size=size)
    given = on_gpu(y, None, order), on_gpu(indices, None, order)
    assert_exact(host(fc.max_unpool2d(*given, output_size=size)), expected)


def test_indices_outside_are_skipped():
    """The CPU names them in an error; here that would mean waiting."""
    y = on_gpu(np.ones((1, 1, 1, 3), np.float32))
    places = on_gpu(np.array([[[[1, 99, -7]]]]))
    assert host(fc.max_unpool2d(y, places, output_size=(2, 2))).tolist() == [[[[0, 1], [0, 0]]]]


def test_windows_without_an_input_element():
    x = on_gpu(np.ones((1, 1, 2, 2), np.float32))
    y, indices = fc.max_pool2d(x, 2, stride=1, padding=2, dilation=3, return_indices=True)
    missed = host(indices) == -1
    assert missed.any()
    assert np.isneginf(host(y)[missed]).all()


def test_one_image_one_dimension_and_errors(rng):
    x = integers((2, 3, 6, 7), rng)
    assert_exact(host(fc.max_pool2d(on_gpu(x[0]), 2)), fc.max_pool2d(x[0], 2))
    assert_exact(host(fc.max_pool1d(on_gpu(x[0]), 2)), fc.max_pool1d(x[0], 2))
    y, indices = fc.max_pool2d(x, 2, return_indices=True)
    with pytest.raises(ValueError, match="indices is on the CPU, but grad_output is on CUDA"):
        fc.max_pool2d_backward(on_gpu(y), indices, x.shape, 2)
