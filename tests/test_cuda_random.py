"""CUDA kernels on random problems, layouts and kernels: exact, and nothing else is written."""

from __future__ import annotations

import os

import fastconv as fc
import numpy as np
import strategies as some
from cuda_support import DTYPES, host, rounded, rounding
from fastconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import THREAD_ORDERS, assert_exact, assert_within_bound, integers

DTYPE = st.sampled_from(DTYPES)
LAYOUTS = st.tuples(*[some.LAYOUTS] * 4)
ORDER = st.sampled_from(THREAD_ORDERS)
KERNELS = st.sampled_from(["", "", *fc.cuda.kernels(fc.conv2d)])
GRAD_WEIGHT_KERNELS = st.sampled_from(["", "", *fc.cuda.kernels(fc.conv2d_grad_weight)])


class Placed:
    """An array on the device behind a random layout, in a buffer of NaN."""

    def __init__(self, values, dtype, layout):
        self.layout, self.shape = layout, np.shape(values)
        axes = [a for a in layout.axes if a < len(self.shape)]
        sizes = [self.shape[a] * layout.steps[a] + 2 * layout.margin for a in axes]
        self.poison = float(-(2**40)) if dtype == "int64" else float("nan")
        self.whole = fc.cuda.full(sizes, self.poison, dtype)
        self.array = self._inside(self.whole)
        self.array[...] = fc.cuda.asarray(np.array(values, order="C"), dtype=dtype)

    def _inside(self, whole):
        axes = [a for a in self.layout.axes if a < len(self.shape)]
        margin, steps = self.layout.margin, self.layout.steps
        window = tuple(slice(margin, margin + self.shape[a] * steps[a], steps[a]) for a in axes)
        view = whole[window].transpose(*(int(a) for a in np.argsort(axes)))
        turned = self.layout.reversed[: len(self.shape)]
        return view[tuple(slice(None, None, -1 if r else 1) for r in turned)]

    def only_wrote(self):
        after = host(self.whole)
        untouched = np.isnan(after) if after.dtype.kind == "f" else after == self.poison
        result = np.zeros(after.shape, bool)
        self._inside(result)[...] = True
        assert (untouched | result).all(), "elements outside the result were written"


def poisoned(shape, dtype, layout):
    return Placed(np.full(shape, np.nan, np.float32), dtype, layout)


def can(call):
    """Whether the kernel named does the problem: otherwise it says in words why it cannot."""
    try:
        call()
    except ValueError as error:
        if "cannot do this problem: " not in str(error):
            raise
        return False
    return True


@some.examples(200)
@given(
    problem=some.convolutions(),
    dtype=DTYPE,
    precision=st.sampled_from(["highest", "high", "tf32"]),
    kernels=st.tuples(KERNELS, GRAD_WEIGHT_KERNELS),
    order=ORDER,
    seed=some.SEEDS,
    layouts=LAYOUTS,
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    relu=st.booleans(),
)
def test_convolution_in_all_directions(
    problem, dtype, precision, kernels, order, seed, layouts, with_bias, with_residual, relu
):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    rng = np.random.default_rng(seed)
    x, weight = integers(problem.input_shape, rng), integers(problem.weight_shape, rng)
    bias = integers(weight.shape[:1], rng) if with_bias else None
    expected = reference.conv2d(x, weight, bias, **problem.arguments)
    residual = integers(expected.shape, rng) if with_residual else None
    grad = integers(expected.shape, rng)
    if with_residual:
        expected = expected + residual
    expected = np.maximum(expected, 0) if relu else expected
    x_, w_, g_ = (Placed(a, dtype, layout).array for a, layout in zip((x, weight, grad), layouts))
    b_ = None if bias is None else Placed(bias, dtype, layouts[3]).array
    r_ = None if residual is None else Placed(residual, dtype, layouts[3]).array
    options = {"activation": "relu" if relu else None, **problem.arguments}

    def forward():
        out = poisoned(expected.shape, dtype, layouts[1])
        fc.conv2d(x_, w_, b_, residual=r_, out=out.array, **options)
        assert_exact(host(out.array), rounded(expected, dtype))
        out.only_wrote()

    def grad_input():
        out = poisoned(x.shape, dtype, layouts[2])
        fc.conv2d_grad_input(g_, w_, x.shape, out=out.array, **problem.arguments)
        back = reference.conv2d_grad_input(grad, weight, x.shape, **problem.arguments)
        assert_exact(host(out.array), rounded(back, dtype))
        out.only_wrote()

    def grad_weight():
        out = poisoned(weight.shape, dtype, layouts[0])
        fc.conv2d_grad_weight(g_, x_, weight.shape, out=out.array, **problem.arguments)
        back = reference.conv2d_grad_weight(grad, x, weight.shape, **problem.arguments)
        assert_exact(host(out.array), rounded(back, dtype))
        out.only_wrote()

    with fc.float32_precision(precision):
        with fc.cuda.kernel(kernels[0]):
            can(forward)
            can(grad_input)
        with fc.cuda.kernel(kernels[1]):
            can(grad_weight)


@some.examples(100)
@given(
    problem=some.transposed_convolutions(), dtype=DTYPE, order=ORDER, seed=some.SEEDS,
    layouts=LAYOUTS, with_bias=st.booleans(),
)  # fmt: skip
def test_transposed_convolution(problem, dtype, order, seed, layouts, with_bias):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    rng = np.random.default_rng(seed)
    x, weight = integers(problem.input_shape, rng), integers(problem.weight_shape, rng)
    bias = integers((weight.shape[1] * problem.arguments["groups"],), rng) if with_bias else None
    expected = reference.conv_transpose2d(x, weight, bias, **problem.arguments)
    out = poisoned(expected.shape, dtype, layouts[2])
    fc.conv_transpose2d(
        Placed(x, dtype, layouts[0]).array, Placed(weight, dtype, layouts[1]).array,
        None if bias is None else Placed(bias, dtype, layouts[3]).array, out=out.array,
        **problem.arguments,
    )  # fmt: skip
    assert_exact(host(out.array), rounded(expected, dtype))
    out.only_wrote()


@some.examples(150)
@given(
    problem=some.poolings(dilated=True), dtype=DTYPE, order=ORDER, seed=some.SEEDS, layouts=LAYOUTS,
    special=st.sampled_from([0, 0, np.nan, np.inf, -np.inf]),
)  # fmt: skip
def test_max_pooling(problem, dtype, order, seed, layouts, special):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    shape, kernel, arguments = problem
    rng = np.random.default_rng(seed)
    x = integers(shape, rng)  # many ties
    if special:
        x[rng.random(shape) < 0.1] = special
    y, indices = reference.max_pool2d(x, kernel, return_indices=True, **arguments)
    grad = integers(y.shape, rng)
    back = reference.max_pool2d_backward(grad, indices, shape, kernel, **arguments)
    ours, places = fc.max_pool2d(
        Placed(x, dtype, layouts[0]).array, kernel, return_indices=True, **arguments
    )
    assert_exact(host(ours), y)
    assert_exact(host(places), indices)
    out = poisoned(shape, dtype, layouts[3])
    fc.max_pool2d_backward(
        Placed(grad, dtype, layouts[1]).array, Placed(indices, "int64", layouts[2]).array, shape,
        kernel, out=out.array, **arguments,
    )  # fmt: skip
    assert_exact(host(out.array), rounded(back, dtype))
    out.only_wrote()


@some.examples(150)
@given(
    problem=some.poolings(dilated=False), dtype=DTYPE, order=ORDER, seed=some.SEEDS,
    layouts=LAYOUTS, counted=st.booleans(), divisor=st.sampled_from([None, None, 4, -3]),
)  # fmt: skip
def test_average_pooling(problem, dtype, order, seed, layouts, counted, divisor):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    shape, kernel, arguments = problem
    arguments = {**arguments, "count_include_pad": counted, "divisor_override": divisor}
    rng = np.random.default_rng(seed)
    x = integers(shape, rng)
    y = reference.avg_pool2d(x.astype(np.float64), kernel, **arguments)
    ours = fc.avg_pool2d(Placed(x, dtype, layouts[0]).array, kernel, **arguments)
    assert_within_bound(host(ours), y, 2 * rounding(y, dtype))
    grad = integers(y.shape, rng)
    back = reference.avg_pool2d_backward(grad.astype(np.float64), shape, kernel, **arguments)
    out = poisoned(shape, dtype, layouts[2])
    fc.avg_pool2d_backward(
        Placed(grad, dtype, layouts[1]).array, shape, kernel, out=out.array, **arguments
    )
    assert_within_bound(host(out.array), back, rounding(back, dtype) + 1e-5)
    out.only_wrote()


@some.examples(150)
@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple), dtype=DTYPE, order=ORDER,
    seed=some.SEEDS, layouts=LAYOUTS,
)  # fmt: skip
def test_elementwise(shape, dtype, order, seed, layouts):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    rng = np.random.default_rng(seed)
    x, g = integers(shape, rng), integers(shape, rng)
    x_, g_ = (Placed(a, dtype, layout).array for a, layout in zip((x, g), layouts))
    for function, expected in (
        (lambda out: fc.relu(x_, out=out), np.maximum(x, 0)),
        (lambda out: fc.relu_backward(g_, x_, out=out), np.where(x > 0, g, 0)),
        (lambda out: fc.leaky_relu(x_, 0.25, out=out), np.where(x > 0, x, x / 4)),
        (lambda out: fc.dropout(x_, 0.5, seed=seed, out=out),
         reference.dropout(x, 0.5, seed=seed)),
    ):  # fmt: skip
        out = poisoned(shape, dtype, layouts[2])
        function(out.array)
        assert_exact(host(out.array), rounded(expected, dtype))
        out.only_wrote()


@some.examples(100)
@given(
    shape=st.one_of(
        st.tuples(*[st.integers(0, 9)] * 4),
        st.tuples(st.integers(0, 40), some.CHANNELS),
    ),
    dtype=DTYPE, order=ORDER, seed=some.SEEDS, layouts=LAYOUTS, size=st.integers(1, 7),
)  # fmt: skip
def test_normalization_and_softmax(shape, dtype, order, seed, layouts, size):
    os.environ["FASTCONV_EMULATION_ORDER"] = order
    rng = np.random.default_rng(seed)
    x, g = integers(shape, rng), integers(shape, rng)
    wide = x.astype(np.float64), g.astype(np.float64)
    x_, g_ = (Placed(a, dtype, layout).array for a, layout in zip((x, g), layouts))
    slack = 1e-4

    def compare(actual, expected):
        bound = 2 * rounding(expected, dtype) + slack * (1 + np.abs(expected))
        assert_within_bound(host(actual), expected, bound)

    options = {"alpha": 0.5, "beta": 0.75, "k": 2.0}
    y = fc.local_response_norm(x_, size, **options)
    compare(y, reference.local_response_norm(wide[0], size, **options))
    back = fc.local_response_norm_backward(g_, x_, size, **options)
    compare(back, reference.local_response_norm_backward(wide[1], wide[0], size, **options))
    axis = seed % len(shape)
    compare(fc.softmax(x_, axis), reference.softmax(wide[0], axis))
    if x.size > shape[1]:
        expected = reference.batch_norm(wide[0], training=True)
        ours = fc.batch_norm(x_, training=True)
        for mine, theirs in zip(ours, expected, strict=True):
            compare(mine, theirs)
        small = [fc.cuda.asarray(a.astype(np.float32)) for a in expected[1:]]
        grads = reference.batch_norm_backward(wide[1], wide[0], *expected[1:], training=True)
        ours = fc.batch_norm_backward(g_, x_, *small, training=True)
        scale = 1 + float(np.abs(grads[0]).max(initial=0)) + float(expected[2].max(initial=0)) ** 2
        bound = 2 * rounding(grads[0], dtype) + slack * scale
        assert_within_bound(host(ours[0]), grads[0], bound)
        np.testing.assert_allclose(host(ours[2]), grads[2], rtol=1e-5, atol=1e-4)
