"""algorithm="naive": all directions by the definition."""

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import check_bounds, check_exact, check_same_bits, check_special_values
from support import ORDERS, params


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(cases.CONV))
def test_exact(case, dtype, rng):
    check_exact(case, "naive", rng, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(cases.CONV_FEW))
def test_any_strides(case, order, rng):
    check_exact(case, "naive", rng, order=order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(cases.CONV_FEW))
def test_rounding_error_is_within_the_bound(case, dtype, rng):
    check_bounds(case, "naive", rng, dtype)


@pytest.mark.parametrize("case", params(cases.CONV_FEW))
def test_same_bits_for_any_thread_count_and_batch(case, rng):
    check_same_bits(case, "naive", rng)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_as_in_the_reference(value, rng):
    """In every operand: padding is a zero that takes part, a gap between outputs is none."""
    case = cases.conv("n1c3h7w8-k4r3s3-st2-pad1")
    check_special_values(case, "naive", value, rng, every_operand=True)


def test_deep_sums_are_blocked():
    """One accumulator over 2**15 equal terms drifts to a relative error of 2.6e-4."""
    depth = 1 << 15
    x, weight = np.full((1, depth, 1, 1), 0.1, np.float32), np.ones((1, depth, 1, 1), np.float32)
    y = float(fc.conv2d(x, weight, algorithm="naive")[0, 0, 0, 0])
    assert abs(y / (depth * float(np.float32(0.1))) - 1) < 1e-5
