"""Local response normalization against the reference in float64, within bounds."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    in_order,
    normals,
    poisoned,
)

DTYPES = (np.float32, np.float64)
SHAPES = [
    (1, 1, 1, 1),
    (2, 3, 1, 5),
    (2, 17, 3, 7),
    (1, 96, 9, 11),
    (3, 5),
    (33, 4, 6),
    (1, 8, 20, 9),
]
SETTINGS = {"alpha": 0.3, "k": 2.0}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_forward_and_backward(isa, rng, size, beta, dtype):
    """d is a sum of `size` squares, all positive: size + 8 roundings, and as many in its power; the
    sum in the gradient has terms of both signs, bounded by its absolute values."""
    ulps = (2 * size + 24) * np.finfo(dtype).eps
    settings = SETTINGS | {"beta": beta}
    for shape in SHAPES:
        x, g = normals(shape, rng, dtype), normals(shape, rng, dtype)
        wide_x, wide_g = float64(x, g)
        expected = reference.local_response_norm(wide_x, size, **settings)
        grad = reference.local_response_norm_backward(wide_g, wide_x, size, **settings)
        # |g| d^-beta + B, where B is the second term of absolute values and d > 1.
        magnitude = 2 * np.abs(wide_g) - reference.local_response_norm_backward(
            np.abs(wide_g), np.abs(wide_x), size, **settings
        )
        for order in ("C", "channels_last"):
            y = fc.local_response_norm(in_order(x, order), size, **settings)
            assert_within_bound(y, expected, ulps * np.abs(expected))
            dx = fc.local_response_norm_backward(
                in_order(g, order), in_order(x, order), size, **settings
            )
            assert_within_bound(dx, grad, ulps * magnitude)


@pytest.mark.parametrize("order", ORDERS)
def test_any_memory_order(isa, rng, order):
    x, g = normals((3, 18, 5, 7), rng), normals((3, 18, 5, 7), rng)
    expected = reference.local_response_norm(x, 5, **SETTINGS)
    grad = reference.local_response_norm_backward(g, x, 5, **SETTINGS)
    for target in (order, "C", "channels_last"):
        y, dx = poisoned(x.shape, order=target), poisoned(x.shape, order=target)
        fc.local_response_norm(in_order(x, order), 5, out=y, **SETTINGS)
        np.testing.assert_allclose(y, expected, rtol=1e-5)
        assert_only_wrote(y)
        fc.local_response_norm_backward(
            in_order(g, target), in_order(x, order), 5, out=dx, **SETTINGS
        )
        np.testing.assert_allclose(dx, grad, rtol=1e-4, atol=1e-5)
        assert_only_wrote(dx)


@pytest.mark.parametrize("order", ["C", "channels_last"])
def test_same_bits_for_any_thread_count_and_batch(isa, rng, order):
    x = in_order(normals((5, 40, 23, 29), rng), order)
    before, results = fc.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            results.append((fc.local_response_norm(x, 5), fc.local_response_norm_backward(x, x, 5)))
    finally:
        fc.set_num_threads(before)
    for y, dx in results[1:]:
        assert_exact(y, results[0][0])
        assert_exact(dx, results[0][1])
    assert_exact(fc.local_response_norm(x[3], 5), results[0][0][3])


def test_special_values(isa):
    x = np.ones((1, 20, 1, 3), np.float32)
    x[0, 3, 0, 0], x[0, 10, 0, 1], x[0, 15, 0, 2] = np.nan, np.inf, 1e30
    for order in ("C", "channels_last"):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = reference.local_response_norm(x, 5)
        y = fc.local_response_norm(in_order(x, order), 5)
        np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 3, 3)])
def test_empty(shape):
    x = np.ones(shape, np.float32)
    assert fc.local_response_norm(x, 5).shape == shape
    assert fc.local_response_norm_backward(x, x, 5).shape == shape


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("beta", [0.75, 0.4])
def test_gradients(rng, size, beta):
    def norm(x):
        settings = {"alpha": 0.7, "beta": beta, "k": 1.5}
        return fc.local_response_norm(
            x, size, **settings
        ), lambda g: fc.local_response_norm_backward(g, x, size, **settings)

    report = fc.gradcheck(norm, rng.standard_normal((2, 7, 2, 3)))
    assert report, report


def test_errors():
    x = np.ones((2, 3, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"local_response_norm: size is 0; wanted at least 1"):
        fc.local_response_norm(x, 0)
    with pytest.raises(ValueError, match=r"x has 1 dimensions"):
        fc.local_response_norm(x[0, 0, 0], 3)
    with pytest.raises(ValueError, match=r"grad_output has shape \(2, 3, 4\)"):
        fc.local_response_norm_backward(x[..., 0], x, 3)
    with pytest.raises(ValueError, match=r"out overlaps x"):
        fc.local_response_norm(x, 3, out=x)


def test_against_torch(isa, rng):
    torch = pytest.importorskip("torch")
    x, g = normals((2, 12, 5, 6), rng), normals((2, 12, 5, 6), rng)
    for size in (4, 5):
        leaf = torch.from_numpy(x).requires_grad_()
        y = torch.nn.functional.local_response_norm(leaf, size, alpha=0.5, beta=0.75, k=2)
        (grad,) = torch.autograd.grad(y, leaf, torch.from_numpy(g))
        ours = fc.local_response_norm(torch.from_numpy(x), size, alpha=0.5, k=2)
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours, y.detach(), rtol=1e-5)
        dx = fc.local_response_norm_backward(g, x, size, alpha=0.5, k=2)
        np.testing.assert_allclose(dx, grad, rtol=1e-4, atol=1e-5)
