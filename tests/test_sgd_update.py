"""One step of SGD in C++: PyTorch's arithmetic in PyTorch's order, any strides."""

import itertools

import numpy as np
import pytest
from fastconv import _core
from support import ORDERS, assert_exact, in_order, normals

SETTINGS = [
    (momentum, decay, nesterov)
    for momentum, decay, nesterov in itertools.product((0.0, 0.9), (0.0, 1e-4), (False, True))
    if momentum or not nesterov
]


def formula(p, g, v, lr, momentum, decay, nesterov):
    """In float64, each product and sum rounded once: the kernel's values but for float32's FMA."""
    g = g + decay * p
    if momentum:
        v = momentum * v + g
        g = g + momentum * v if nesterov else v
    return p - lr * g, v


@pytest.mark.parametrize(("momentum", "decay", "nesterov"), SETTINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_formula_in_any_order(isa, rng, order, momentum, decay, nesterov):
    p, g, v = (normals((3, 5, 4, 7), rng, np.float64) for _ in range(3))
    expected_p, expected_v = formula(p, g, v, 0.1, momentum, decay, nesterov)
    p, g = in_order(p, order), in_order(g, "C")
    v = in_order(v, order) if momentum else None
    _core.sgd_update([p], [g], None if v is None else [v], 0.1, momentum, decay, nesterov)
    np.testing.assert_allclose(p, expected_p, rtol=1e-14, atol=1e-15)
    if v is not None:
        np.testing.assert_allclose(v, expected_v, rtol=1e-14, atol=1e-15)


def test_integers_are_exact(isa):
    p, g = np.arange(50, dtype=np.float32), np.ones(50, np.float32)
    v = np.full(50, 2, np.float32)
    _core.sgd_update([p], [g], None if v is None else [v], 2.0, 0.5, 0.0, False)
    assert_exact(v, np.full(50, 2, np.float32))
    assert_exact(p, np.arange(50, dtype=np.float32) - 4)


@pytest.mark.parametrize(("momentum", "decay", "nesterov"), SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_of_torch(rng, dtype, momentum, decay, nesterov):
    torch = pytest.importorskip("torch")
    if "avx2" not in _core.supported_isas():
        pytest.skip("PyTorch's sums of products are FMAs only where the processor has them")
    p = normals((64,), rng, dtype)
    theirs = torch.from_numpy(p.copy()).requires_grad_()
    optimizer = torch.optim.SGD(
        [theirs], lr=0.1, momentum=momentum, weight_decay=decay, nesterov=nesterov
    )
    v = np.zeros_like(p) if momentum else None
    for _ in range(3):
        g = normals((64,), rng, dtype)
        theirs.grad = torch.from_numpy(g)
        optimizer.step()
        _core.sgd_update([p], [g], None if v is None else [v], 0.1, momentum, decay, nesterov)
        assert_exact(p, theirs.detach().numpy())


def test_momentum_needs_a_velocity():
    p = np.ones(3)
    with pytest.raises(ValueError, match="momentum needs a velocity"):
        _core.sgd_update([p], [p.copy()], None, 0.1, 0.9, 0.0, False)
