"""conv2d and conv2d_grad_input: every algorithm of every instruction set against the reference."""

import fastconv as fc
import numpy as np
import pytest
from cases import CONV, CONV_FEW, conv
from fastconv import _core, reference
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

# The bound is compared with a computation of its own in float64.
DTYPES = [np.float32, np.float64]


EXACT = ["auto", *exact_algorithms(fc.conv2d)]


def operands(case, rng, dtype=np.float32):
    """Integer x, weight, bias, and the exact y of the reference."""
    x = integers(case.input_shape, rng, dtype)
    weight = integers(case.weight_shape, rng, dtype)
    bias = integers((case.k,), rng, dtype, largest=9)
    return x, weight, bias, reference.conv2d(x, weight, bias, **case.arguments)


def output_shape(case):
    window = {key: value for key, value in case.arguments.items() if key != "groups"}
    return fc.conv2d_output_shape(case.input_shape, case.weight_shape, **window)


def exact(function, case):
    """What sums integers exactly: "auto" too, unless its cost model takes Winograd."""
    operands = {
        fc.conv2d: (case.input_shape, case.weight_shape),
        fc.conv2d_grad_input: (output_shape(case), case.weight_shape, case.input_shape),
    }[function]
    taken = {
        fc.explain(function, *operands, channels_last=last, **case.arguments).algorithm
        for last in (False, True)
    }
    return EXACT[1:] if any(name.startswith("winograd") for name in taken) else EXACT


def auto_if_exact(function, case):
    """Which of small problems Winograd takes depends on the processor."""
    return "auto" if "auto" in exact(function, case) else "direct"


def run_or_rejected(call, algorithm):
    """The result, or None where the algorithm says in words why it cannot."""
    try:
        return call(algorithm=algorithm)
    except ValueError as error:
        if algorithm == "auto" or "cannot do this problem: " not in str(error):
            raise
        return None


@pytest.mark.parametrize("case", params(CONV))
def test_forward_is_exact(case, isa, rng):
    x, weight, bias, expected = operands(case, rng)
    for algorithm in exact(fc.conv2d, case):
        out = poisoned(expected.shape)
        result = run_or_rejected(
            lambda algorithm, out=out: fc.conv2d(
                x, weight, bias, out=out, algorithm=algorithm, **case.arguments
            ),
            algorithm,
        )
        if result is not None:
            assert result is out
            assert_exact(out, expected)


@pytest.mark.parametrize("case", params(CONV))
def test_grad_input_is_exact(case, isa, rng):
    x, weight, _, y = operands(case, rng)
    grad = integers(y.shape, rng)
    expected = reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments)
    for algorithm in exact(fc.conv2d_grad_input, case):
        out = poisoned(expected.shape)
        result = run_or_rejected(
            lambda algorithm, out=out: fc.conv2d_grad_input(
                grad, weight, x.shape, out=out, algorithm=algorithm, **case.arguments
            ),
            algorithm,
        )
        if result is not None:
            assert_exact(out, expected)


@pytest.mark.parametrize("algorithm", ["direct", "pointwise", "depthwise", "im2col", "naive"])
def test_every_algorithm_does_some_case(algorithm):
    """So that the rejections allowed above cannot hide an algorithm that always refuses."""
    done = 0
    for case in CONV_FEW:
        x, weight = np.zeros(case.input_shape), np.zeros(case.weight_shape)
        done += (
            run_or_rejected(
                lambda algorithm: fc.conv2d(x, weight, algorithm=algorithm, **case.arguments),  # noqa: B023
                algorithm,
            )
            is not None
        )
    assert done > 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(CONV_FEW))
def test_any_strides(case, order, isa, rng):
    x, weight, bias, expected = operands(case, rng)
    residual = integers(expected.shape, rng)
    expected = np.maximum(expected + residual, 0)
    out = poisoned(expected.shape, order=order)
    fc.conv2d(
        in_order(x, order), in_order(weight, order), in_order(bias, order), activation="relu",
        residual=in_order(residual, order), out=out, algorithm=auto_if_exact(fc.conv2d, case),
        **case.arguments
    )  # fmt: skip
    assert_exact(out, expected)
    assert_only_wrote(out)

    algorithm = auto_if_exact(fc.conv2d_grad_input, case)
    grad = integers(expected.shape, rng)
    expected = reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments)
    out = poisoned(x.shape, order=order)
    fc.conv2d_grad_input(
        in_order(grad, order), in_order(weight, order), x.shape, out=out, algorithm=algorithm,
        **case.arguments
    )  # fmt: skip
    assert_exact(out, expected)
    assert_only_wrote(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(CONV_FEW))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    x, weight = normals(case.input_shape, rng, dtype), normals(case.weight_shape, rng, dtype)
    expected = reference.conv2d(*float64(x, weight), **case.arguments)
    terms = case.c // case.groups * case.r * case.s
    bound = sum_bound(reference.conv2d, x, weight, terms=terms, dtype=dtype, **case.arguments)
    for order in ("C", "channels_last"):
        actual = fc.conv2d(in_order(x, order), weight, **case.arguments)
        assert_within_bound(actual, expected, bound)


def test_deep_sums_are_blocked(isa):
    """One accumulator over so many terms of one size drifts (2.6e-4 here): blocks do not."""
    depth = 1 << 15
    x = np.full((1, depth, 1, 1), 0.1, np.float32)
    weight = np.ones((1, depth, 1, 1), np.float32)
    error = abs(float(fc.conv2d(x, weight)[0, 0, 0, 0]) - depth * float(np.float32(0.1)))
    assert error / (depth * 0.1) < 1e-5


def test_float64_is_exact(isa, rng):
    for case in CONV_FEW:
        x, weight, bias, expected = operands(case, rng, np.float64)
        assert_exact(fc.conv2d(x, weight, bias, **case.arguments), expected)
        grad = integers(expected.shape, rng, np.float64)
        expected = reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments)
        actual = fc.conv2d_grad_input(grad, weight, x.shape, **case.arguments)
        assert_exact(actual, expected)


@pytest.mark.parametrize("case", params(CONV_FEW))
def test_same_bits_for_any_thread_count_and_batch(case, isa, rng):
    x, weight = normals((5, *case.input_shape[1:]), rng), normals(case.weight_shape, rng)
    for order in ("C", "channels_last"):
        x = in_order(x, order)
        one = in_threads(1, lambda: fc.conv2d(x, weight, **case.arguments))  # noqa: B023
        grad = normals(one.shape, rng)
        back = in_threads(
            1, lambda: fc.conv2d_grad_input(grad, weight, x.shape, **case.arguments)  # noqa: B023
        )  # fmt: skip
        for threads in (2, 3, 7):
            y = in_threads(threads, lambda: fc.conv2d(x, weight, **case.arguments))  # noqa: B023
            assert np.array_equal(y, one)
            g = in_threads(
                threads,
                lambda: fc.conv2d_grad_input(grad, weight, x.shape, **case.arguments),  # noqa: B023
            )
            assert np.array_equal(g, back)
        for n in range(5):
            assert np.array_equal(fc.conv2d(x[n : n + 1], weight, **case.arguments)[0], one[n])
            alone = fc.conv2d_grad_input(
                grad[n : n + 1], weight, (1, *x.shape[1:]), **case.arguments
            )
            assert np.array_equal(alone[0], back[n])


def in_threads(threads, call):
    before = _core.num_threads()
    _core.set_num_threads(threads)
    try:
        return call()
    finally:
        _core.set_num_threads(before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["n1c19h7w13-k17r3s3-pad1", "n1c3h9w11-k9r5s5-pad2"])
def test_special_values_reach_just_their_windows(name, value, isa, rng):
    case = conv(name)
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    x[0, 1, 3, 4] = value
    expected = reference.conv2d(x, weight, **case.arguments)
    for order in ("C", "channels_last"):
        algorithm = auto_if_exact(fc.conv2d, case)
        actual = fc.conv2d(in_order(x, order), weight, algorithm=algorithm, **case.arguments)
        assert np.array_equal(np.isnan(actual), np.isnan(expected))
        assert np.array_equal(np.isposinf(actual), np.isposinf(expected))
        assert np.array_equal(np.isneginf(actual), np.isneginf(expected))


def test_relu_passes_nan_on(isa):
    x = np.array([np.nan, -1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
    y = fc.conv2d(x, np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1), activation="relu")
    assert np.isnan(y).all()  # 0 * NaN is in every sum
    y = fc.conv2d(x[:, 1:], np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1), activation="relu")
    assert y.ravel().tolist() == [0.0, 2.0]


def test_out_may_be_the_residual(isa, rng):
    for name in ("n2c13h5w7-k19r1s1", "n1c600h3w5-k9r3s3-pad1"):  # the latter in depth blocks
        case = conv(name)
        x, weight, bias, expected = operands(case, rng)
        for order in ("C", "channels_last"):
            out = in_order(integers(expected.shape, rng), order)
            wanted = expected + out
            fc.conv2d(x, weight, bias, residual=out, out=out, **case.arguments)
            assert_exact(out, wanted)


def test_out_may_be_a_slice_of_channels(isa, rng):
    case = conv("n2c8h6w7-k16r3s3-pad1")
    x, weight, bias, expected = operands(case, rng)
    for order in ("C", "channels_last"):
        buffer = poisoned((2, 48, 6, 7), order=order)
        fc.conv2d(x, weight, bias, out=buffer[:, 16:32], **case.arguments)
        assert_exact(buffer[:, 16:32], expected)
        assert np.isnan(buffer[:, :16]).all()
        assert np.isnan(buffer[:, 32:]).all()


def test_memory_order_of_results(rng):
    x = normals((2, 3, 5, 6), rng)
    weight = normals((4, 3, 3, 3), rng)
    assert fc.conv2d(x, weight).flags.c_contiguous
    assert fc.is_channels_last(fc.conv2d(fc.channels_last(x), weight))
    # C == 1 is both: the weight decides.
    x, weight = x[:, :1].copy(), normals((4, 1, 3, 3), rng)
    assert fc.conv2d(x, weight).flags.c_contiguous
    x, weight = normals((2, 3, 1, 1), rng), normals((4, 3, 1, 1), rng)
    assert fc.conv2d(x, weight).shape == (2, 4, 1, 1)
    x, weight = normals((2, 3, 1, 1), rng), fc.channels_last(normals((4, 3, 2, 2), rng))
    assert fc.is_channels_last(fc.conv2d(x, weight, padding=2))


def test_one_image_and_one_dimension(rng):
    x, weight = integers((3, 8, 9), rng), integers((5, 3, 3, 3), rng)
    expected = reference.conv2d(x, weight, padding=1)
    assert_exact(fc.conv2d(x, weight, padding=1), expected)
    grad = integers(expected.shape, rng)
    actual = fc.conv2d_grad_input(grad, weight, (1, 3, 8, 9), padding=1)
    assert_exact(actual, reference.conv2d_grad_input(grad, weight, (1, 3, 8, 9), padding=1))
    x, weight = integers((2, 3, 17), rng), integers((5, 3, 4), rng)
    for padding in (0, 2, (1, 3), "same"):
        expected = reference.conv1d(x, weight, padding=padding, stride=2)
        assert_exact(fc.conv1d(x, weight, padding=padding, stride=2), expected)
    assert_exact(fc.conv1d(x[0], weight), reference.conv1d(x[0], weight))


def test_packed_weight_gives_the_same_bits(isa, rng):
    for case in CONV_FEW:
        x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
        packed = fc.pack_weight(weight, groups=case.groups)
        expected = fc.conv2d(x, weight, **case.arguments)
        weight[...] = np.nan  # a snapshot: what happens to the weight afterwards does not reach it
        assert np.array_equal(fc.conv2d(x, packed, **case.arguments), expected)
    assert packed.shape == weight.shape
    assert packed.dtype == weight.dtype


def test_packed_weight_of_another_instruction_set(rng):
    x, weight = integers((1, 7, 6, 5), rng), integers((64, 7, 3, 3), rng)
    expected = reference.conv2d(x, weight)
    for packed_for in _core.supported_isas():
        with fc.isa(packed_for):
            packed = fc.pack_weight(weight)
        for run_on in _core.supported_isas():
            with fc.isa(run_on):
                assert_exact(fc.conv2d(x, packed), expected)


def test_denormals_are_flushed_in_float32_only_and_the_mode_is_restored(isa):
    tiny = np.float32(1e-40)
    x = np.full((1, 1, 4, 4), tiny)
    fc.conv2d(x, np.ones((1, 1, 1, 1), np.float32))
    assert x[0, 0, 0, 0] * np.float32(2) > 0  # this thread still has denormals
    x64 = np.full((1, 1, 4, 4), 5e-324)
    assert (fc.conv2d(x64, np.ones((1, 1, 1, 1))) == 5e-324).all()


X = np.zeros((8, 3, 32, 32), np.float32)
W = np.zeros((16, 3, 5, 5), np.float32)

ERRORS = [
    (
        lambda: fc.conv2d(X, np.zeros((16, 4, 5, 5), np.float32)),
        ValueError,
        r"conv2d: weight has 4 input channels x 1 group, but x has 3 channels "
        r"\(shape \(8, 3, 32, 32\)\)",
    ),
    (
        lambda: fc.conv2d(X[:, :, :3], W),
        ValueError,
        r"conv2d: no window fits along the height: input 3 \+ padding 0 \+ 0 = 3 is less than the "
        r"kernel's extent \(5 - 1\) \* 1 \+ 1 = 5; needs 2 more",
    ),
    (lambda: fc.conv2d(X, W.astype(np.float64)), TypeError, "weight has dtype float64, but x has"),
    (lambda: fc.conv2d(X.astype(np.int32), W), TypeError, "x has dtype int32.*float32 and float64"),
    (lambda: fc.conv2d(X.astype(np.float16), W), TypeError, "x has dtype float16"),
    (lambda: fc.conv2d([[1.0]], W), TypeError, "x is a list, not an array"),
    (lambda: fc.conv2d(X[0, 0], W), ValueError, r"x has 2 dimensions \(shape \(32, 32\)\)"),
    (lambda: fc.conv2d(X, W[0]), ValueError, r"weight has 3 dimensions"),
    (lambda: fc.conv2d(X, W, np.zeros(3, np.float32)), ValueError, r"bias has shape \(3,\)"),
    (lambda: fc.conv2d(X, W, stride=0), ValueError, "stride is 0; wanted at least 1"),
    (lambda: fc.conv2d(X, W, stride=(1, 2, 3)), TypeError, r"stride is \(1, 2, 3\)"),
    (lambda: fc.conv2d(X, W, stride=1.5), TypeError, r"stride is 1.5"),
    (lambda: fc.conv2d(X, W, dilation=-1), ValueError, "dilation is -1; wanted at least 1"),
    (lambda: fc.conv2d(X, W, padding=-1), ValueError, "padding is -1; wanted 0 or more"),
    (lambda: fc.conv2d(X, W, padding="full"), ValueError, "padding is 'full'"),
    (lambda: fc.conv2d(X, W, padding=(1, 2, 3, 4)), TypeError, r"padding is \(1, 2, 3, 4\)"),
    (lambda: fc.conv2d(X, W, groups=2), ValueError, "3 input channels x 2 groups, but x has 3"),
    (lambda: fc.conv2d(X, W, groups=0), ValueError, "groups is 0"),
    (lambda: fc.conv2d(X, W, activation="gelu"), ValueError, "activation is 'gelu'"),
    (lambda: fc.conv2d(X, W, algorithm="fft"), ValueError, "algorithm is 'fft'; the names are"),
    (
        lambda: fc.conv2d(X, W, algorithm="pointwise"),
        ValueError,
        "algorithm 'pointwise' cannot do this problem: .*kernel is not 1x1",
    ),
    (lambda: fc.conv2d(X, W, residual=X), ValueError, r"residual has shape \(8, 3, 32, 32\), but"),
    (lambda: fc.conv2d(X, W, out=X), ValueError, r"out has shape \(8, 3, 32, 32\), but the result"),
    (
        lambda: fc.conv2d_grad_input(X, W, (8, 3, 32, 32)),
        ValueError,
        r"conv2d_grad_input: grad_output has shape \(8, 3, 32, 32\), but conv2d's output shape "
        r"here is \(8, 16, 28, 28\)",
    ),
    (lambda: fc.conv2d_grad_input(X, W, (3, 32, 32)), ValueError, "input_shape is"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_name_argument_value_and_remedy(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_out_that_overlaps_is_refused_and_nothing_is_written(rng):
    x, weight = normals((1, 4, 6, 6), rng), normals((4, 4, 3, 3), rng)
    before = x.copy()
    with pytest.raises(ValueError, match="conv2d: out overlaps x in memory"):
        fc.conv2d(x, weight, padding=1, out=x)
    buffer = normals((2, 4, 6, 6), rng)
    with pytest.raises(ValueError, match="out overlaps residual in part"):
        fc.conv2d(x, weight, padding=1, residual=buffer[:1], out=buffer[:1, ::-1])
    out = np.lib.stride_tricks.as_strided(np.empty((), np.float32), x.shape, (0, 0, 0, 0))
    with pytest.raises(ValueError, match="out has a stride of 0"):
        fc.conv2d(x, weight, padding=1, out=out)
    frozen = np.zeros_like(x)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fc.conv2d(x, weight, padding=1, out=frozen)
    assert np.array_equal(x, before)
    # Interleaved slices of one buffer do not overlap.
    both = normals((1, 8, 6, 6), rng)
    expected = reference.conv2d(both[:, ::2].copy(), weight, padding=1)
    fc.conv2d(both[:, ::2], weight, padding=1, out=both[:, 1::2])
    assert np.allclose(both[:, 1::2], expected, atol=1e-4)


def test_torch_tensors_come_back_as_tensors(rng):
    torch = pytest.importorskip("torch")
    x, weight = normals((2, 3, 8, 9), rng), normals((5, 3, 3, 3), rng)
    tensor = torch.from_numpy(x)
    y = fc.conv2d(tensor, torch.from_numpy(weight), stride=2, padding=1)
    assert isinstance(y, torch.Tensor)
    expected = torch.nn.functional.conv2d(tensor, torch.from_numpy(weight), stride=2, padding=1)
    assert torch.allclose(y, expected, atol=1e-5)
    last = fc.conv2d(tensor.to(memory_format=torch.channels_last), torch.from_numpy(weight))
    assert last.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(TypeError, match=r"requires grad.*\.detach\(\)"):
        fc.conv2d(tensor.requires_grad_(), torch.from_numpy(weight))
    with pytest.raises(TypeError, match="bfloat16"):
        fc.conv2d(tensor.detach().bfloat16(), torch.from_numpy(weight))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params([*CONV_FEW, conv("n3c17h4w6-k8r3s5-st2")]))
def test_grad_input_adds_a_residual(case, order, isa, rng):
    """Strides and algorithms that add it in passing, and those that do not."""
    x, weight, _, y = operands(case, rng)
    grad, residual = integers(y.shape, rng), integers(x.shape, rng)
    expected = reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments) + residual
    for algorithm in exact(fc.conv2d_grad_input, case):
        out = poisoned(expected.shape, order=order)
        for added in (in_order(residual, order), residual):
            result = run_or_rejected(
                lambda algorithm, added=added, out=out: fc.conv2d_grad_input(
                    grad, weight, x.shape, residual=added, out=out, algorithm=algorithm,
                    **case.arguments,
                ),
                algorithm,
            )  # fmt: skip
            if result is not None:
                assert_exact(out, expected)
                assert_only_wrote(out)
        into = in_order(residual, order)  # adds to what it writes
        result = run_or_rejected(
            lambda algorithm, into=into: fc.conv2d_grad_input(
                grad, weight, x.shape, residual=into, out=into, algorithm=algorithm,
                **case.arguments,
            ),
            algorithm,
        )  # fmt: skip
        if result is not None:
            assert_exact(into, expected)
            assert_only_wrote(into)
    if x.size:
        buffer = np.concatenate([residual, residual])
        with pytest.raises(ValueError, match="out overlaps residual in part"):
            fc.conv2d_grad_input(
                grad, weight, x.shape, residual=buffer[: len(x)], out=buffer[: len(x), ::-1, ::-1],
                **case.arguments,
            )  # fmt: skip
        with pytest.raises(ValueError, match="residual has shape"):
            fc.conv2d_grad_input(grad, weight, x.shape, residual=grad[:, :0], **case.arguments)
