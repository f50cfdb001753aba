"""Properties of convolutions and linear layers on random problems, layouts and machines.

Small integers make every product and sum exact, so results are compared bit for bit with the
reference, and <conv(x), g> = <x, grad_input(g)> = <w, grad_weight(g, x)> holds exactly. Winograd
rounds and is held against its own tolerance.
"""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
import strategies as some
from fastconv import reference
from hypothesis import assume, given, target
from hypothesis import strategies as st
from support import (
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    integers,
    normals,
    sum_bound,
)

EXACT = ["auto64", *(a for a in fc.algorithms(fc.conv2d) if not a.startswith("winograd"))]
WINOGRAD = [a for a in fc.algorithms(fc.conv2d) if a.startswith("winograd")]


def dot(a, b):
    return float(np.sum(a.astype(np.float64) * b))


def can(call):
    """Whether the algorithm named does the problem: otherwise it says in words why it cannot."""
    try:
        call()
    except ValueError as error:
        if "cannot do this problem: " not in str(error):
            raise
        return False
    return True


@some.examples(150)
@given(
    problem=some.convolutions(),
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    algorithm=st.sampled_from(EXACT),
    seed=some.SEEDS,
    relu=st.booleans(),
    layouts=st.tuples(*[some.LAYOUTS] * 6),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
)
def test_convolution_is_exact_in_all_directions(
    problem, dtype, isa, threads, algorithm, seed, relu, layouts, with_bias, with_residual
):
    if algorithm == "auto64":  # in float32 "auto" may be Winograd
        algorithm, dtype = "auto", np.float64
    rng = np.random.default_rng(seed)
    x, weight = (
        integers(problem.input_shape, rng, dtype),
        integers(problem.weight_shape, rng, dtype),
    )
    bias = integers(weight.shape[:1], rng, dtype) if with_bias else None
    plain = reference.conv2d(x, weight, bias, **problem.arguments)
    residual = integers(plain.shape, rng, dtype) if with_residual else None
    expected = plain if residual is None else plain + residual
    expected = np.maximum(expected, 0) if relu else expected
    grad = integers(plain.shape, rng, dtype)
    x_, w_, g_ = (some.place(a, layout) for a, layout in zip((x, weight, grad), layouts))
    r_ = None if residual is None else some.place(residual, layouts[3])
    b_ = None if bias is None else some.place(bias, layouts[4])
    options = {"algorithm": algorithm, **problem.arguments}
    with some.machine(isa, threads):
        out = some.poisoned(plain.shape, dtype, layouts[5])
        activation = "relu" if relu else None
        if can(
            lambda: fc.conv2d(x_, w_, b_, residual=r_, activation=activation, out=out, **options)
        ):
            assert_exact(out, expected)
            assert_only_wrote(out)
        else:
            assert np.isnan(out).all()

        back = some.poisoned(x.shape, dtype, layouts[5])
        if can(lambda: fc.conv2d_grad_input(g_, w_, x.shape, out=back, **options)):
            assert_exact(
                back, reference.conv2d_grad_input(grad, weight, x.shape, **problem.arguments)
            )
            assert_only_wrote(back)
            without = plain if bias is None else plain - bias[:, None, None]
            assert dot(without, grad) == dot(x, back)

        slope = some.poisoned(weight.shape, dtype, layouts[5])
        if can(lambda: fc.conv2d_grad_weight(g_, x_, weight.shape, out=slope, **options)):
            wanted = reference.conv2d_grad_weight(grad, x, weight.shape, **problem.arguments)
            assert_exact(slope, wanted)
            assert_only_wrote(slope)
            fc.conv2d_grad_weight(g_, x_, weight.shape, out=slope, accumulate=True, **options)
            assert_exact(slope, 2 * wanted)
        assert_exact(fc.conv2d_grad_bias(g_), grad.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("algorithm", ["auto", *EXACT[1:], *WINOGRAD])
@pytest.mark.parametrize(("channels", "filters"), [(0, 4), (3, 0), (0, 0)])
def test_no_channels_or_no_filters(channels, filters, algorithm, isa):
    """Sums of nothing are 0. (Found by fuzzing: grad_weight divided by 0.)"""
    bias = np.ones(filters, np.float32)
    for order in (np.asarray, fc.channels_last):
        x, weight = (
            order(np.ones((2, channels, 5, 6), np.float32)),
            np.ones((filters, channels, 3, 3), np.float32),
        )
        grad = order(np.ones((2, filters, 3, 4), np.float32))
        calls = {
            "forward": lambda x=x, w=weight: fc.conv2d(x, w, bias, algorithm=algorithm),
            "grad_input": lambda g=grad, x=x, w=weight: fc.conv2d_grad_input(
                g, w, x.shape, algorithm=algorithm
            ),
            "grad_weight": lambda g=grad, x=x, w=weight: fc.conv2d_grad_weight(
                g, x, w.shape, algorithm=algorithm
            ),
        }
        for direction, call in calls.items():
            if can(call):
                assert (call() == (1 if direction == "forward" else 0)).all()


@some.examples(60)
@given(
    problem=some.convolutions(),
    dtype=some.DTYPES,
    isa=some.ISAS,
    seed=some.SEEDS,
    layout=some.LAYOUTS,
    relu=st.booleans(),
    need=st.sets(st.sampled_from(["input", "weight", "bias"])),
)
def test_conv2d_backward_is_the_references(problem, dtype, isa, seed, layout, relu, need):
    rng = np.random.default_rng(seed)
    x, weight = (
        integers(problem.input_shape, rng, dtype),
        integers(problem.weight_shape, rng, dtype),
    )
    output = integers(reference.conv2d(x, weight, **problem.arguments).shape, rng, dtype)
    grad = integers(output.shape, rng, dtype)
    options = {
        "activation": "relu" if relu else None,
        "output": output if relu else None,
        "need": tuple(need),
        **problem.arguments,
    }
    expected = reference.conv2d_backward(grad, x, weight, **options)
    with some.machine(isa):
        actual = fc.conv2d_backward(
            some.place(grad, layout), some.place(x, layout), weight, **options
        )
    for name, a, e in zip(("input", "weight", "bias"), actual, expected):
        assert (a is None) == (e is None) == (name not in need)
        if a is not None:
            # In float32 grad_input may be Winograd's.
            assert_within_bound(
                a, e, 1e-4 * max(1, np.abs(e).max(initial=0)) if dtype == np.float32 else 0
            )


@some.examples(80)
@given(
    problem=some.convolutions(),
    dtype=some.DTYPES,
    isa=some.ISAS,
    seed=some.SEEDS,
    algorithm=st.sampled_from(["auto", *EXACT[1:], *WINOGRAD]),
    layout=some.LAYOUTS,
    few=some.THREADS,
)
def test_bits_depend_on_no_thread_count_batch_or_packing(
    problem, dtype, isa, seed, algorithm, layout, few
):
    rng = np.random.default_rng(seed)
    x, weight = normals(problem.input_shape, rng, dtype), normals(problem.weight_shape, rng, dtype)
    x = some.place(x, layout)
    options = {"algorithm": algorithm, **problem.arguments}
    shape = fc.conv2d_output_shape(x.shape, weight.shape, **problem.window)
    grad = some.place(normals(shape, rng, dtype), layout)

    def run(images, grads, kernel=weight):
        batch = (len(images), *x.shape[1:])
        directions = {
            "forward": lambda: fc.conv2d(images, kernel, **options),
            "grad_input": lambda: fc.conv2d_grad_input(grads, weight, batch, **options),
            "grad_weight": lambda: fc.conv2d_grad_weight(grads, images, weight.shape, **options),
        }
        return {name: call() for name, call in directions.items() if can(call)}

    with some.machine(isa, 1):
        one = run(x, grad)
    with some.machine(isa, few):
        packed = fc.pack_weight(weight, groups=problem.arguments["groups"])
        again, with_packed = run(x, grad), run(x, grad, packed)
        last = run(x[-1:], grad[-1:])
    assert one.keys() == again.keys() == with_packed.keys() == last.keys()
    for name, expected in one.items():
        assert np.array_equal(again[name], expected), name
        assert np.array_equal(with_packed[name], expected), name
        if name != "grad_weight":
            assert np.array_equal(last[name], expected[-1:]), name


@some.examples(80)
@given(
    problem=some.convolutions(),
    dtype=some.DTYPES,
    isa=some.ISAS,
    seed=some.SEEDS,
    layout=some.LAYOUTS,
    scale=st.integers(-30, 30),
    algorithm=st.sampled_from(EXACT[1:]),
)
def test_rounding_is_within_the_bound(problem, dtype, isa, seed, layout, scale, algorithm):
    rng = np.random.default_rng(seed)
    x = normals(problem.input_shape, rng, dtype) * dtype(2.0**scale)
    weight = normals(problem.weight_shape, rng, dtype)
    expected = reference.conv2d(*float64(x, weight), **problem.arguments)
    terms = int(np.prod(weight.shape[1:]))
    bound = sum_bound(reference.conv2d, x, weight, terms=terms, dtype=dtype, **problem.arguments)
    out = np.empty(expected.shape, dtype)
    options = {"algorithm": algorithm, "out": out, **problem.arguments}
    with some.machine(isa):
        if can(lambda: fc.conv2d(some.place(x, layout), weight, **options)):
            assert_within_bound(out, expected, bound)
            target(float((np.abs(out - expected) / (bound + 1e-300)).max(initial=0)))


@some.examples(40)
@given(
    problem=some.convolutions(largest=17),
    isa=some.ISAS,
    seed=some.SEEDS,
    threads=some.THREADS,
    algorithm=st.sampled_from(WINOGRAD),
    kernel=st.sampled_from([2, 3, 4, 5, 7]),
    layouts=st.tuples(*[some.LAYOUTS] * 3),
)
def test_winograd_is_near(problem, isa, seed, threads, algorithm, kernel, layouts):
    rng = np.random.default_rng(seed)
    arguments = problem.arguments | {"dilation": 1}
    x = normals(problem.input_shape, rng)
    weight = normals((*problem.weight_shape[:2], kernel, kernel), rng)
    sides = arguments["padding"]
    room = ((0, 0),) * 2 if sides == "valid" else some.ends(kernel if sides == "same" else sides)
    assume(all(n + sum(side) >= kernel for n, side in zip(x.shape[2:], room)))
    expected = reference.conv2d(*float64(x, weight), **arguments)
    out = some.poisoned(expected.shape, np.float32, layouts[2])
    with some.machine(isa, threads):
        x, weight = some.place(x, layouts[0]), some.place(weight, layouts[1])
        if not can(lambda: fc.conv2d(x, weight, algorithm=algorithm, out=out, **arguments)):
            return
    scale = np.abs(x).max(initial=1) * np.abs(weight).sum(axis=(1, 2, 3)).max(initial=1)
    assert_within_bound(out, expected, 1e-5 * float(scale))
    assert_only_wrote(out)
    grad = normals(expected.shape, rng)
    expected = reference.conv2d_grad_weight(*float64(grad, x), weight.shape, **arguments)
    out = some.poisoned(expected.shape, np.float32, layouts[1])
    with some.machine(isa, threads):
        grad = some.place(grad, layouts[2])
        fc.conv2d_grad_weight(grad, x, weight.shape, algorithm=algorithm, out=out, **arguments)
    scale = np.abs(x).max(initial=1) * np.abs(grad).sum(axis=(0, 2, 3)).max(initial=1)
    assert_within_bound(out, expected, 1e-5 * float(scale))
    assert_only_wrote(out)


@some.examples(60)
@given(
    problem=some.convolutions(),
    dtype=some.DTYPES,
    isa=some.ISAS,
    seed=some.SEEDS,
    single=st.booleans(),
    layout=some.LAYOUTS,
    relu=st.booleans(),
)
def test_conv1d(problem, dtype, isa, seed, single, layout, relu):
    rng = np.random.default_rng(seed)
    x = integers((*problem.input_shape[:2], problem.input_shape[3]), rng, np.float64)
    weight = integers((*problem.weight_shape[:2], problem.weight_shape[3]), rng, np.float64)
    x = x[0] if single and len(x) else x
    padding = problem.arguments["padding"]
    arguments = {
        "padding": padding if isinstance(padding, str) else some.ends(padding)[1],
        "stride": some.both(problem.arguments["stride"])[1],
        "dilation": some.both(problem.arguments["dilation"])[1],
        "groups": problem.arguments["groups"],
        "activation": "relu" if relu else None,
    }
    plain = reference.conv1d(x, weight, **arguments)
    residual, bias = (
        integers(plain.shape, rng, np.float64),
        integers(weight.shape[:1], rng, np.float64),
    )
    expected = reference.conv1d(x, weight, bias, residual=residual, **arguments)
    out = some.poisoned(expected.shape, np.float64, layout)
    with some.machine(isa):
        x, residual = some.place(x, layout), some.place(residual, layout)
        assert fc.conv1d(x, weight, bias, residual=residual, out=out, **arguments) is out
    assert_exact(out, expected)
    assert_only_wrote(out)


@some.examples(80)
@given(
    problem=some.transposed_convolutions(),
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 4),
    algorithm=st.sampled_from(EXACT),
    dtype=some.DTYPES,
)
def test_transposed_convolution(problem, isa, threads, seed, layouts, algorithm, dtype):
    if algorithm == "auto64":
        algorithm, dtype = "auto", np.float64
    rng = np.random.default_rng(seed)
    x, weight = (
        integers(problem.input_shape, rng, dtype),
        integers(problem.weight_shape, rng, dtype),
    )
    bias = integers((weight.shape[1] * problem.arguments["groups"],), rng, dtype)
    expected = reference.conv_transpose2d(x, weight, bias, **problem.arguments)
    grad = integers(expected.shape, rng, dtype)
    x_, w_, g_ = (some.place(a, layout) for a, layout in zip((x, weight, grad), layouts))
    out = some.poisoned(expected.shape, dtype, layouts[3])
    with some.machine(isa, threads):
        if can(
            lambda: fc.conv_transpose2d(
                x_, w_, bias, algorithm=algorithm, out=out, **problem.arguments
            )
        ):
            assert_exact(out, expected)
            assert_only_wrote(out)
        actual = fc.conv_transpose2d_backward(
            g_.astype(np.float64), x_.astype(np.float64), w_.astype(np.float64), **problem.arguments
        )
    for a, e in zip(
        actual, reference.conv_transpose2d_backward(grad, x, weight, **problem.arguments)
    ):
        assert_exact(a, e)
    assert dot(expected - bias[:, None, None], grad) == dot(x, actual[0]) == dot(weight, actual[1])


@some.examples(80)
@given(
    batch=st.integers(0, 40),
    inputs=some.CHANNELS,
    outputs=some.CHANNELS,
    dtype=some.DTYPES,
    isa=some.ISAS,
    threads=some.THREADS,
    seed=some.SEEDS,
    layouts=st.tuples(*[some.LAYOUTS] * 4),
    relu=st.booleans(),
    deep=st.sampled_from([0, 0, 500, 1100]),
    single=st.booleans(),
)
def test_linear(batch, inputs, outputs, dtype, isa, threads, seed, layouts, relu, deep, single):
    rng = np.random.default_rng(seed)
    shape = (inputs + deep,) if single else (batch, inputs + deep)
    x, weight = integers(shape, rng, dtype), integers((outputs, inputs + deep), rng, dtype)
    bias, activation = integers((outputs,), rng, dtype), "relu" if relu else None
    expected = reference.linear(x, weight, bias, activation=activation)
    grad = integers(expected.shape, rng, dtype)
    x_, w_, g_ = (some.place(a, layout) for a, layout in zip((x, weight, grad), layouts))
    out = some.poisoned(expected.shape, dtype, layouts[3])
    options = {"activation": activation, "output": expected if relu else None}
    with some.machine(isa, threads):
        fc.linear(x_, w_, some.place(bias, layouts[0]), activation=activation, out=out)
        actual = fc.linear_backward(g_, x_, w_, **options)
    assert_exact(out, expected)
    assert_only_wrote(out)
    for a, e in zip(actual, reference.linear_backward(grad, x, weight, **options)):
        assert_exact(a, e)
    if not relu:
        assert dot(expected - bias, grad) == dot(x, actual[0]) == dot(weight, actual[1])


@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col", "naive"])
def test_windows_very_far_apart(algorithm, isa):
    """The largest stride and padding: the windows' places leave 32 bits nearly full."""
    far, weight = 10**9, np.ones((4, 3, 2, 2), np.float32)
    x, expected = np.ones((1, 3, 2, 2), np.float32), np.zeros((1, 4, 3, 3), np.float32)
    expected[:, :, 1, 1] = 12
    options = {"stride": far, "padding": far, "algorithm": algorithm}
    assert_exact(fc.conv2d(x, weight, **options), expected)
    back = fc.conv2d_grad_input(expected, weight, x.shape, **options)
    assert_exact(back, np.full_like(x, 48))
    slope = fc.conv2d_grad_weight(expected, x, weight.shape, **options)
    assert_exact(slope, np.full_like(weight, 12))
    with pytest.raises(ValueError, match="conv2d: stride is 1000000001; wanted at most 1000000000"):
        fc.conv2d(x, weight, stride=far + 1, padding=1)
