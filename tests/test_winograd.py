"""Winograd: the matrices derived again with rational numbers, the error, the edges."""

import math
from fractions import Fraction

import fastconv as fc
import numpy as np
import pytest
from cases import CONV, conv
from fastconv import _core, reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, normals, params, poisoned

POINTS = {
    ("winograd2", 3): [Fraction(0), Fraction(1), Fraction(-1)],
    ("winograd4", 3): [Fraction(p) for p in ("0", "5/8", "-5/8", "3/2", "-3/2")],
    ("winograd2", 5): [Fraction(p) for p in ("0", "5/8", "-5/8", "3/2", "-3/2")],
    ("winograd6", 3): [Fraction(p) for p in ("0", "1/2", "-1/2", "1", "-1", "2", "-2")],
    ("winograd4", 5): [Fraction(p) for p in ("0", "1/2", "-1/2", "1", "-1", "2", "-2")],
}
OUTPUTS = {"winograd2": 2, "winograd4": 4, "winograd6": 6}


def names(r):
    return [algorithm for algorithm, kernel in POINTS if kernel == r]


def taps_of(case):
    """5, or 3 with other kernels cut into subkernels of so many taps."""
    return 5 if case.r == case.s == 5 else 3


def error_bound(algorithm, r):
    """Relative L2, of what `auto` takes at the highest precision and what "high" allows beside."""
    return 2e-6 if len(POINTS[algorithm, r]) < 7 else 8e-6


def toom_cook(points, m, r):
    """A^T (m, alpha), G (alpha, r), B^T (alpha, alpha) of F(m, r) over `points` and infinity."""
    alpha = m + r - 1
    assert len(points) == alpha - 1

    def product(roots):
        poly = [Fraction(1)]
        for root in roots:  # multiply by (x - root); lowest power first
            poly = [
                (poly[i - 1] if i > 0 else 0) - root * (poly[i] if i < len(poly) else 0)
                for i in range(len(poly) + 1)
            ]
        return poly

    at, g, bt = [[] for _ in range(m)], [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = math.prod(p - q for q in others)
        bt.append([*product(others), Fraction(0)])
        g.append([p**j / scale for j in range(r)])
        for j in range(m):
            at[j].append(p**j)
    bt.append(product(points))
    g.append([Fraction(int(j == r - 1)) for j in range(r)])
    for j in range(m):
        at[j].append(Fraction(int(j == m - 1)))
    return at, g, bt


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_rational_matrices_are_an_exact_convolution(algorithm, r):
    m = OUTPUTS[algorithm]
    at, g, bt = toom_cook(POINTS[algorithm, r], m, r)
    kernel = [Fraction(3 * i * i - 7, 5) for i in range(r)]
    data = [Fraction(2 * i + 1, 3) for i in range(m + r - 1)]
    u = [sum(a * b for a, b in zip(row, kernel, strict=True)) for row in g]
    v = [sum(a * b for a, b in zip(row, data, strict=True)) for row in bt]
    y = [sum(a * p * q for a, p, q in zip(row, u, v, strict=True)) for row in at]
    assert y == [sum(kernel[i] * data[i + j] for i in range(r)) for j in range(m)]


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_kernels_use_those_matrices(algorithm, r, isa):
    """One tile in float32 against the rational transform in float64: a wrong constant shows."""
    m = OUTPUTS[algorithm]
    at, g, bt = (np.array(a, dtype=np.float64) for a in toom_cook(POINTS[algorithm, r], m, r))
    rng = np.random.default_rng(0)
    for _ in range(20):
        d, w = rng.standard_normal((m + r - 1,) * 2), rng.standard_normal((r, r))
        d, w = d.astype(np.float32), w.astype(np.float32)
        expected = at @ ((g @ w @ g.T) * (bt @ d @ bt.T)) @ at.T
        actual = fc.conv2d(d[None, None], w[None, None], algorithm=algorithm)[0, 0]
        assert np.abs(actual - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


# Whole subkernels and those of fewer taps, several panels and blocks of depth, tiny maps.
SUBKERNELS = [
    conv("n2c19h13w12-k70r2s2-pad1"),
    conv("n1c130h9w10-k20r4s4-pad2"),
    conv("n3c12h14w13-k130r6s6-pad3-g2"),
    conv("n2c7h17w15-k9r7s7-pad3"),
    conv("n1c66h12w13-k65r9s9-pad4"),
    conv("n1c3h16w14-k5r11s10-pad5"),
    conv("n2c18h9w12-k24r2s7-pad0x3"),
    conv("n2c18h12w9-k24r8s3-pad4x1"),
    conv("n1c16h3w2-k16r6s5-pad2"),
]


def winograd_cases():
    usual = [
        case for case in CONV
        if min(case.r, case.s) > 1 and case.stride == case.dilation == (1, 1)
    ]  # fmt: skip
    return [*usual, *SUBKERNELS]


def tolerance(x, weight, groups):
    """Winograd's own bound is tile-wise; normal data stay far within this share of it."""
    depth = x.shape[1] // groups * weight.shape[2] * weight.shape[3]
    return 4e-6 * math.sqrt(depth) * max(1.0, float(np.abs(x).max(initial=0))) * 4


@pytest.mark.parametrize("case", params(winograd_cases()))
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
            out = poisoned(back.shape, order=order)
            fc.conv2d_grad_input(
                in_order(grad, order), weight, x.shape, out=out, algorithm=algorithm,
                **case.arguments
            )  # fmt: skip
            assert np.abs(out - back).max(initial=0) < limit * math.sqrt(case.k / case.c + 1)


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_the_gradient_uses_the_matrices_transposed(algorithm, r, isa):
    """One tile of output positions against G^T [(B^T x B) * (A dy A^T)] G in float64."""
    m = OUTPUTS[algorithm]
    at, g, bt = (np.array(a, dtype=np.float64) for a in toom_cook(POINTS[algorithm, r], m, r))
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, dy = rng.standard_normal((m + r - 1,) * 2), rng.standard_normal((m, m))
        x, dy = x.astype(np.float32), dy.astype(np.float32)
        expected = g.T @ ((bt @ x @ bt.T) * (at.T @ dy @ at)) @ g
        actual = fc.conv2d_grad_weight(
            dy[None, None], x[None, None], (1, 1, r, r), algorithm=algorithm
        )[0, 0]
        assert np.abs(actual - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


# Sums in several runs of blocks, parts of channels and of filters, panels that are not full, maps
# smaller than a tile.
GRADIENTS = [
    conv("n9c33h13w14-k70r3s3-pad1"),
    conv("n1c260h7w7-k150r3s3-pad1"),
    conv("n40c17h6w5-k65r3s3-pad1x2"),
    conv("n12c40h22w21-k24r3s3-pad1-g2"),
    conv("n3c5h3w3-k9r3s3-pad1"),
    conv("n2c130h1w2-k20r3s3-pad2"),
    conv("n6c36h15w17-k80r5s5-pad2"),
]


@pytest.mark.parametrize("case", params([*winograd_cases(), *GRADIENTS]))
def test_the_gradient_against_the_reference(case, isa, rng):
    x = normals(case.input_shape, rng)
    shape = fc.conv2d_output_shape(x.shape, case.weight_shape, padding=case.padding)
    grad = normals(shape, rng)
    exact = reference.conv2d_grad_weight(
        grad.astype(np.float64), x.astype(np.float64), case.weight_shape, **case.arguments
    )
    for algorithm in names(taps_of(case)):
        for order in ("C", "channels_last"):
            out = poisoned(case.weight_shape, order=order)
            options = {"algorithm": algorithm, "out": out, **case.arguments}
            arrays = in_order(grad, order), in_order(x, order)
            fc.conv2d_grad_weight(*arrays, case.weight_shape, **options)
            limit = error_bound(algorithm, taps_of(case)) * np.linalg.norm(exact)
            assert np.linalg.norm(out - exact) <= limit
            fc.conv2d_grad_weight(*arrays, case.weight_shape, accumulate=True, **options)
            assert np.linalg.norm(out - 2 * exact) <= 2 * limit
            assert_only_wrote(out)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("r", [3, 7])
def test_the_gradient_has_the_same_bits_for_any_strides(order, r, isa, rng):
    shape = (70, 19, r, r)
    x, grad = normals((5, 19, 11, 13), rng), normals((5, 70, 11, 13), rng)
    for algorithm in names(3):
        options = {"padding": r // 2, "algorithm": algorithm}
        expected = fc.conv2d_grad_weight(grad, x, shape, **options)
        out = poisoned(shape, order=order)
        arrays = in_order(grad, order), in_order(x, order)
        fc.conv2d_grad_weight(*arrays, shape, out=out, **options)
        assert np.array_equal(out, expected)
        assert_only_wrote(out)


@pytest.mark.parametrize("case", params([*GRADIENTS, *SUBKERNELS]))
def test_the_gradient_has_the_same_bits_for_any_thread_count(case, isa, rng):
    x = normals(case.input_shape, rng)
    shape = fc.conv2d_output_shape(x.shape, case.weight_shape, padding=case.padding)
    grad = normals(shape, rng)
    before = _core.num_threads()
    for algorithm in names(taps_of(case)):
        results = []
        for threads in (1, 2, 3, 16):
            _core.set_num_threads(threads)
            try:
                results.append(
                    fc.conv2d_grad_weight(
                        grad, x, case.weight_shape, algorithm=algorithm, **case.arguments
                    )
                )
            finally:
                _core.set_num_threads(before)
        for result in results[1:]:
            assert np.array_equal(result, results[0])


@pytest.mark.parametrize("algorithm", names(3))
def test_the_gradient_keeps_nan_to_its_channel_and_filter(algorithm, isa, rng):
    x, grad = normals((2, 19, 7, 8), rng), normals((2, 21, 7, 8), rng)
    x[1, 4, 3, 3], grad[0, 5, 3, 3] = np.nan, np.inf
    result = fc.conv2d_grad_weight(grad, x, (21, 19, 3, 3), padding=1, algorithm=algorithm)
    assert np.isnan(result[:, 4]).all()
    assert not np.isfinite(result[5]).any()
    rest = np.delete(np.delete(result, 4, axis=1), 5, axis=0)
    assert np.isfinite(rest).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("r", [3, 7])
def test_any_strides_give_the_same_bits(order, r, isa, rng):
    x, weight = normals((2, 19, 11, 13), rng), normals((70, 19, r, r), rng)
    for algorithm in names(3):
        options = {"padding": r // 2, "algorithm": algorithm}
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


@pytest.mark.parametrize("r", [3, 7])
def test_same_bits_for_any_thread_count_and_batch(r, isa, rng):
    x, weight = normals((5, 24, 10, 9), rng), normals((130, 24, r, r), rng)
    before = _core.num_threads()
    for algorithm in names(3):
        options = {"padding": r // 2, "algorithm": algorithm}
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
    ],
)
def test_relative_error_is_within_the_contract(algorithm, channels, r, isa, rng):
    """ReLU'd normal inputs, He weights, relative L2 error against float64."""
    x = np.maximum(normals((1, channels, 12, 12), rng), 0)
    weight = normals((32, channels, r, r), rng) * np.float32(math.sqrt(2 / (channels * r * r)))
    exact = reference.conv2d(x.astype(np.float64), weight.astype(np.float64), padding=r // 2)
    actual = fc.conv2d(x, weight, padding=r // 2, algorithm=algorithm)
    bound = error_bound(algorithm, 5 if r == 5 else 3)
    assert np.linalg.norm(actual - exact) / np.linalg.norm(exact) < bound


@pytest.mark.parametrize(
    ("algorithm", "channels", "size", "r"),
    [*((name, 16, 68, r) for name, r in POINTS), ("winograd4", 16, 68, 7), ("winograd4", 8, 68, 4)],
)
def test_the_gradients_relative_error_is_within_the_contract(
    algorithm, channels, size, r, isa, rng
):
    """ReLU'd normal inputs, normal grad_output, 4624 positions an image."""
    x = np.maximum(normals((2, channels, size, size), rng), 0)
    out = size + 2 * (r // 2) - r + 1
    grad = normals((2, 24, out, out), rng)
    shape = (24, channels, r, r)
    exact = fc.conv2d_grad_weight(
        grad.astype(np.float64), x.astype(np.float64), shape, padding=r // 2
    )
    actual = fc.conv2d_grad_weight(grad, x, shape, padding=r // 2, algorithm=algorithm)
    bound = error_bound(algorithm, 5 if r == 5 else 3)
    assert np.linalg.norm(actual - exact) / np.linalg.norm(exact) < bound


def test_the_batch_does_not_choose_the_gradients_algorithm():
    for size, channels in ((56, 64), (14, 256), (7, 512), (7, 24), (4, 16)):
        names = {
            fc.explain(
                fc.conv2d_grad_weight, (n, channels, size, size), (n, channels, size, size),
                (channels, channels, 3, 3), padding=1, threads=threads,
            ).algorithm
            for n in (1, 8, 256) for threads in (1, 64)
        }  # fmt: skip
        assert len(names) == 1, names


@pytest.mark.parametrize(
    ("shape", "kernel", "arguments", "reason"),
    [
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 2}, "strided or dilated"),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"dilation": 2}, "strided or dilated"),
        ((1, 3, 8, 8), (4, 3, 1, 1), {}, "one row or column of taps"),
        ((1, 3, 8, 8), (4, 3, 7, 1), {}, "one row or column of taps"),
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


@pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_grad_input, fc.conv2d_grad_weight])
def test_auto_takes_it_for_large_kernels(function):
    shape, kernel, output = (1, 64, 32, 32), (64, 64, 9, 9), (1, 64, 24, 24)
    plan = fc.explain(function, *FUNCTIONS[function](shape, kernel, output))
    assert (plan.algorithm, plan.winograd["subkernels"]) == ("winograd4", 9)
    assert "9 subkernels of 3 x 3" in str(plan)


SHAPES = [((1, c, size, size), (k, c, r, r), r // 2) for c, k, size, r in (
    (64, 64, 56, 3), (512, 512, 14, 3), (16, 16, 32, 3), (128, 160, 7, 3), (64, 192, 27, 5),
)]  # fmt: skip
FUNCTIONS = {
    fc.conv2d: lambda x, w, y: (x, w),
    fc.conv2d_grad_input: lambda x, w, y: (y, w, x),
    fc.conv2d_grad_weight: lambda x, w, y: (y, x, w),
}


@pytest.mark.parametrize(("shape", "kernel", "padding"), SHAPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_precision_high_allows_wider_tiles_and_nothing_else(function, shape, kernel, padding):
    operands = FUNCTIONS[function](shape, kernel, (1, kernel[0], *shape[2:]))
    plan = fc.explain(function, *operands, padding=padding)
    wide = "winograd6" if kernel[2] == 3 else "winograd4"
    assert plan.algorithm != wide
    assert "precision" in plan.declined[wide]
    with fc.float32_precision("high"):
        high = fc.explain(function, *operands, padding=padding)
        assert "precision" not in high.declined.get(wide, "")
        assert high.algorithm in (wide, plan.algorithm)
    with fc.float32_precision("tf32"):
        assert fc.explain(function, *operands, padding=padding).algorithm == plan.algorithm
    # "winograd" is the best of them, of those that the precision allows.
    picked = fc.explain(function, *operands, padding=padding, algorithm="winograd").algorithm
    assert picked.startswith("winograd")
    assert picked != wide
    if plan.algorithm.startswith("winograd"):
        assert picked == plan.algorithm


def test_precision_high_reaches_the_kernels(rng):
    x, weight = normals((1, 32, 60, 60), rng), normals((32, 32, 3, 3), rng)
    grad = normals((1, 32, 60, 60), rng)
    packed = fc.pack_weight(weight)

    def calls(**options):
        return (
            fc.conv2d(x, weight, padding=1, **options),
            fc.conv2d_grad_input(grad, weight, x.shape, padding=1, **options),
            fc.conv2d_grad_weight(grad, x, weight.shape, padding=1, **options),
        )

    exact, named = calls(), calls(algorithm="winograd6")
    with fc.float32_precision("high"):
        for actual, wanted, other in zip(calls(), named, exact):
            assert np.array_equal(actual, wanted)
            assert not np.array_equal(actual, other)
        for actual, wanted in zip(calls(algorithm="winograd"), named):
            assert np.array_equal(actual, wanted)
        assert np.array_equal(fc.conv2d(x, packed, padding=1), named[0])
    assert packed.formats == ("F(6,3)",)


@pytest.mark.parametrize(
    ("function", "alone"), [(fc.conv2d, "direct"), (fc.conv2d_grad_input, "winograd2")]
)
def test_only_auto_batch_looks_at_the_batch(function, alone):
    """One tile an image: its products are fewer, but one image alone does not pay for U."""

    def taken(batch, **options):
        shape = (batch, 64, 4, 4)
        operands = FUNCTIONS[function](shape, (64, 64, 3, 3), shape)
        return fc.explain(function, *operands, padding=1, **options).algorithm

    assert taken(128) == taken(1) == taken(1, algorithm="auto_batch") == alone
    assert taken(128, algorithm="auto_batch") == "winograd4"


@pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_grad_input])
@pytest.mark.parametrize("size", [14, 28, 56])
def test_a_large_workspace_leaves_the_choice_alone(function, size):
    """U of 1024 -> 1024 is 151 MB, over the limit: each task makes its own then."""
    weight, taken = (1024, 1024, 3, 3), set()
    for batch in (1, 2, 8, 64):
        shape = (batch, 1024, size, size)
        operands = (shape, weight) if function is fc.conv2d else (shape, weight, shape)
        for threads in (1, 2, 4, 16, 64):
            plan = fc.explain(function, *operands, padding=1, threads=threads)
            taken.add((plan.algorithm, plan.workspace_bytes))
    assert taken == {("winograd4", 0)}


def test_layers_in_training_let_the_batch_decide(rng):
    layer = fc.layers.Conv2d(64, 64, 3, padding=1, bias=False)
    x = fc.channels_last(normals((64, 64, 7, 7), rng))
    weight, grad = layer.weight.data, fc.channels_last(normals(x.shape, rng))
    assert_exact(layer(x), fc.conv2d(x, weight, padding=1, algorithm="auto_batch"))
    options = {"padding": 1, "algorithm": "auto_batch"}
    assert_exact(layer.backward(grad), fc.conv2d_grad_input(grad, weight, x.shape, **options))
    expected = fc.conv2d_grad_weight(grad, x, weight.shape, **options)
    assert_exact(layer.weight.grad, expected)
    assert_exact(layer.eval()(x), fc.conv2d(x, weight, padding=1))
