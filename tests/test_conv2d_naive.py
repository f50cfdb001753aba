"""algorithm="naive": all directions of every problem against the reference, by the definition."""

import cases
import fastconv as fc
import numpy as np
import pytest
from fastconv import _core, reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    in_order,
    integers,
    normals,
    params,
    poisoned,
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(cases.CONV))
def test_all_directions_are_exact(case, dtype, rng):
    x, weight = integers(case.input_shape, rng, dtype), integers(case.weight_shape, rng, dtype)
    y = reference.conv2d(x, weight, **case.arguments)
    out = poisoned(y.shape, dtype)
    fc.conv2d(x, weight, algorithm="naive", out=out, **case.arguments)
    assert_exact(out, y)

    grad = integers(y.shape, rng, dtype)
    out = poisoned(x.shape, dtype)
    fc.conv2d_grad_input(grad, weight, x.shape, algorithm="naive", out=out, **case.arguments)
    assert_exact(out, reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments))

    out = poisoned(weight.shape, dtype)
    fc.conv2d_grad_weight(grad, x, weight.shape, algorithm="naive", out=out, **case.arguments)
    expected = reference.conv2d_grad_weight(grad, x, weight.shape, **case.arguments)
    assert_exact(out, expected)
    fc.conv2d_grad_weight(
        grad, x, weight.shape, algorithm="naive", out=out, accumulate=True, **case.arguments
    )
    assert_exact(out, 2 * expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(cases.CONV_FEW))
def test_any_strides(case, order, rng):
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    bias = integers((case.k,), rng)
    y = reference.conv2d(x, weight, bias, **case.arguments)
    residual, grad = integers(y.shape, rng), integers(y.shape, rng)
    moved = [in_order(a, order) for a in (x, weight, bias, residual, grad)]

    out = poisoned(y.shape, order=order)
    fc.conv2d(
        *moved[:3], residual=moved[3], activation="relu", algorithm="naive", out=out,
        **case.arguments,
    )  # fmt: skip
    assert_exact(out, np.maximum(y + residual, 0))
    assert_only_wrote(out)

    out = poisoned(x.shape, order=order)
    fc.conv2d_grad_input(moved[4], moved[1], x.shape, algorithm="naive", out=out, **case.arguments)
    assert_exact(out, reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments))
    assert_only_wrote(out)

    out = poisoned(weight.shape, order=order)
    fc.conv2d_grad_weight(
        moved[4], moved[0], weight.shape, algorithm="naive", out=out, **case.arguments
    )
    assert_exact(out, reference.conv2d_grad_weight(grad, x, weight.shape, **case.arguments))
    assert_only_wrote(out)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("case", params(cases.CONV_FEW))
def test_same_bits_for_any_thread_count(case, threads, rng):
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    grad = normals(reference.conv2d(x, weight, **case.arguments).shape, rng)

    def all_directions():
        options = {"algorithm": "naive", **case.arguments}
        return (
            fc.conv2d(x, weight, **options),
            fc.conv2d_grad_input(grad, weight, x.shape, **options),
            fc.conv2d_grad_weight(grad, x, weight.shape, **options),
        )

    before = _core.num_threads()
    try:
        _core.set_num_threads(1)
        expected = all_directions()
        _core.set_num_threads(threads)
        for actual, wanted in zip(all_directions(), expected, strict=True):
            assert np.array_equal(actual, wanted)
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_as_in_the_reference(value, rng):
    """In every operand: padding is a zero that takes part, a gap between outputs is none."""
    case = cases.conv("n1c3h7w8-k4r3s3-st2-pad1")
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    grad = normals(reference.conv2d(x, weight, **case.arguments).shape, rng)
    options = {"algorithm": "naive", **case.arguments}
    for operand in (x, weight, grad):
        kept = operand[0, 1, 0, 2]
        operand[0, 1, 0, 2] = value
        with np.errstate(invalid="ignore"):
            expected = (
                reference.conv2d(x, weight, **case.arguments),
                reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments),
                reference.conv2d_grad_weight(grad, x, weight.shape, **case.arguments),
            )
        actual = (
            fc.conv2d(x, weight, **options),
            fc.conv2d_grad_input(grad, weight, x.shape, **options),
            fc.conv2d_grad_weight(grad, x, weight.shape, **options),
        )
        for a, e in zip(actual, expected, strict=True):
            assert np.array_equal(np.isnan(a), np.isnan(e))
            assert np.array_equal(np.where(np.isinf(a), a, 0), np.where(np.isinf(e), e, 0))
        operand[0, 1, 0, 2] = kept


def test_deep_sums_are_blocked():
    """One accumulator over 2**15 equal terms drifts to a relative error of 2.6e-4."""
    depth = 1 << 15
    x, weight = np.full((1, depth, 1, 1), 0.1, np.float32), np.ones((1, depth, 1, 1), np.float32)
    y = float(fc.conv2d(x, weight, algorithm="naive")[0, 0, 0, 0])
    assert abs(y / (depth * float(np.float32(0.1))) - 1) < 1e-5
