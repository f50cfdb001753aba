"""Properties of pooling on random windows, layouts and machines.

The maximum is exact for any data; on small integers so are sums, and with a power of two as divisor
averages too. <pool(x), g> = <x, pool_backward(g)>: the backward functions are adjoints.
"""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
import strategies as some
from fastconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import assert_exact, assert_only_wrote, assert_within_bound, integers


def dot(a, b):
    return float(np.sum(a.astype(np.float64) * b))


def near(actual, expected, dtype):
    """Sums of small integers are exact; then comes a division, or a factor and a product."""
    bound = 4 * np.finfo(dtype).eps * max(1.0, float(np.abs(expected).max(initial=0)))
    assert_within_bound(actual, expected, bound)


@some.examples(150)
@given(
    problem=some.poolings(dilated=True),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
    special=st.sampled_from([0, 0, np.nan, np.inf, -np.inf]),
    single=st.booleans(),
)
def test_max_pool2d(problem, dtype, isa, threads, seed, layouts, special, single):
    shape, kernel, arguments = problem
    rng = np.random.default_rng(seed)
    x = integers(shape, rng, dtype)  # many ties
    if special:
        x[rng.random(shape) < 0.1] = special
    y, indices = reference.max_pool2d(x, kernel, return_indices=True, **arguments)
    grad = integers(y.shape, rng, dtype)
    back = reference.max_pool2d_backward(grad, indices, shape, kernel, **arguments)
    assert_exact(fc.pool2d_output_shape(shape, kernel, **arguments), y.shape)
    x_, g_, i_ = (some.place(a, layout) for a, layout in zip((x, grad, indices), layouts))
    out = some.poisoned(shape, dtype, layouts[2])
    image = slice(None)
    if single and shape[0]:
        x_, g_, i_, image = x_[0], g_[0], i_[0], 0
    with some.machine(isa, threads):
        found = fc.max_pool2d(x_, kernel, return_indices=True, **arguments)
        assert_exact(found[0], y[image])
        assert_exact(found[1], indices[image])
        assert_exact(fc.max_pool2d(x_, kernel, **arguments), y[image])
        whole = shape if image != 0 else (1, *shape[1:])
        fc.max_pool2d_backward(g_, i_, whole, kernel, out=out[image], **arguments)
    assert_exact(out[image], back[image])
    out[image] = np.nan
    assert np.isnan(out).all()
    assert_only_wrote(out)
    reached = indices >= 0
    if not special:
        assert dot(np.where(reached, y, 0), grad) == dot(x, back)


@some.examples(120)
@given(
    problem=some.poolings(dilated=False),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
    count=st.booleans(),
    divisor=st.sampled_from([None, None, 4, -2, 7]),
)
def test_avg_pool2d(problem, dtype, isa, threads, seed, layouts, count, divisor):
    shape, kernel, arguments = problem
    arguments |= {"count_include_pad": count, "divisor_override": divisor}
    rng = np.random.default_rng(seed)
    x = integers(shape, rng, dtype)
    y = reference.avg_pool2d(x.astype(np.float64), kernel, **arguments)
    grad = integers(y.shape, rng, dtype)
    back = reference.avg_pool2d_backward(grad.astype(np.float64), shape, kernel, **arguments)
    out = some.poisoned(shape, dtype, layouts[2])
    with some.machine(isa, threads):
        actual = fc.avg_pool2d(some.place(x, layouts[0]), kernel, **arguments)
        grads = some.place(grad, layouts[1])
        fc.avg_pool2d_backward(grads, shape, kernel, out=out, **arguments)
    near(actual, y, dtype)
    near(out, back, dtype)
    assert_only_wrote(out)
    if divisor in (4, -2):
        assert_exact(actual, y)
        assert dot(actual, grad) == dot(x, out)


@some.examples(80)
@given(
    shape=st.tuples(st.integers(0, 3), some.CHANNELS, st.integers(1, 12), st.integers(1, 12)),
    size=some.pairs(st.integers(1, 14) | st.none()),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
)
def test_adaptive_and_global_pooling(shape, size, dtype, isa, threads, seed, layouts):
    rng = np.random.default_rng(seed)
    x = integers(shape, rng, dtype)
    wide = x.astype(np.float64)
    y, indices = reference.adaptive_max_pool2d(x, size, return_indices=True)
    mean, whole = reference.adaptive_avg_pool2d(wide, size), reference.global_avg_pool2d(wide)
    grad, one = integers(y.shape, rng, dtype), integers(whole.shape, rng, dtype)
    out = some.poisoned(shape, dtype, layouts[2])
    x_, g_ = some.place(x, layouts[0]), some.place(grad, layouts[1])
    with some.machine(isa, threads):
        found = fc.adaptive_max_pool2d(x_, size, return_indices=True)
        assert_exact(found[0], y)
        assert_exact(found[1], indices)
        fc.adaptive_max_pool2d_backward(g_, found[1], shape, out=out)
        assert_exact(out, reference.adaptive_max_pool2d_backward(grad, indices, shape))
        near(fc.adaptive_avg_pool2d(x_, size), mean, dtype)
        fc.adaptive_avg_pool2d_backward(g_, shape, out=out)
        near(out, reference.adaptive_avg_pool2d_backward(grad.astype(np.float64), shape), dtype)
        near(fc.global_avg_pool2d(x_), whole, dtype)
        fc.global_avg_pool2d_backward(one, shape, out=out)
        near(out, reference.global_avg_pool2d_backward(one.astype(np.float64), shape), dtype)
    assert_only_wrote(out)


@some.examples(60)
@given(
    shape=st.tuples(st.integers(0, 3), some.CHANNELS, st.integers(0, 5), st.integers(0, 5)),
    plane=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
)
def test_unpooling(shape, plane, dtype, isa, threads, seed, layouts):
    """Any indices, also repeated ones and -1."""
    rng = np.random.default_rng(seed)
    x = integers(shape, rng, dtype)
    indices = rng.integers(-1, plane[0] * plane[1], shape)
    y = reference.max_unpool2d(x, indices, output_size=plane)
    grad = integers(y.shape, rng, dtype)
    back = reference.max_unpool2d_backward(grad, indices)
    x_, i_, g_ = (some.place(a, layout) for a, layout in zip((x, indices, grad), layouts))
    with some.machine(isa, threads):
        assert_exact(fc.max_unpool2d(x_, i_, output_size=plane), y)
        assert_exact(fc.max_unpool2d_backward(g_, i_), back)


@some.examples(60)
@given(
    problem=some.poolings(dilated=True),
    isa=some.ISAS,
    seed=some.SEEDS,
    layout=some.LAYOUTS,
)
def test_one_dimension(problem, isa, seed, layout):
    shape, kernel, arguments = problem
    x = integers((*shape[:2], shape[3]), np.random.default_rng(seed), np.float64)
    kernel = some.both(kernel)[1]
    padding, stride = arguments["padding"], arguments["stride"]
    arguments = {
        "stride": None if stride is None else some.both(stride)[1],
        "padding": padding if isinstance(padding, str) else some.ends(padding)[1],
        "ceil_mode": arguments["ceil_mode"],
    }
    dilation = some.both(problem[2]["dilation"])[1]
    with some.machine(isa):
        placed = some.place(x, layout)
        found = fc.max_pool1d(placed, kernel, dilation=dilation, return_indices=True, **arguments)
        wanted = reference.max_pool1d(
            x, kernel, dilation=dilation, return_indices=True, **arguments
        )
        assert_exact(found[0], wanted[0])
        assert_exact(found[1], wanted[1])
        if dilation == 1:
            actual = fc.avg_pool1d(placed, kernel, **arguments)
            near(actual, reference.avg_pool1d(x, kernel, **arguments), np.float64)


def test_images_of_more_than_2_31_elements():
    """One value behind strides of 0: int64 indices in float64, refused in words in float32."""
    x = np.broadcast_to(1.0, (1, 1, 50_000, 50_000))
    _, indices = fc.max_pool2d(x, 1, stride=49_000, return_indices=True)
    assert indices.ravel().tolist() == [0, 49_000, 49_000 * 50_000, 49_000 * 50_001]
    x = np.broadcast_to(np.float32(1), x.shape)
    with pytest.raises(ValueError, match=r"max_pool2d: return_indices .*= 2500000000 elements"):
        fc.max_pool2d(x, 1, stride=49_000, return_indices=True)
    assert (fc.max_pool2d(x, 1, stride=49_000) == 1).all()
