"""Element-wise activations: exact where they only select, within their ulps where they compute."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core, reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, normals, poisoned

DTYPES = (np.float32, np.float64)
EXACT = ("relu", "leaky_relu")
COMPUTED = {"sigmoid": 3, "tanh": 4}  # name: ulp that csrc/cpu/kernels_elementwise.h promises
BACKWARD = ("relu", "leaky_relu", "sigmoid", "tanh")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1e-310, -1e-310, 88.8, -103.9, -745.1)


def ulps(actual, expected):
    """Largest error in units in the last place of `expected` (given in 80-bit precision)."""
    spacing = np.spacing(np.abs(expected.astype(actual.dtype))).astype(np.longdouble)
    return float(np.max(np.abs(actual.astype(np.longdouble) - expected) / spacing))


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_selecting_is_exact(isa, rng, name, dtype):
    for size in [*range(1, 70), 1000]:
        x = normals((size,), rng, dtype)
        assert same_bits(getattr(fc, name)(x), getattr(reference, name)(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", COMPUTED)
def test_within_its_ulps(isa, rng, name, dtype):
    x = np.concatenate([
        np.linspace(-800, 800, 40001),
        np.linspace(-110, 110, 40001),
        np.linspace(-2, 2, 40001),
        10.0 ** rng.uniform(-44 if dtype == np.float32 else -320, 2.5, 40000)
        * rng.choice([-1, 1], 40000),
    ]).astype(dtype)  # fmt: skip
    wide = x.astype(np.longdouble)
    expected = 1 / (1 + np.exp(-wide)) if name == "sigmoid" else np.tanh(wide)
    assert ulps(getattr(fc, name)(x), expected) <= COMPUTED[name]


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.float32, -103, -20), (np.float64, -744, -40)]
)
def test_exponential_within_its_ulps(isa, dtype, low, high):
    """Where 1 + exp(x) rounds to 1, sigmoid is the kernels' exp, down to denormal results."""
    x = np.linspace(low, high, 200_001).astype(dtype)
    assert ulps(fc.sigmoid(x), np.exp(x.astype(np.longdouble))) <= (2 if isa == "scalar" else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*EXACT, *COMPUTED])
def test_special_values(isa, name, dtype):
    """At every place of a line, so that vector bodies and tails both meet them."""
    function, twin = getattr(fc, name), getattr(reference, name)
    for shift in range(len(SPECIAL)):
        x = np.roll(np.array(SPECIAL * 3, dtype), shift)[: 36 - shift]
        y, expected = function(x), twin(x)
        assert np.array_equal(np.isnan(y), np.isnan(x))
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=np.finfo(dtype).tiny)
        if name != "relu":  # relu(-0) is 0, the others keep the sign of zero
            assert np.array_equal(np.signbit(y[~np.isnan(y)]), np.signbit(expected[~np.isnan(y)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
def test_backward_is_the_formula(isa, rng, name, dtype):
    for size in (1, 7, 33, 129):
        grad, output = normals((size,), rng, dtype), np.tanh(normals((size,), rng, dtype))
        output[::5] = 0
        if size > 1:
            output[1] = np.nan
        y = getattr(fc, name + "_backward")(grad, output)
        assert_exact(y, getattr(reference, name + "_backward")(grad, output))


@pytest.mark.parametrize("order", ORDERS)
def test_any_memory_order(isa, rng, order):
    x = normals((3, 5, 4, 7), rng)
    g = normals(x.shape, rng)
    for name in EXACT:
        y = poisoned(x.shape, order=order)
        assert getattr(fc, name)(in_order(x, order), out=y) is y
        assert_exact(y, getattr(reference, name)(x))
        assert_only_wrote(y)
        assert_exact(getattr(fc, name)(in_order(x, order)), getattr(reference, name)(x))
        backward, twin = getattr(fc, name + "_backward"), getattr(reference, name + "_backward")
        for other in ("C", "channels_last", "reversed"):
            assert_exact(backward(in_order(g, order), in_order(x, other)), twin(g, x))


@pytest.mark.parametrize("order", ORDERS)
def test_same_bits_in_any_order_and_thread_count(isa, rng, order):
    """Large enough for threads and for several tiles."""
    x = normals((2, 67, 41, 43), rng)
    expected = fc.sigmoid(x)
    before = fc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            assert np.array_equal(fc.sigmoid(in_order(x, order)), expected)
    finally:
        fc.set_num_threads(before)


def test_memory_order_of_the_result():
    x = np.ones((2, 3, 4, 5), np.float32)
    assert fc.relu(x).flags.c_contiguous
    assert fc.is_channels_last(fc.relu(fc.channels_last(x)))
    assert fc.is_channels_last(fc.relu(fc.channels_last(x[0])))
    assert fc.relu(x[..., ::-1]).flags.c_contiguous


@pytest.mark.parametrize("shape", [(), (0,), (0, 3, 4, 4), (3, 4, 4), (2, 3), (2, 1, 3, 1, 2, 4)])
def test_shapes(shape, rng):
    x = normals(shape, rng)
    assert_exact(fc.relu(x), reference.relu(x))
    assert_exact(fc.relu_backward(x, x), reference.relu_backward(x, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["add", "subtract", "multiply"])
def test_arithmetic_in_one_pass(isa, rng, name, dtype):
    for shape in [(2, 9, 5, 7), (0, 3), *((size,) for size in range(1, 70))]:
        a, b = normals(shape, rng, dtype), normals(shape, rng, dtype)
        expected = getattr(np, name)(a, b)
        y = np.full_like(a, np.nan)
        getattr(_core, name)(fc.channels_last(a) if a.ndim == 4 else a, b, y)
        assert same_bits(y, expected)
        getattr(_core, name)(a, b, a)
        assert same_bits(a, expected)


@pytest.mark.parametrize("name", BACKWARD)
def test_gradients(rng, name):
    x = rng.standard_normal((2, 3, 4))
    forward, backward = getattr(fc, name), getattr(fc, name + "_backward")
    y, v, step = forward(x), rng.standard_normal(x.shape), 1e-6
    numeric = (forward(x + step) - forward(x - step)) / (2 * step) * v
    np.testing.assert_allclose(backward(v, y), numeric, rtol=1e-6, atol=1e-9)


def test_errors():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"relu: x has dtype int64.*float32 and float64"):
        fc.relu(np.ones(3, np.int64))
    with pytest.raises(ValueError, match=r"output has shape \(3, 2\).*\(2, 3\)"):
        fc.relu_backward(x, np.ones((3, 2), np.float32))
    with pytest.raises(TypeError, match=r"output has dtype float64, but grad_output has float32"):
        fc.tanh_backward(x, np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"sigmoid: out has shape \(3,\).*\(2, 3\)"):
        fc.sigmoid(x, out=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="out overlaps x"):
        fc.relu(x, out=x[:, ::-1])
    with pytest.raises(ValueError, match=r"negative_slope=-1.*at least 0"):
        fc.leaky_relu_backward(x, x, -1)
    with pytest.raises(ValueError, match=r"17 dimensions; at most 16"):
        fc.relu(np.ones((1,) * 17))


def test_against_torch(isa, rng):
    torch = pytest.importorskip("torch")
    x, g = normals((2, 5, 9, 11), rng), normals((2, 5, 9, 11), rng)
    leaf = torch.from_numpy(x).requires_grad_()
    for name in BACKWARD:
        home = torch.nn.functional if name == "leaky_relu" else torch
        theirs = getattr(home, name)(leaf)
        (grad,) = torch.autograd.grad(theirs, leaf, torch.from_numpy(g))
        y = getattr(fc, name)(torch.from_numpy(x))
        assert isinstance(y, torch.Tensor)
        np.testing.assert_allclose(y.numpy(), theirs.detach().numpy(), rtol=1e-6, atol=1e-30)
        ours = getattr(fc, name + "_backward")(g, theirs.detach().numpy())
        np.testing.assert_allclose(ours, grad.numpy(), rtol=1e-6, atol=1e-7)
