"""The tests' own tools: they must be able to fail."""

import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    empty_in_order,
    in_order,
    integers,
    poisoned,
    sum_bound,
)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (4, 5), (7,), (0, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_orders_keep_values(order, shape, dtype, rng):
    array = integers(shape, rng, dtype)
    assert_exact(in_order(array, order), array)


def test_orders_are_what_they_say():
    shape = (2, 3, 4, 5)
    assert in_order(np.zeros(shape), "channels_last").transpose(0, 2, 3, 1).flags.c_contiguous
    assert in_order(np.zeros(shape), "transposed").flags.f_contiguous
    assert all(stride < 0 for stride in in_order(np.zeros(shape), "reversed").strides)
    assert in_order(np.zeros(shape), "channel_slice").strides[1] == 8
    assert in_order(np.zeros(shape), "sliced").strides[3] == 16


@pytest.mark.parametrize(("order", "offset"), [("guard_end", "size"), ("guard_begin", "-1")])
def test_a_touched_guard_page_is_a_crash(order, offset):
    program = (
        "import ctypes, numpy as np, support\n"
        f"a = support.in_order(np.ones(100), {order!r})\n"
        "size = a.size\n"
        "print(a.sum(), flush=True)\n"
        f"ctypes.c_double.from_address(a.ctypes.data + 8 * {offset}).value\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == "100.0"
    assert done.returncode < 0  # killed by a signal


@pytest.mark.parametrize("order", ["sliced", "channel_slice"])
def test_a_write_around_the_result_is_seen(order):
    out = poisoned((2, 3, 4, 5), order=order)
    out[...] = 1
    assert_only_wrote(out)
    assert (out == 1).all()
    out.base[0, 0, 0, 0] = 7
    with pytest.raises(AssertionError, match=r"1 elements outside .* \(0, 0, 0, 0\)"):
        assert_only_wrote(out)


def test_poison_is_everywhere():
    assert np.isnan(empty_in_order((2, 3, 4, 5), np.float32, "sliced").base).all()


def test_exact_comparison_sees_one_element():
    expected = np.array([1.0, np.nan, 0.0])
    assert_exact(np.array([1.0, np.nan, -0.0]), expected)
    with pytest.raises(AssertionError, match=r"1 of 3 .*\n.*at \(2,\)"):
        assert_exact(np.array([1.0, np.nan, 1e-30]), expected)
    with pytest.raises(AssertionError, match="shape"):
        assert_exact(expected[:1], expected[0])


@pytest.mark.parametrize("wrong", [1.2, np.nan, np.inf])
def test_bounds_name_the_worst_element(wrong):
    expected = np.array([1.0, 1.0, np.inf])
    assert_within_bound(np.array([1.0, 1.1, np.inf]), expected, 0.11)
    with pytest.raises(AssertionError, match=r"worst at \(1,\)"):
        assert_within_bound(np.array([1.0, wrong, np.inf]), expected, 0.11)
    with pytest.raises(AssertionError, match=r"at \(2,\)"):
        assert_within_bound(np.array([1.0, 1.0, 1e38]), expected, 0.11)


def test_sum_bound_is_n_eps_times_the_sum_of_magnitudes():
    a, b = np.array([3.0, -4.0]), np.array([-1.0, 1.0])
    bound = sum_bound(np.dot, a, b, terms=2)
    assert bound == pytest.approx(2 * np.finfo(np.float32).eps * 7)


@pytest.mark.parametrize(
    ("maker", "problems"),
    [
        (cases.conv, cases.CONV + cases.CONV_FEW),
        (cases.transpose, cases.CONV_TRANSPOSE),
        (cases.pool, cases.MAX_POOL),
        (cases.linear, cases.LINEAR),
    ],
)
def test_a_problem_can_be_made_from_its_name(maker, problems):
    for problem in problems:
        assert maker(problem.id, problem.full).id == problem.id


@pytest.mark.parametrize(
    "problems", [cases.CONV, cases.CONV_TRANSPOSE, cases.MAX_POOL, cases.LINEAR]
)
def test_no_problem_is_there_twice(problems):
    names = [problem.id for problem in problems]
    assert len(names) == len(set(names))
