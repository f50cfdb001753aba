"""linear and its gradients: every instruction set against the reference."""

import fastconv as fc
import numpy as np
import pytest
from cases import LINEAR, linear
from fastconv import _core, reference
from support import (
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    in_order,
    integers,
    normals,
    params,
    poisoned,
    sum_bound,
)

# Around the tiles: 3 and 4 rows, 4 and 6 columns; blocks of 96 rows, 24 and 64 columns, 128 and 768
# terms.
CASES = [
    *LINEAR,
    *(linear(f"n{n}c19-k13") for n in (2, 4, 5, 8, 9, 95, 96, 97, 193)),
    *(linear(f"n3c21-k{k}") for k in (1, 4, 5, 6, 12, 23, 24, 25, 49, 65)),
    *(linear(f"n2c{c}-k5") for c in (7, 8, 9, 15, 16, 17, 33, 767, 768, 769, 1537)),
    *(linear(f"n5c{c}-k{k}") for c, k in ((63, 511), (65, 512), (64, 513), (3, 1025))),
    linear("n253c9-k7"),
    linear("n1c2000-k300"),
]
FEW = [linear("n7c17-k9"), linear("n3c1030-k31"), linear("n97c33-k65"), linear("n0c5-k7")]
ORDERS = (
    "C", "sliced", "channel_slice", "reversed", "transposed", "guard_end", "guard_begin",
)  # fmt: skip
DTYPES = [np.float32, np.float64]


def operands(case, rng, dtype=np.float32, make=integers):
    x, weight = make((case.n, case.c), rng, dtype), make((case.k, case.c), rng, dtype)
    return x, weight, make((case.k,), rng, dtype), make((case.n, case.k), rng, dtype)


def in_threads(threads, call):
    before = _core.num_threads()
    _core.set_num_threads(threads)
    try:
        return call()
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("case", params(CASES))
def test_forward_and_gradients_are_exact(case, isa, rng):
    x, weight, bias, grad = operands(case, rng)
    assert_exact(fc.linear(x, weight), reference.linear(x, weight))
    out = poisoned((case.n, case.k))
    assert fc.linear(x, weight, bias, activation="relu", out=out) is out
    assert_exact(out, reference.linear(x, weight, bias, activation="relu"))
    for actual, expected in zip(
        fc.linear_backward(grad, x, weight), reference.linear_backward(grad, x, weight)
    ):
        assert_exact(actual, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(FEW))
def test_any_strides(case, order, isa, rng):
    x, weight, bias, grad = operands(case, rng)
    out = poisoned((case.n, case.k), order=order)
    fc.linear(in_order(x, order), in_order(weight, order), in_order(bias, order), out=out)
    assert_exact(out, reference.linear(x, weight, bias))
    assert_only_wrote(out)
    actual = fc.linear_backward(in_order(grad, order), in_order(x, order), in_order(weight, order))
    for one, expected in zip(actual, reference.linear_backward(grad, x, weight)):
        assert_exact(one, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_into_any_strides(order, isa, rng):
    """What Python allocates follows its operand; the kernels write anything."""
    x, weight, _, grad = operands(linear("n7c70-k66"), rng)
    grad_x, grad_weight, _ = reference.linear_backward(grad, x, weight)
    out = poisoned(x.shape, order=order)
    _core.linear(1, out, weight, grad, None, False, False)
    assert_exact(out, grad_x)
    assert_only_wrote(out)
    out = poisoned(weight.shape, order=order)
    _core.linear(2, x, out, grad, None, False, False)
    assert_exact(out, grad_weight)
    _core.linear(2, x, out, grad, None, False, True)
    assert_exact(out, 2 * grad_weight)
    assert_only_wrote(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params([*FEW, linear("n1c9216-k7"), linear("n2c5-k3000")]))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    x, weight, _, grad = operands(case, rng, dtype, normals)
    bound = sum_bound(reference.linear, x, weight, terms=case.c, dtype=dtype)
    assert_within_bound(fc.linear(x, weight), reference.linear(*float64(x, weight)), bound)
    actual = fc.linear_backward(grad, x, weight)
    expected = reference.linear_backward(*float64(grad, x, weight))
    for i, terms in enumerate((case.k, case.n, case.n)):
        bound = sum_bound(
            lambda *a: reference.linear_backward(*a)[i],  # noqa: B023
            grad, x, weight, terms=terms, dtype=dtype,
        )  # fmt: skip
        assert_within_bound(actual[i], expected[i], bound)


@pytest.mark.parametrize("case", params([linear("n101c70-k67"), linear("n9c1100-k600")]))
def test_same_bits_for_any_thread_count_and_batch(case, isa, rng):
    x, weight, bias, grad = operands(case, rng, make=normals)

    def everything():
        return fc.linear(x, weight, bias), *fc.linear_backward(grad, x, weight)

    one = in_threads(1, everything)
    for threads in (1, 2, 3, 5):
        for actual, expected in zip(in_threads(threads, everything), one):
            assert np.array_equal(actual, expected)
    for rows in (slice(0, 1), slice(2, 5), slice(1, 8)):
        assert np.array_equal(fc.linear(x[rows], weight, bias), one[0][rows])
        back, _, _ = fc.linear_backward(grad[rows], x[rows], weight, need=("input",))
        assert np.array_equal(back, one[1][rows])


def test_relu_masks_the_gradient_and_need_chooses(isa, rng):
    x, weight, bias, grad = operands(linear("n5c12-k11"), rng)
    y = fc.linear(x, weight, bias, activation="relu")
    actual = fc.linear_backward(grad, x, weight, activation="relu", output=y)
    expected = reference.linear_backward(grad, x, weight, activation="relu", output=y)
    for one, wanted in zip(actual, expected):
        assert_exact(one, wanted)
    for need in ((), ("weight",), ("bias", "input")):
        some = fc.linear_backward(grad, x, weight, need=need)
        assert [g is not None for g in some] == [n in need for n in ("input", "weight", "bias")]


def test_nan_and_infinity_reach_just_their_row(isa, rng):
    x, weight, _, _ = operands(linear("n5c37-k11"), rng, make=normals)
    x[1, 36], x[3, 0] = np.nan, np.inf
    weight[2, 7] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = reference.linear(x, weight)
    actual = fc.linear(x, weight)
    for same in (np.isnan, np.isposinf, np.isneginf):
        assert np.array_equal(same(actual), same(expected))
    assert np.isnan(fc.linear(x, weight, activation="relu")[1]).all()


def test_one_vector_and_memory_order(rng):
    x, weight, bias, grad = operands(linear("n3c5-k7"), rng)
    assert_exact(fc.linear(x[0], weight, bias), reference.linear(x[0], weight, bias))
    actual = fc.linear_backward(grad[0], x[0], weight)
    for one, wanted in zip(actual, reference.linear_backward(grad[0], x[0], weight)):
        assert_exact(one, wanted)
    by_columns = np.asfortranarray(weight)
    _, grad_weight, _ = fc.linear_backward(grad, x, by_columns)
    assert grad_weight.flags.f_contiguous


X, W = np.zeros((8, 32), np.float32), np.zeros((16, 32), np.float32)

ERRORS = [
    (
        lambda: fc.linear(X, W[:, :30]),
        ValueError,
        r"linear: weight has 30 inputs \(shape \(16, 30\)",
    ),
    (lambda: fc.linear(X, W.astype(np.float64)), TypeError, "weight has dtype float64, but x has"),
    (lambda: fc.linear(X.astype(np.int64), W), TypeError, "x has dtype int64.*float32 and float64"),
    (lambda: fc.linear(X[None], W), ValueError, r"x has 3 dimensions.*reshape\(len\(x\), -1\)"),
    (lambda: fc.linear(X, W[0]), ValueError, "weight has 1 dimensions"),
    (lambda: fc.linear(X, W, np.zeros(3, np.float32)), ValueError, r"bias has shape \(3,\)"),
    (lambda: fc.linear(X, W, activation="tanh"), ValueError, "activation is 'tanh'"),
    (lambda: fc.linear(X, W, out=X), ValueError, r"out has shape \(8, 32\)"),
    (lambda: fc.linear(X, X, out=X[:, :8]), ValueError, "out overlaps x"),
    (lambda: fc.linear_backward(X, X, W), ValueError, r"grad_output has shape \(8, 32\)"),
    (
        lambda: fc.linear_backward(X[:, :16], X, W, activation="relu"),
        ValueError,
        "needs output, what linear returned",
    ),
    (lambda: fc.linear_backward(X[:, :16], X, W, need=("x",)), ValueError, r"need has \['x'\]"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_name_argument_value_and_remedy(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    x, weight, bias, grad = operands(linear("n33c257-k65"), rng, make=normals)
    tensors = [torch.from_numpy(a) for a in (x, weight, bias, grad)]
    y = fc.linear(*tensors[:3])
    assert isinstance(y, torch.Tensor)
    assert torch.allclose(y, torch.nn.functional.linear(*tensors[:3]), atol=1e-4)
    leaves = [t.clone().requires_grad_() for t in tensors[:3]]
    torch.nn.functional.linear(*leaves).backward(tensors[3])
    for actual, leaf in zip(fc.linear_backward(tensors[3], *tensors[:2]), leaves):
        assert torch.allclose(actual, leaf.grad, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4096, 4096), np.float32), ((4080, 4128), np.float32), ((2896, 2904), np.float64)],
)
def test_a_weight_gradient_that_no_cache_holds(isa, rng, shape, dtype):
    """From 64 MiB on it is written past the caches, if it lies on whole lines of theirs: the same
    values beside them, on any number of threads, all in their places, and added where asked for."""
    x, g = integers((3, shape[1], 1, 1), rng, dtype), integers((3, shape[0], 1, 1), rng, dtype)
    expected = g[:, :, 0, 0].T @ x[:, :, 0, 0]
    memory = np.empty(expected.size + 64, dtype)
    begin = -memory.ctypes.data % 64 // memory.itemsize
    before = fc.get_num_threads()
    try:
        for shift, threads in ((0, 1), (0, 3), (1, 1)):
            fc.set_num_threads(threads)
            memory[...] = np.nan
            out = memory[begin + shift :][: expected.size].reshape(*shape, 1, 1)
            for times in (1, 2):
                fc.conv2d_grad_weight(g, x, out.shape, out=out, accumulate=times == 2)
                assert np.array_equal(out[:, :, 0, 0], times * expected)
            assert np.isnan(memory).sum() == 64
    finally:
        fc.set_num_threads(before)
