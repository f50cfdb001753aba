"""float32 precision "high" on CUDA: three tf32 products for one (csrc/cuda/tf32.cuh). How exact it
is, what it does with infinities, NaN, very large and very small numbers. That each kernel is right
in general is in tests/test_cuda_conv.py, when the plan takes it in tests/test_cuda_plan.py."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cases import conv
from cuda_support import directions, forced_kernels, host, on_gpu
from fastconv import reference
from support import assert_within_bound, integers
from test_cuda_conv import Problem, check_exact, terms_of

KERNELS = [one for one in forced_kernels() if one.values[1].endswith("_3xtf32")]
PRODUCT = 2.0**-21  # docs/numerics.md
LARGEST_SPLIT = np.float32(2.0**128 - 2.0**116)  # beyond it operands are tf32 alone


def computed(problem, direction, kernel, precision="high", order="channels_last"):
    with fc.cuda.kernel(kernel), fc.float32_precision(precision):
        return host(problem.run(direction, "float32", order))


def magnitude(problem, direction):
    """sum |a| |b|."""
    absolute = Problem(problem.case, np.random.default_rng(0))
    for name in ("x", "weight", "grad"):
        setattr(absolute, name, np.abs(getattr(problem, name)))
    return absolute.expected(direction)


def relu_and_he(case, rng):
    """ReLU'd normal inputs, He weights, normal gradients, as in tests/test_winograd.py."""
    problem = Problem(case, rng, lambda shape, rng: rng.standard_normal(shape).astype(np.float32))
    problem.x = np.maximum(problem.x, 0)
    problem.weight *= np.float32(np.sqrt(2 / np.prod(problem.weight.shape[1:])))
    return problem


def distance(actual, expected):
    """Relative L2."""
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("c", [16, 64, 512])
@pytest.mark.parametrize(("direction", "kernel"), KERNELS)
def test_error(direction, kernel, c, rng):
    """Of sums of 144 to 4608 products: as small as exact float32's, a thousandth of tf32's, and
    no larger for longer sums, because tensor cores add at most 32 terms in a chain."""
    forward = "n1c{}h8w6-k16r3s3-pad1" if direction == "conv2d" else "n1c16h8w6-k{}r3s3-pad1"
    sums = f"n{c // 16}c16h16w9-k16r3s3-pad1"  # over 144 positions an image
    case = conv(sums if direction == "conv2d_grad_weight" else forward.format(c))
    problem = relu_and_he(case, rng)
    expected = problem.expected(direction)
    actual = computed(problem, direction, kernel)
    error = distance(actual, expected)
    exact = distance(computed(problem, direction, "simt_64x64", "highest"), expected)
    tf32 = distance(computed(problem, direction, "sm80_64x64", "tf32"), expected)
    assert error < 5e-7
    assert error < 4 * exact
    assert error < tf32 / 500
    terms = terms_of(direction, case, problem)
    chain, chains = 12 * 2.0**-23, terms / 16 * 2.0**-24
    bound = (PRODUCT + chain + chains) * magnitude(problem, direction)
    assert_within_bound(actual, expected, bound)


SPECIAL = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)


@pytest.mark.parametrize("order", ["channels_last", "C"])
@pytest.mark.parametrize(("direction", "kernel"), KERNELS)
def test_infinities_and_nan_are_what_exact_float32_makes_of_them(direction, kernel, order, rng):
    """The other factor's low part, which may be 0 or of the other sign, must not meet them."""
    case = conv("n2c16h7w5-k24r1s1")
    problem = Problem(case, rng, integers)
    for operand in (problem.x, problem.weight, problem.grad):
        # Half of the values have no low part, and the others' are of either sign.
        operand *= rng.choice(np.float32([1, 1.2345678, 5432.1, 7.6e-20]), operand.shape)
        where = rng.random(operand.shape)
        for i, value in enumerate(SPECIAL):
            operand[(where >= 0.006 * i) & (where < 0.006 * (i + 1))] = value
    if order == "C" and "128" in kernel:
        pytest.skip("reads 16 bytes at a time")
    actual = computed(problem, direction, kernel, order=order)
    exact = computed(problem, direction, "simt_64x64", "highest", order=order)
    special = ~np.isfinite(exact)
    assert np.isnan(exact).any()
    assert np.isposinf(exact).any()
    assert np.isneginf(exact).any()
    assert np.isfinite(exact).any()
    np.testing.assert_array_equal(actual[special], exact[special])
    with np.errstate(invalid="ignore"):
        bound = 1e-6 * magnitude(problem, direction)[~special]
    assert_within_bound(actual[~special], exact[~special], bound)


def products(kernel, x, weight):
    """x[i] * weight[k] for each i and k, by 1x1 kernels over one channel of eight."""
    image = np.zeros((1, 8, 1, x.size), np.float32)
    image[0, 3, 0] = x
    filters = np.zeros((weight.size, 8, 1, 1), np.float32)
    filters[:, 3, 0, 0] = weight
    with fc.cuda.kernel(kernel), fc.float32_precision("high"):
        y = fc.conv2d(on_gpu(image, order="channels_last"), on_gpu(filters))
    return host(y)[0, :, 0].T


@pytest.mark.parametrize("kernel", [one.values[1] for one in KERNELS if one.values[0] == "conv2d"])
def test_very_large_and_very_small_numbers(kernel, rng):
    mantissas = 1 + rng.random(64)
    weight = np.concatenate([mantissas, -mantissas[::3], [1.0, 0.0]]).astype(np.float32)

    largest = float(np.finfo(np.float32).max)

    def check(x, relative, absolute):
        exact = x.astype(np.float64)[:, None] * weight
        y = products(kernel, x, weight)
        bound = relative * np.abs(exact) + absolute
        inside, outside = (np.abs(exact) < largest - bound), (np.abs(exact) > largest + bound)
        assert (np.abs(y - exact)[inside] <= bound[inside]).all()
        # Beyond float32's range the low parts' products may have become infinite before the sum.
        assert not np.isfinite(y[outside]).any()
        assert inside.any()

    rounding = 2.0**-22  # of adding three products
    below = LARGEST_SPLIT * np.float32([1 - 2.0**-24, 1 - 2.0**-13, 0.5, 0.3])
    check(np.concatenate([below, -below]).astype(np.float32), PRODUCT + rounding, 0)
    check(np.float32([largest, -largest, LARGEST_SPLIT]), 2.0**-10, 0)
    # Their low parts are subnormal, which hardware may take for 0.
    tiny = (mantissas * 2.0 ** rng.integers(-126, -102, 64)).astype(np.float32)
    check(tiny, PRODUCT + rounding, 3 * 2.0**-126)
    assert (products(kernel, np.zeros(3, np.float32), weight) == 0).all()


@pytest.mark.parametrize(("direction", "kernel"), KERNELS)
def test_sums_in_splits(direction, kernel, rng):
    cases = {
        "conv2d": "n1c2080h3w4-k72r1s1",
        "conv2d_grad_input": "n1c72h3w4-k2080r1s1",
        "conv2d_grad_weight": "n1c8h60w40-k8r1s1",
    }
    case = conv(cases[direction])
    problem = Problem(case, rng)
    shapes = [getattr(one, "shape", one) for one in problem.operands(direction)]
    with fc.cuda.kernel(kernel), fc.float32_precision("high"):
        plan = fc.explain(directions()[direction], *shapes, device="cuda:90x132", **case.arguments)
        assert plan.splits > 1
        assert (plan.kernel, plan.arithmetic) == (kernel, "3xtf32")
        check_exact(problem, direction, "float32", "channels_last")


def test_linear_and_verify(rng):
    x = rng.standard_normal((40, 700)).astype(np.float32)
    weight, bias = rng.standard_normal((136, 700)).astype(np.float32), np.ones(136, np.float32)
    operands = [fc.cuda.asarray(a) for a in (x, weight, bias)]
    with fc.cuda.kernel("sm80_64x64_3xtf32"), fc.float32_precision("high"):
        y = host(fc.linear(*operands))
        assert fc.verify(fc.linear, *operands)
    expected = reference.linear(*(a.astype(np.float64) for a in (x, weight, bias)))
    assert distance(y, expected) < 5e-7
    assert distance(y, host(fc.linear(*operands))) > 0  # other arithmetic


def test_high_leaves_16_bits_alone(rng):
    x, weight = rng.standard_normal((2, 16, 9, 8)), rng.standard_normal((24, 16, 3, 3))
    placed = on_gpu(x, "bfloat16", "channels_last"), on_gpu(weight, "bfloat16")
    y = host(fc.conv2d(*placed, padding=1))
    with fc.float32_precision("high"):
        np.testing.assert_array_equal(host(fc.conv2d(*placed, padding=1)), y)
        with fc.cuda.kernel("sm80_64x64_3xtf32"), pytest.raises(ValueError, match="this dtype"):
            fc.conv2d(*placed, padding=1)
