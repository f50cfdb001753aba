"""conv_transpose2d and its backward: every algorithm of every instruction set, and PyTorch."""

import cases
import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    exact_algorithms,
    float64,
    in_order,
    integers,
    normals,
    params,
    poisoned,
    sum_bound,
)

MORE = [
    cases.transpose("n2c3h4w5-k6r1s1-st2x3-op1x2"),  # 1x1: gaps between the stamps
    cases.transpose("n1c3h4w5-k4r1s2-st1-dil3-op2"),  # output padding beyond the stride
    cases.transpose("n2c16h5w6-k16r3s3-st2-pad1-op1-g16"),  # depthwise
    cases.transpose("n1c8h5w6-k24r5s5-st1-pad2-g8"),
    cases.transpose("n1c24h5w6-k8r3s3-st2-pad1-g8"),
]
CASES = [*cases.CONV_TRANSPOSE, *MORE]
FEW = [CASES[1], CASES[2], CASES[7], MORE[2], MORE[3]]


def operands(case, rng, dtype=np.float32):
    x, weight = integers(case.input_shape, rng, dtype), integers(case.weight_shape, rng, dtype)
    bias = integers((case.k,), rng, dtype, largest=9)
    return x, weight, bias, reference.conv_transpose2d(x, weight, bias, **case.arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(CASES))
def test_forward_is_exact(case, dtype, isa, rng):
    x, weight, bias, expected = operands(case, rng, dtype)
    assert_exact(fc.conv_transpose2d(x, weight, bias, **case.arguments), expected)
    for algorithm in exact_algorithms(fc.conv_transpose2d):
        out = poisoned(expected.shape, dtype)
        try:
            fc.conv_transpose2d(x, weight, bias, algorithm=algorithm, out=out, **case.arguments)
        except ValueError as error:
            if algorithm in ("naive", "im2col", "direct") or "cannot do this" not in str(error):
                raise
        else:
            assert_exact(out, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(CASES))
def test_backward_is_exact(case, dtype, isa, rng):
    x, weight, _, y = operands(case, rng, dtype)
    grad = integers(y.shape, rng, dtype)
    expected = reference.conv_transpose2d_backward(grad, x, weight, **case.arguments)
    actual = fc.conv_transpose2d_backward(grad, x, weight, **case.arguments)
    for a, e in zip(actual, expected, strict=True):
        assert_exact(a, e)
    actual = fc.conv_transpose2d_backward(grad, x, weight, need=("weight",), **case.arguments)
    assert actual[0] is None
    assert actual[2] is None
    assert_exact(actual[1], expected[1])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(FEW))
def test_any_strides(case, order, isa, rng):
    x, weight, bias, expected = operands(case, rng)
    out = poisoned(expected.shape, order=order)
    moved = [in_order(a, order) for a in (x, weight, bias)]
    assert fc.conv_transpose2d(*moved, out=out, **case.arguments) is out
    assert_exact(out, expected)
    assert_only_wrote(out)
    grad = integers(expected.shape, rng)
    actual = fc.conv_transpose2d_backward(in_order(grad, order), *moved[:2], **case.arguments)
    wanted = reference.conv_transpose2d_backward(grad, x, weight, **case.arguments)
    for a, e in zip(actual, wanted, strict=True):
        assert_exact(a, e)


@pytest.mark.parametrize("case", params(FEW))
def test_rounding_error_is_within_the_bound(case, isa, rng):
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    expected = reference.conv_transpose2d(*float64(x, weight), **case.arguments)
    terms = case.c // case.groups * case.r * case.s
    bound = sum_bound(reference.conv_transpose2d, x, weight, terms=terms, **case.arguments)
    for order in ("C", "channels_last"):
        actual = fc.conv_transpose2d(in_order(x, order), weight, **case.arguments)
        assert_within_bound(actual, expected, bound)


def test_it_is_the_adjoint_of_conv2d(rng):
    """<conv2d(u), v> = <u, conv_transpose2d(v)> with the same weight, exactly."""
    weight = integers((5, 3, 3, 4), rng, np.float64)
    u, options = integers((2, 3, 9, 8), rng, np.float64), {"stride": 2, "padding": 1}
    v = integers(fc.conv2d(u, weight, **options).shape, rng, np.float64)
    back = fc.conv_transpose2d(v, weight, output_padding=(0, 0), **options)
    assert (fc.conv2d(u, weight, **options) * v).sum() == (u[:, :, :9, :8] * back).sum()


def test_one_image(rng):
    x, weight = integers((3, 4, 5), rng), integers((3, 2, 3, 3), rng)
    expected = reference.conv_transpose2d(x, weight, stride=2)
    assert_exact(fc.conv_transpose2d(x, weight, stride=2), expected)
    out = poisoned(expected.shape)
    assert fc.conv_transpose2d(x, weight, stride=2, out=out) is out
    assert_exact(out, expected)
    grad = integers(expected.shape, rng)
    actual = fc.conv_transpose2d_backward(grad, x, weight, stride=2)
    wanted = reference.conv_transpose2d_backward(grad, x, weight, stride=2)
    for a, e in zip(actual, wanted, strict=True):
        assert_exact(a, e)


def test_memory_order_of_results(rng):
    x, weight = normals((2, 4, 5, 6), rng), normals((4, 3, 2, 2), rng)
    assert fc.conv_transpose2d(x, weight, stride=2).flags.c_contiguous
    y = fc.conv_transpose2d(fc.channels_last(x), weight, stride=2)
    assert fc.is_channels_last(y)
    grads = fc.conv_transpose2d_backward(y, fc.channels_last(x), weight, stride=2)
    assert fc.is_channels_last(grads[0])
    assert grads[1].flags.c_contiguous


@pytest.mark.parametrize("algorithm", ["auto", "naive", "direct", "im2col"])
def test_same_bits_for_any_thread_count_and_batch(algorithm, rng):
    for case in FEW:
        x, weight = normals((3, *case.input_shape[1:]), rng), normals(case.weight_shape, rng)
        options = {"algorithm": algorithm, **case.arguments}
        before = fc.get_num_threads()
        try:
            fc.set_num_threads(1)
            one = fc.conv_transpose2d(x, weight, **options)
            for threads in (2, 3):
                fc.set_num_threads(threads)
                assert np.array_equal(fc.conv_transpose2d(x, weight, **options), one)
        finally:
            fc.set_num_threads(before)
        for n in range(3):
            assert np.array_equal(fc.conv_transpose2d(x[n], weight, **options), one[n])


@pytest.mark.parametrize("case", params(CASES))
def test_agrees_with_pytorch(case, isa, rng):
    torch = pytest.importorskip("torch")
    if isinstance(case.padding, str) or any(low != high for low, high in case.padding):
        pytest.skip("PyTorch has no asymmetric padding here")
    x, weight, bias, _ = operands(case, rng, np.float64)
    arguments = case.arguments | {"padding": tuple(low for low, _ in case.padding)}
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
    y = torch.nn.functional.conv_transpose2d(*tensors, **arguments)
    assert_exact(fc.conv_transpose2d(x, weight, bias, **arguments), y.detach().numpy())
    grad = integers(y.shape, rng, np.float64)
    y.backward(torch.from_numpy(grad))
    actual = fc.conv_transpose2d_backward(grad, x, weight, **arguments)
    for a, tensor in zip(actual, tensors, strict=True):
        assert_exact(a, tensor.grad.numpy())
    if case.n:
        tensor = fc.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(weight), **arguments)
        assert type(tensor) is torch.Tensor


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weight": np.ones((5, 3, 2, 2))}, ValueError, "5 input channels .* x has 4 channels"),
        ({"weight": np.ones((4, 3, 2))}, ValueError, r"3 dimensions .* wanted \(C, K // groups"),
        ({"groups": 3}, ValueError, "x has 4 channels, which 3 groups do not divide"),
        ({"groups": 0}, ValueError, "groups is 0; wanted at least 1"),
        ({"bias": np.ones(4)}, ValueError, r"bias has shape \(4,\), but \(K,\) .* is \(3,\)"),
        ({"output_padding": 2}, ValueError, "output_padding is 2 .* less than the stride 2"),
        ({"x": np.ones((1, 4, 0, 3))}, ValueError, r"\(1, 4, 0, 3\): nothing along the height"),
        ({"padding": 5}, ValueError, r"nothing is left .* \(2 - 1\) \* 1 \+ 1 .* 5 - 5 = 0"),
        ({"padding": "same"}, ValueError, 'padding is "same"'),
        ({"padding": -1}, ValueError, "padding is -1; wanted 0 or more"),
        ({"stride": 0}, ValueError, "stride is 0; wanted at least 1"),
        ({"x": np.ones((1, 4, 5, 6), np.int32)}, TypeError, "x has dtype int32"),
        ({"weight": np.ones((4, 3, 2, 2), np.float32)}, TypeError, "weight has dtype float32"),
        ({"algorithm": "fastest"}, ValueError, "algorithm is 'fastest'; the names are auto, "),
        ({"algorithm": "depthwise"}, ValueError, "algorithm 'depthwise' cannot do this problem"),
        ({"out": np.ones((1, 3, 10, 11))}, ValueError, r"out has shape .* is \(1, 3, 10, 12\)"),
    ],
)
def test_errors_say_what_is_wrong(changes, error, words):
    arguments = {"x": np.ones((1, 4, 5, 6)), "weight": np.ones((4, 3, 2, 2)), "stride": 2}
    with pytest.raises(error, match=f"^conv_transpose2d: .*{words}"):
        fc.conv_transpose2d(**(arguments | changes))


def test_backward_errors_say_what_is_wrong():
    x, weight = np.ones((1, 4, 5, 6)), np.ones((4, 3, 2, 2))
    with pytest.raises(ValueError, match=r"grad_output has shape .* is \(1, 3, 10, 12\)"):
        fc.conv_transpose2d_backward(np.ones((1, 3, 10, 11)), x, weight, stride=2)
    with pytest.raises(ValueError, match=r"need has \['inputs'\]"):
        fc.conv_transpose2d_backward(np.ones((1, 3, 6, 7)), x, weight, need=("inputs",))
