"""Pooling on random problems: shapes, windows, memory orders, instruction sets and thread counts
that nobody thought of, against the reference."""

import fastconv as fc
import numpy as np
from fastconv import reference
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import ORDERS, assert_exact, assert_within_bound, available_isas, in_order

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much],
)
SHAPES = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(1, 70), st.integers(1, 12), st.integers(1, 18)),
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 20), st.integers(1, 150)),
)


@st.composite
def windows(draw, dilated):
    """Keyword arguments of a pooling function."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if dilated else (1, 1)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((draw(st.integers(0, e - 1)), draw(st.integers(0, e - 1))) for e in extents)
    arguments = {
        "kernel_size": kernel,
        "stride": draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    return arguments | ({"dilation": dilation} if dilated else {})


@st.composite
def settings_of_a_call(draw):
    """(seed, dtype, memory orders of two operands, instruction set, threads)."""
    return (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([np.float32, np.float64])),
        draw(st.sampled_from(ORDERS)),
        draw(st.sampled_from(ORDERS)),
        draw(st.sampled_from(available_isas())),
        draw(st.integers(1, 3)),
    )


class Forced:
    """The instruction set and thread count of a call."""

    def __init__(self, isa, threads):
        self.isa, self.threads = fc.isa(isa), threads

    def __enter__(self):
        self.before = fc.get_num_threads()
        fc.set_num_threads(self.threads)
        self.isa.__enter__()

    def __exit__(self, *error):
        self.isa.__exit__(*error)
        fc.set_num_threads(self.before)


def fits(shape, arguments):
    try:
        return reference.pool2d_output_shape(shape, **arguments)
    except ValueError:
        assume(False)


@SETTINGS
@given(SHAPES, windows(dilated=True), settings_of_a_call())
def test_max_pool2d(shape, arguments, how):
    seed, dtype, order, other, isa, threads = how
    fits(shape, arguments)
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, size=shape).astype(dtype)
    x[rng.random(shape) < 0.05] = np.nan
    x[rng.random(shape) < 0.2] = -np.inf
    expected, places = reference.max_pool2d(x, return_indices=True, **arguments)
    with Forced(isa, threads):
        y, indices = fc.max_pool2d(in_order(x, order), return_indices=True, **arguments)
        assert_exact(y, expected)
        assert_exact(indices, places)
        assert_exact(fc.max_pool2d(in_order(x, order), **arguments), expected)
        grads = rng.integers(-4, 5, size=y.shape).astype(dtype)
        given_ = in_order(grads, order), in_order(places, other)
        expected = reference.max_pool2d_backward(grads, places, shape, **arguments)
        assert_exact(fc.max_pool2d_backward(*given_, shape, **arguments), expected)
        expected = reference.max_unpool2d(y, places, output_size=shape[2:])
        given_ = in_order(y, other), in_order(places, order)
        assert_exact(fc.max_unpool2d(*given_, output_size=shape[2:]), expected)


@SETTINGS
@given(SHAPES, windows(dilated=False), settings_of_a_call(), st.booleans())
def test_avg_pool2d(shape, arguments, how, count_include_pad):
    seed, dtype, order, other, isa, threads = how
    size = fits(shape, arguments)
    arguments = arguments | {"count_include_pad": count_include_pad}
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, size=shape).astype(dtype)
    grads = rng.integers(-9, 10, size=size).astype(dtype)
    with Forced(isa, threads):
        y = fc.avg_pool2d(in_order(x, order), **arguments)
        assert_exact(y, reference.avg_pool2d(x, **arguments))
        result = fc.avg_pool2d_backward(in_order(grads, other), shape, **arguments)
        size = reference.avg_pool2d_backward(abs(grads), shape, **arguments)
        expected = reference.avg_pool2d_backward(grads, shape, **arguments)
        assert_within_bound(result, expected, 30 * np.finfo(dtype).eps * size)


@SETTINGS
@given(SHAPES, st.tuples(st.integers(1, 14), st.integers(1, 20)), settings_of_a_call())
def test_adaptive_pooling(shape, output_size, how):
    seed, dtype, order, other, isa, threads = how
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, size=shape).astype(dtype)
    grads = rng.integers(-9, 10, size=(*shape[:2], *output_size)).astype(dtype)
    eps = np.finfo(dtype).eps
    with Forced(isa, threads):
        y = fc.adaptive_avg_pool2d(in_order(x, order), output_size)
        assert_within_bound(y, reference.adaptive_avg_pool2d(x, output_size), 36 * eps)
        result = fc.adaptive_avg_pool2d_backward(in_order(grads, other), shape)
        size = reference.adaptive_avg_pool2d_backward(abs(grads), shape)
        expected = reference.adaptive_avg_pool2d_backward(grads, shape)
        assert_within_bound(result, expected, (output_size[0] * output_size[1] + 4) * eps * size)
        expected, places = reference.adaptive_max_pool2d(x, output_size, return_indices=True)
        y, indices = fc.adaptive_max_pool2d(in_order(x, other), output_size, return_indices=True)
        assert_exact(y, expected)
        assert_exact(indices, places)
        given_ = in_order(grads, order), in_order(places, other)
        expected = reference.adaptive_max_pool2d_backward(grads, places, shape)
        assert_exact(fc.adaptive_max_pool2d_backward(*given_, shape), expected)
