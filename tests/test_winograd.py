"""Winograd: the matrices derived again with rational numbers, the error, the edges."""

import math
from fractions import Fraction

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core, reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, normals, params, poisoned
from winograd_cases import (
    POINTS,
    STRIDED,
    error_bound,
    names,
    outputs,
    taps_of,
    toom_cook,
    toom_cook_of_an_edge,
    winograd_cases,
)


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_rational_matrices_are_an_exact_convolution(algorithm, r):
    m = outputs(algorithm, r)
    at, g, bt = toom_cook(POINTS[algorithm, r], m, r)
    kernel = [Fraction(3 * i * i - 7, 5) for i in range(r)]
    data = [Fraction(2 * i + 1, 3) for i in range(m + r - 1)]
    u = [sum(a * b for a, b in zip(row, kernel, strict=True)) for row in g]
    v = [sum(a * b for a, b in zip(row, data, strict=True)) for row in bt]
    y = [sum(a * p * q for a, p, q in zip(row, u, v, strict=True)) for row in at]
    assert y == [sum(kernel[i] * data[i + j] for i in range(r)) for j in range(m)]


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_rational_matrices_of_edges_are_exact_with_the_same_weights(algorithm, r):
    m = outputs(algorithm, r)
    kernel = [Fraction(3 * i * i - 7, 5) for i in range(r)]
    for size in range(1, m + 1):
        at, g, bt, _ = toom_cook_of_an_edge(POINTS[algorithm, r], m, r, size)
        data = [Fraction(2 * i + 1, 3) for i in range(size + r - 1)]
        u = [sum(a * b for a, b in zip(row, kernel, strict=True)) for row in g]
        v = [sum(a * b for a, b in zip(row, data, strict=True)) for row in bt]
        y = [sum(a * p * q for a, p, q in zip(row, u, v, strict=True)) for row in at]
        assert y == [sum(kernel[i] * data[i + j] for i in range(r)) for j in range(size)]


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_kernels_use_those_matrices(algorithm, r, isa):
    """One tile in float32 against the rational transform in float64: a wrong constant shows."""
    m = outputs(algorithm, r)
    at, g, bt = (np.array(a, dtype=np.float64) for a in toom_cook(POINTS[algorithm, r], m, r))
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, w = rng.standard_normal((m + r - 1,) * 2), rng.standard_normal((r, r))
        d, w = d.astype(np.float32), w.astype(np.float32)
        expected = at @ ((g @ w @ g.T) * (bt @ d @ bt.T)) @ at.T
        actual = fc.conv2d(d[None, None], w[None, None], algorithm=algorithm)[0, 0]
        assert np.abs(actual - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_every_size_of_an_edge_tile(algorithm, r, isa, rng):
    """Alone and beside whole tiles, in both memory orders."""
    m = outputs(algorithm, r)
    weight = normals((17, 9, r, r), rng)
    for height in range(1, 2 * m + 1):
        for width in {*range(1, m + 1), m + height % m + 1}:
            x = normals((2, 9, height + r - 1, width + r - 1), rng)
            expected = reference.conv2d(x.astype(np.float64), weight.astype(np.float64))
            for order in ("C", "channels_last"):
                actual = fc.conv2d(in_order(x, order), weight, algorithm=algorithm)
                limit = tolerance(x, weight, 1) * error_bound(algorithm, r) / 2e-6
                assert np.abs(actual - expected).max() < limit, (height, width)


@pytest.mark.parametrize(("algorithm", "r"), [key for key in POINTS if len(POINTS[key]) < 7])
def test_edge_tiles_take_the_points_of_their_outputs(algorithm, r):
    """Products: rows of points times columns of points, of all tiles."""
    m = outputs(algorithm, r)
    for size in range(1, 3 * m + 1):
        shape, kernel = (1, 16, size + r - 1, 3 * m + r - 1), (16, 16, r, r)
        plan = fc.explain(fc.conv2d, shape, kernel, algorithm=algorithm)
        _, _, _, last = toom_cook_of_an_edge(POINTS[algorithm, r], m, r, (size - 1) % m + 1)
        rows = (size - 1) // m * (m + r - 1) + len(last)
        assert plan.winograd["products"] == rows * 3 * (m + r - 1)


@pytest.mark.parametrize(
    ("r", "stride", "m", "axis"),
    [(2, 1, 4, 5), (4, 1, 3, 6), (7, 1, 3, 6 + 5), (10, 1, 4, 6 + 6 + 6 + 5), (5, 2, 4, 6 + 5)],
)
def test_subkernels_of_few_taps_have_no_point_infinity(r, stride, m, axis):
    """F(4,3) needs 5 points for 2 taps and 6 for 3, F(3,4) 5 for 3 and 6 for 4."""
    size = 11 * stride + r
    operands = (1, 16, size, size), (16, 16, r, r)
    options = {"stride": stride, "algorithm": "winograd4"}
    for function, shapes in (
        (fc.conv2d, operands), (fc.conv2d_grad_weight, ((1, 16, 12, 12), *operands)),
    ):  # fmt: skip
        plan = fc.explain(function, *shapes, **options).winograd
        assert (plan["m"], plan["products"]) == (m, (12 // m * axis) ** 2)


def tolerance(x, weight, groups):
    """Winograd's own bound is tile-wise; normal data stay far within this share of it."""
    depth = x.shape[1] // groups * weight.shape[2] * weight.shape[3]
    return 4e-6 * math.sqrt(depth) * max(1.0, float(np.abs(x).max(initial=0))) * 4


@pytest.mark.parametrize("case", params([*winograd_cases(), *STRIDED]))
def test_against_the_reference(case, isa, rng):
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    bias = normals((case.k,), rng)
    expected = reference.conv2d(
        x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64), **case.arguments
    )
    residual = normals(expected.shape, rng)
    expected = np.maximum(expected + residual, 0)
    grad = normals(expected.shape, rng)
    back = reference.conv2d_grad_input(
        grad.astype(np.float64), weight.astype(np.float64), x.shape, **case.arguments
    )
    for algorithm in names(taps_of(case)):
        for order in ("C", "channels_last"):
            out = poisoned(expected.shape, order=order)
            fc.conv2d(
                in_order(x, order), weight, bias, residual=in_order(residual, order), out=out,
                activation="relu", algorithm=algorithm, **case.arguments
            )  # fmt: skip
            bound = error_bound(algorithm, taps_of(case))
            limit = tolerance(x, weight, case.groups) * bound / 2e-6
            assert np.abs(out - expected).max(initial=0) < limit
            assert_only_wrote(out)
            if case.stride != (1, 1):
                with pytest.raises(ValueError, match="grad_input of a stride is several"):
                    fc.conv2d_grad_input(
                        grad, weight, x.shape, algorithm=algorithm, **case.arguments
                    )
                continue
            out = poisoned(back.shape, order=order)
            fc.conv2d_grad_input(
                in_order(grad, order), weight, x.shape, out=out, algorithm=algorithm,
                **case.arguments
            )  # fmt: skip
            assert np.abs(out - back).max(initial=0) < limit * math.sqrt(case.k / case.c + 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("r", "stride", "c"), [(3, 1, 19), (7, 1, 19), (5, 2, 19), (11, 4, 3)])
def test_any_strides_give_the_same_bits(order, r, stride, c, isa, rng):
    x, weight = normals((2, c, 11, 13), rng), normals((70, c, r, r), rng)
    for algorithm in names(3):
        options = {"stride": stride, "padding": r // 2, "algorithm": algorithm}
        expected = fc.conv2d(x, weight, **options)
        out = poisoned(expected.shape, order=order)
        fc.conv2d(in_order(x, order), in_order(weight, order), out=out, **options)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("r", [3, 5, 6, 7])
@pytest.mark.parametrize("batch", [1, 9])
def test_grad_input_has_the_same_bits_for_any_strides(order, r, batch, isa, rng):
    """Of 70 columns 64 are a full panel, whose taps are read in place; by tasks or once a call."""
    shape, side = (batch, 70, 11, 13), (r - 1) // 2
    grad, weight = normals((batch, 19, 11, 13), rng), normals((19, 70, r, r), rng)
    grad = grad[:, :, : 11 + 2 * side - r + 1, : 13 + 2 * side - r + 1]
    for algorithm in names(5 if r == 5 else 3):
        options = {"padding": side, "algorithm": algorithm}
        expected = fc.conv2d_grad_input(grad, weight, shape, **options)
        operands = in_order(grad, order), in_order(weight, order)
        assert_exact(fc.conv2d_grad_input(*operands, shape, **options), expected)


@pytest.mark.parametrize(("r", "stride", "c"), [(3, 1, 24), (7, 1, 24), (5, 2, 24), (11, 4, 5)])
def test_same_bits_for_any_thread_count_and_batch(r, stride, c, isa, rng):
    x, weight = normals((5, c, 10, 9), rng), normals((130, c, r, r), rng)
    before = _core.num_threads()
    for algorithm in names(3):
        options = {"stride": stride, "padding": r // 2, "algorithm": algorithm}
        expected = fc.conv2d(x, weight, **options)
        for threads in (1, 3, 8):
            _core.set_num_threads(threads)
            try:
                again = fc.conv2d(x, weight, **options)
            finally:
                _core.set_num_threads(before)
            assert np.array_equal(again, expected)
        for n in range(5):
            one = fc.conv2d(x[n : n + 1], weight, **options)
            assert np.array_equal(one[0], expected[n])


@pytest.mark.parametrize("channels", [40, 66])
def test_parts_of_more_panels_than_wider_ones(channels, isa, rng):
    """560 columns in two parts: 17 vectors of 16 are six panels, 18 are five."""
    x, weight = normals((1, channels, 8, 7), rng), normals((560, channels, 4, 4), rng)
    options = {"padding": 2, "algorithm": "winograd4"}
    expected = fc.conv2d(x, fc.pack_weight(weight), **options)
    before = _core.num_threads()
    for threads in (1, 2, 4):
        _core.set_num_threads(threads)
        try:
            assert np.array_equal(fc.conv2d(x, weight, **options), expected)
        finally:
            _core.set_num_threads(before)


@pytest.mark.parametrize("r", [3, 4])
@pytest.mark.parametrize("channels", [65, 127, 128, 129, 193, 256, 300])
def test_chunks_of_channels_have_the_bits_of_whole_blocks(channels, r, isa, rng):
    """A task transforms 64 channels at a time; of weights packed ahead 128 are summed at once."""
    x, weight = normals((1, channels, 8, 7), rng), normals((40, channels, r, r), rng)
    options = {"padding": r // 2, "algorithm": "winograd4"}
    assert fc.explain(fc.conv2d, x, weight, **options).workspace_bytes == 0
    packed = fc.conv2d(x, fc.pack_weight(weight), **options)
    assert np.array_equal(fc.conv2d(x, weight, **options), packed)


@pytest.mark.parametrize(
    ("algorithm", "channels", "r"),
    [
        ("winograd2", 64, 3),
        ("winograd4", 64, 3),
        ("winograd4", 512, 3),
        ("winograd2", 128, 5),
        ("winograd6", 64, 3),
        ("winograd6", 512, 3),
        ("winograd4", 128, 5),
        ("winograd4", 128, 9),
        ("winograd2", 128, 7),
        ("winograd6", 64, 11),
        ("winograd4", 512, 4),
        ("winograd4", 3, 11),
    ],
)
def test_relative_error_is_within_the_contract(algorithm, channels, r, isa, rng):
    """ReLU'd normal inputs, He weights, relative L2 error against float64."""
    size, stride = (12, 1) if channels > 3 else (48, 4)  # AlexNet's first layer
    x = np.maximum(normals((1, channels, size, size), rng), 0)
    weight = normals((32, channels, r, r), rng) * np.float32(math.sqrt(2 / (channels * r * r)))
    options = {"padding": r // 2, "stride": stride}
    exact = reference.conv2d(x.astype(np.float64), weight.astype(np.float64), **options)
    actual = fc.conv2d(x, weight, algorithm=algorithm, **options)
    bound = error_bound(algorithm, 5 if r == 5 else 3)
    assert np.linalg.norm(actual - exact) / np.linalg.norm(exact) < bound


@pytest.mark.parametrize(
    ("shape", "kernel", "arguments", "reason"),
    [
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 4}, "stride is larger than the kernel"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"dilation": 2}, "dilated"),
        ((1, 3, 8, 8), (4, 3, 1, 1), {}, "one row or column of taps"),
        ((1, 3, 8, 8), (4, 3, 7, 1), {}, "one row or column of taps"),
        ((1, 3, 8, 8), (0, 3, 3, 3), {}, "there are no channels"),
    ],
)
def test_what_it_cannot_do_is_said(shape, kernel, arguments, reason):
    x, weight = np.zeros(shape, np.float32), np.zeros(kernel, np.float32)
    with pytest.raises(ValueError, match=f"'winograd4' cannot do this problem: winograd.*{reason}"):
        fc.conv2d(x, weight, algorithm="winograd4", **arguments)
    with pytest.raises(ValueError, match="float64 has none"):
        fc.conv2d(x.astype(float), weight.astype(float), algorithm="winograd4", **arguments)


def test_5x5_has_variants_of_its_own():
    x, weight = np.zeros((1, 3, 8, 8), np.float32), np.zeros((4, 3, 5, 5), np.float32)
    with pytest.raises(ValueError, match="'winograd6' cannot do this problem: winograd6: a 5x5"):
        fc.conv2d(x, weight, algorithm="winograd6")
    assert fc.explain(fc.conv2d, x, weight, algorithm="winograd2").winograd["subkernels"] == 1
