"""Properties of activations, dropout, softmax, losses and normalisation on random shapes of any
rank, layouts and machines: bounds of a few roundings, nothing written around a result.
"""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
import strategies as some
from fastconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import assert_exact, assert_only_wrote, assert_within_bound, integers, normals

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 17]), max_size=4).map(tuple)

EXACT = ["relu", "leaky_relu"]  # one rounding at most
ROUNDED = {"sigmoid": 8, "tanh": 8}  # ulps of the largest value, 1


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
@some.examples(30)
@given(
    shape=SHAPES,
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
    scale=st.sampled_from([1e-30, 1e-3, 1, 20, 1e4, 1e30]),
)
def test_activations(name, shape, dtype, isa, threads, seed, layouts, scale):
    rng = np.random.default_rng(seed)
    x = np.asarray(normals(shape, rng, np.float64) * scale, dtype)
    grad = integers(shape, rng, dtype)
    expected = getattr(reference, name)(x.astype(np.float64))
    y = np.asarray(expected, dtype)
    back = getattr(reference, f"{name}_backward")(grad.astype(np.float64), y.astype(np.float64))
    out, slope = (some.poisoned(shape, dtype, layout) for layout in layouts[1:])
    with some.machine(isa, threads):
        getattr(fc, name)(some.place(x, layouts[0]), out=out)
        grads, outputs = some.place(grad, layouts[0]), some.place(y, layouts[1])
        getattr(fc, f"{name}_backward")(grads, outputs, out=slope)
    # Their sums and products are rounded once or twice more.
    bound = ROUNDED.get(name, 1) * np.finfo(dtype).eps
    assert_within_bound(out, expected, bound * np.maximum(np.abs(expected), np.finfo(dtype).tiny))
    assert_within_bound(slope, back, bound * 3)
    assert_only_wrote(out)
    assert_only_wrote(slope)


@some.examples(60)
@given(
    shape=SHAPES,
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 2),
    p=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1),
    draw=st.integers(0, 2**64 - 1),
)
def test_dropout_draws_the_same_for_any_layout(shape, dtype, isa, threads, seed, layouts, p, draw):
    x = integers(shape, np.random.default_rng(seed), dtype)
    out = some.poisoned(shape, dtype, layouts[1])
    expected = reference.dropout(x, p, seed=draw)
    with some.machine(isa, threads):
        fc.dropout(some.place(x, layouts[0]), p, seed=draw, out=out)
        back = fc.dropout_backward(some.place(x, layouts[1]), p, seed=draw)
        kept = fc.dropout(some.place(x, layouts[0]), p, seed=draw, training=False)
    assert np.array_equal(out == 0, expected == 0)
    assert_within_bound(out, expected, 2 * np.finfo(dtype).eps * np.abs(expected))
    assert_exact(back, out)
    assert_exact(kept, x)
    assert_only_wrote(out)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@some.examples(50)
@given(
    shape=SHAPES.filter(len),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
    scale=st.sampled_from([1e-3, 1, 30, 1e4]),
    data=st.data(),
)
def test_softmax(name, shape, dtype, isa, threads, seed, layouts, scale, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
    rng = np.random.default_rng(seed)
    x, grad = normals(shape, rng, dtype) * dtype(scale), integers(shape, rng, dtype)
    expected = getattr(reference, name)(x.astype(np.float64), axis)
    y = np.asarray(expected, dtype)
    back = getattr(reference, f"{name}_backward")(grad.astype(np.float64), y.astype(float), axis)
    out, slope = (some.poisoned(shape, dtype, layout) for layout in layouts[1:])
    with some.machine(isa, threads):
        getattr(fc, name)(some.place(x, layouts[0]), axis, out=out)
        grads, outputs = some.place(grad, layouts[0]), some.place(y, layouts[1])
        getattr(fc, f"{name}_backward")(grads, outputs, axis, out=slope)
    eps = float(np.finfo(dtype).eps)
    size = max(1.0, float(np.abs(x).max(initial=0)))
    lines = shape[axis]
    assert_within_bound(out, expected, eps * (8 * size if name == "log_softmax" else 8 + 2 * lines))
    assert_within_bound(slope, back, eps * (8 + 3 * lines) * lines)
    assert_only_wrote(out)
    assert_only_wrote(slope)


@some.examples(60)
@given(
    rows=st.integers(0, 9),
    classes=st.integers(1, 40),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 2),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_cross_entropy(
    rows, classes, dtype, isa, threads, seed, layouts, smoothing, reduction
):  # fmt: skip
    rng = np.random.default_rng(seed)
    logits, target = normals((rows, classes), rng, dtype) * 5, rng.integers(0, classes, rows)
    arguments = {"label_smoothing": smoothing, "reduction": reduction}
    grad = normals((rows,), rng, dtype) if reduction == "none" else 1.5
    out = some.poisoned(logits.shape, dtype, layouts[1])
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = reference.cross_entropy(wide, target, **arguments) if rows else None
    back = reference.cross_entropy_backward(wide, target, grad_output=grad, **arguments)
    with some.machine(isa, threads):
        placed = some.place(logits, layouts[0])
        actual = fc.cross_entropy(placed, target, **arguments)
        fc.cross_entropy_backward(placed, target, grad_output=grad, out=out, **arguments)
    eps = float(np.finfo(dtype).eps)
    if rows:
        assert_within_bound(actual, expected, 60 * eps * max(1, rows))
    assert_within_bound(out, back, 60 * eps)
    assert_only_wrote(out)


@some.examples(80)
@given(
    shape=st.tuples(st.integers(1, 4), some.CHANNELS, st.integers(1, 9), st.integers(1, 9)),
    rank=st.sampled_from([2, 3, 4, 4]),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
    training=st.booleans(),
    affine=st.booleans(),
)
def test_batch_norm(shape, rank, dtype, isa, threads, seed, layouts, training, affine):
    shape = {2: shape[:2], 3: shape[1:], 4: shape}[rank]
    axis = 0 if rank == 3 else 1
    channels = (shape[axis],)
    training = training and int(np.prod(shape)) > channels[0]
    rng = np.random.default_rng(seed)
    x, grad = normals(shape, rng, dtype) + dtype(3), normals(shape, rng, dtype)
    vectors = {name: normals(channels, rng, dtype) for name in ("weight", "bias", "running_mean")}
    vectors["running_var"] = np.abs(normals(channels, rng, dtype)) + dtype(0.5)
    if not affine:
        vectors |= {"weight": None, "bias": None}
    wide = {n: None if v is None else v.astype(np.float64) for n, v in vectors.items()}
    expected = reference.batch_norm(x.astype(np.float64), training=training, **wide)
    back = reference.batch_norm_backward(
        grad.astype(np.float64), x.astype(np.float64), *expected[1:], weight=wide["weight"],
        training=training,
    )  # fmt: skip
    out, slope = (some.poisoned(shape, dtype, layout) for layout in layouts[1:])
    with some.machine(isa, threads):
        placed, grads = some.place(x, layouts[0]), some.place(grad, layouts[1])
        y = fc.batch_norm(placed, training=training, out=out, **vectors)
        g = fc.batch_norm_backward(
            grads, placed, *y[1:], weight=vectors["weight"], training=training, out=slope
        )
    eps = float(np.finfo(dtype).eps) * 30
    size = 10 * max(1, float(expected[2].max(initial=1)))
    for actual, wanted in zip(y, expected):
        assert_within_bound(actual, wanted, eps * size * 5)
    for name in ("running_mean", "running_var"):
        assert_within_bound(vectors[name], wide[name], eps * 20)
    values = int(np.prod(shape)) / channels[0]
    for actual, wanted in zip(g, back):
        assert_within_bound(actual, wanted, eps * size * size * values)
    assert_only_wrote(out)
    assert_only_wrote(slope)


@some.examples(60)
@given(
    shape=st.tuples(st.integers(0, 3), some.CHANNELS, st.integers(1, 7), st.integers(1, 7)),
    size=st.integers(1, 9),
    parameters=st.sampled_from([(1e-4, 0.75, 1.0), (0.5, 0.75, 2.0), (1.0, 0.5, 0.5), (1.0, 1, 1)]),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 3),
)
def test_local_response_norm(shape, size, parameters, dtype, isa, threads, seed, layouts):
    arguments = dict(zip(("alpha", "beta", "k"), parameters))
    rng = np.random.default_rng(seed)
    x, grad = normals(shape, rng, dtype), normals(shape, rng, dtype)
    wide = x.astype(np.float64)
    expected = reference.local_response_norm(wide, size, **arguments)
    back = reference.local_response_norm_backward(grad.astype(float), wide, size, **arguments)
    with some.machine(isa, threads):
        placed, grads = some.place(x, layouts[0]), some.place(grad, layouts[1])
        y = fc.local_response_norm(placed, size, **arguments)
        g = fc.local_response_norm_backward(grads, placed, size, **arguments)
    eps = float(np.finfo(dtype).eps)
    assert_within_bound(y, expected, eps * (8 + size) * (1 + np.abs(expected)))
    assert_within_bound(g, back, eps * (20 + 8 * size) * (1 + np.abs(back).max(initial=0)))
