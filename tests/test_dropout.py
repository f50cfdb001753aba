"""Dropout: the reference's mask, whatever the memory order, instruction set and thread count."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, normals, poisoned

SEEDS = (0, 5, 2**32 + 1, 2**64 - 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mask_of_the_reference(isa, rng, dtype):
    for size in [*range(1, 40), 127, 128, 129, 1023, 1025, 5000]:
        x = normals((size,), rng, dtype)
        for seed in SEEDS:
            expected = reference.dropout(x, 0.3, seed=seed)
            assert_exact(fc.dropout(x, 0.3, seed=seed), expected)
            assert_exact(fc.dropout_backward(x, 0.3, seed=seed), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 70, 9, 9), (3, 3, 13, 70)])
def test_any_memory_order(isa, rng, order, shape):
    x = normals(shape, rng)
    expected = reference.dropout(x, 0.5, seed=77)
    assert_exact(fc.dropout(in_order(x, order), 0.5, seed=77), expected)
    y = poisoned(shape, order=order)
    fc.dropout(x, 0.5, seed=77, out=y)
    assert_exact(y, expected)
    assert_only_wrote(y)


def test_same_mask_for_any_thread_count(isa, rng):
    x = normals((4, 33, 41, 43), rng)
    expected = reference.dropout(x, 0.5, seed=9)
    before = fc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            assert_exact(fc.dropout(x, 0.5, seed=9), expected)
            assert_exact(fc.dropout(fc.channels_last(x), 0.5, seed=9), expected)
    finally:
        fc.set_num_threads(before)


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.25, 0.999999, 1 - 1e-12, 1.0])
def test_probabilities(isa, rng, p):
    x = normals((3001,), rng)
    assert_exact(fc.dropout(x, p, seed=1), reference.dropout(x, p, seed=1))
    kept = np.count_nonzero(fc.dropout(np.ones(100_000, np.float32), p, seed=3)) / 100_000
    assert abs(kept - (1 - p)) < 0.01


def test_a_dropped_nan_is_zero(isa):
    x = np.full(100, np.nan, np.float32)
    assert_exact(fc.dropout(x, 0.5, seed=2), reference.dropout(x, 0.5, seed=2))
    assert_exact(fc.dropout(x, 1.0, seed=2), np.zeros_like(x))


def test_evaluation_copies(rng):
    x = fc.channels_last(normals((2, 3, 4, 5), rng))
    y = fc.dropout(x, 0.5, seed=1, training=False)
    assert_exact(y, x)
    assert y is not x
    assert not np.shares_memory(x, y)
    assert fc.is_channels_last(y)


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 4, 4)])
def test_shapes(shape):
    x = np.ones(shape)
    assert_exact(fc.dropout(x, 0.5, seed=1), reference.dropout(x, 0.5, seed=1))


def test_errors():
    x = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"dropout: p=1.5.*0 <= p <= 1"):
        fc.dropout(x, 1.5, seed=1)
    with pytest.raises(ValueError, match=r"dropout_backward: p=nan"):
        fc.dropout_backward(x, float("nan"), seed=1)
    with pytest.raises(ValueError, match=r"seed=-1.*2\*\*64"):
        fc.dropout(x, seed=-1)
    with pytest.raises(ValueError, match=r"seed=18446744073709551616"):
        fc.dropout(x, seed=2**64, training=False)
    with pytest.raises(TypeError, match=r"seed=1.5 is no integer"):
        fc.dropout(x, seed=1.5)
