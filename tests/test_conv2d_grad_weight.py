"""conv2d_grad_weight and conv2d_grad_bias: every algorithm of every instruction set."""

import platform

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
    float64,
    in_order,
    integers,
    normals,
    params,
    poisoned,
    sum_bound,
)
from winograd_cases import does_winograd, taps_of

# Around the tiles of the gradient: 6, 9, 14, 24 rows; chunks of 96 to 512 positions, cut along
# columns, rows and images; several sums where there are many chunks and few weights.
CASES = [
    *(conv(f"n1c{c}h5w7-k70r1s1") for c in (5, 6, 7, 16, 17, 31)),
    *(conv(f"n2c{c}h6w5-k{k}r3s3-pad1") for c, k in ((16, 33), (19, 17), (15, 49), (17, 64))),
    *(conv(f"n2c18h{h}w7-k66r3s3-pad1") for h in (13, 14, 15)),
    conv("n1c17h3w200-k65r3s3-pad1"),
    conv("n1c3h2w530-k5r1s3-pad0x1"),
    conv("n40c17h3w3-k65r3s3-pad1"),
    conv("n9c4h20w21-k9r3s3-pad1"),
    conv("n7c33h9w8-k40r1s1"),
    conv("n3c20h17w17-k70r1s1-st2"),
    conv("n2c16h20w20-k16r5s5-pad2-g4"),
    conv("n3c16h9w1-k16r3s1-pad1x0"),
    conv("n2c17h11w12-k20r3s3-st2-pad2-dil2"),
]
FEW = [*CONV_FEW, conv("n9c4h20w21-k9r3s3-pad1"), conv("n2c17h6w90-k65r3s3-pad1")]
DTYPES = [np.float32, np.float64]


def output_shape(case):
    return fc.conv2d_output_shape(
        case.input_shape, case.weight_shape, stride=case.stride, padding=case.padding,
        dilation=case.dilation,
    )  # fmt: skip


def operands(case, rng, dtype=np.float32, make=integers):
    """x, grad_output."""
    return make(case.input_shape, rng, dtype), make(output_shape(case), rng, dtype)


def expected_of(case, x, grad):
    return reference.conv2d_grad_weight(grad, x, case.weight_shape, **case.arguments)


def grad_weight(case, x, grad, **more):
    return fc.conv2d_grad_weight(grad, x, case.weight_shape, **case.arguments, **more)


def exact(case):
    """The algorithms whose sums of small integers are exact here: "auto" too, unless it takes one
    that is not. Winograd over the points 0, +-1 and infinity divides by nothing but 2."""
    names = [
        name for name in fc.algorithms(fc.conv2d_grad_weight)
        if not name.startswith("winograd") or (name == "winograd2" and taps_of(case) == 3)
    ]  # fmt: skip
    grad = (case.n, case.k, *output_shape(case)[2:])
    plan = fc.explain(
        fc.conv2d_grad_weight, grad, case.input_shape, case.weight_shape, **case.arguments
    )
    return ["auto", *names] if plan.algorithm in names else names


def in_threads(threads, call):
    before = _core.num_threads()
    _core.set_num_threads(threads)
    try:
        return call()
    finally:
        _core.set_num_threads(before)


def run_or_rejected(case, x, grad, out, algorithm):
    """Whether the algorithm did it, or said in words why it cannot."""
    try:
        grad_weight(case, x, grad, out=out, algorithm=algorithm)
    except ValueError as error:
        if f"algorithm '{algorithm}' cannot do this problem: " in str(error):
            return False
        raise
    return True


@pytest.mark.parametrize("case", params([*CONV, *CASES]))
def test_exact_for_every_algorithm(case, isa, rng):
    x, grad = operands(case, rng)
    expected = expected_of(case, x, grad)
    done = []
    for algorithm in exact(case):
        for order in ("C", "channels_last"):
            out = poisoned(case.weight_shape, order=order)
            arrays = in_order(x, order), in_order(grad, order)
            if run_or_rejected(case, *arrays, out, algorithm):
                done.append(algorithm)
                assert_exact(out, expected)
    assert "direct" in done
    reached = all(s <= r for s, r in zip(case.stride, (case.r, case.s), strict=True))
    assert ("winograd2" in done) == (does_winograd(case) and taps_of(case) == 3 and reached)
    pointwise = case.r == case.s == 1 and case.padding == ((0, 0), (0, 0))
    assert ("pointwise" in done) == pointwise


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(FEW))
def test_any_strides(case, order, isa, rng):
    x, grad = operands(case, rng)
    expected = expected_of(case, x, grad)
    for algorithm in sorted({"auto", "direct", "winograd2"} & set(exact(case))):
        out = poisoned(case.weight_shape, order=order)
        arrays = in_order(x, order), in_order(grad, order)
        if not run_or_rejected(case, *arrays, out, algorithm):
            continue
        assert_exact(out, expected)
        # Accumulating into it.
        grad_weight(case, x, grad, out=out, algorithm=algorithm, accumulate=True)
        assert_exact(out, 2 * expected)
        assert_only_wrote(out)
    bias = poisoned((case.k,), order=order)
    fc.conv2d_grad_bias(in_order(grad, order), out=bias)
    assert_exact(bias, grad.sum(axis=(0, 2, 3)))
    assert_only_wrote(bias)


def test_float64_is_exact(isa, rng):
    for case in FEW:
        x, grad = operands(case, rng, np.float64)
        assert_exact(grad_weight(case, x, grad), expected_of(case, x, grad))
        assert_exact(fc.conv2d_grad_bias(grad), grad.sum(axis=(0, 2, 3)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(FEW))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    x, grad = operands(case, rng, dtype, normals)
    expected = expected_of(case, *float64(x, grad))
    terms = max(1, case.n * grad.shape[2] * grad.shape[3])
    bound = sum_bound(
        lambda x, grad: expected_of(case, x, grad), x, grad, terms=terms, dtype=dtype
    )  # fmt: skip
    for order in ("C", "channels_last"):
        actual = grad_weight(case, in_order(x, order), grad, algorithm="direct")
        assert_within_bound(actual, expected, bound)


def test_long_sums_are_blocked(isa):
    """One accumulator over so many terms of one size drifts: blocks do not."""
    size = 1 << 16
    x = np.full((1, 1, 1, size), 0.1, np.float32)
    grad = np.ones((1, 1, 1, size), np.float32)
    exact = size * float(np.float32(0.1))
    for shape in ((1, 1, 1, 1), (1, 1, 1, 3)):
        result = fc.conv2d_grad_weight(grad, x, shape, padding=(0, shape[3] // 2))
        assert abs(float(result[0, 0, 0, shape[3] // 2]) - exact) / exact < 1e-5
    assert abs(float(fc.conv2d_grad_bias(x)[0]) - exact) / exact < 1e-5


@pytest.mark.parametrize("case", params([*FEW, *CASES[6:14]]))
def test_same_bits_for_any_thread_count_and_run(case, isa, rng):
    x, grad = operands(case, rng, make=normals)
    for order in ("C", "channels_last"):
        x = in_order(x, order)

        def both():
            return grad_weight(case, x, grad), fc.conv2d_grad_bias(grad)  # noqa: B023

        one = in_threads(1, both)
        for threads in (1, 2, 3, 5, 16):
            for actual, expected in zip(in_threads(threads, both), one):
                assert np.array_equal(actual, expected)


def test_nan_reaches_just_its_channel_and_filter(isa, rng):
    case = conv("n2c19h7w8-k21r3s3-pad1")
    x, grad = operands(case, rng, make=normals)
    for order in ("C", "channels_last"):
        bad = x.copy()
        bad[1, 4, 3, 3] = np.nan
        result = grad_weight(case, in_order(bad, order), in_order(grad, order))
        assert np.isnan(result[:, 4]).all()
        assert not np.isnan(np.delete(result, 4, axis=1)).any()
        bad = grad.copy()
        bad[0, 5, 3, 3] = np.inf
        result = grad_weight(case, in_order(x, order), in_order(bad, order))
        assert not np.isfinite(result[5]).any()
        assert np.isfinite(np.delete(result, 5, axis=0)).all()
        assert np.flatnonzero(np.isinf(fc.conv2d_grad_bias(bad))).tolist() == [5]


def test_empty_batch_gives_zeros_and_adds_nothing(isa):
    x, grad = np.zeros((0, 3, 6, 6), np.float32), np.zeros((0, 4, 6, 6), np.float32)
    result = fc.conv2d_grad_weight(grad, x, (4, 3, 3, 3), padding=1)
    assert_exact(result, np.zeros((4, 3, 3, 3)))
    out = np.ones((4, 3, 3, 3), np.float32)
    fc.conv2d_grad_weight(grad, x, out.shape, padding=1, out=out, accumulate=True)
    assert_exact(out, np.ones((4, 3, 3, 3)))
    assert_exact(fc.conv2d_grad_bias(grad), np.zeros(4))
    bias = np.ones(4, np.float32)
    fc.conv2d_grad_bias(grad, out=bias, accumulate=True)
    assert_exact(bias, np.ones(4))


def test_backward_gives_all_and_masks_by_the_output(isa, rng):
    case = conv("n2c5h6w7-k9r3s3-pad1")
    x, _ = operands(case, rng)
    weight, bias = integers(case.weight_shape, rng), integers((9,), rng)
    y = fc.conv2d(x, weight, bias, activation="relu", **case.arguments)
    grad = integers(y.shape, rng)
    actual = fc.conv2d_backward(grad, x, weight, activation="relu", output=y, **case.arguments)
    expected = reference.conv2d_backward(
        grad, x, weight, activation="relu", output=y, **case.arguments
    )
    for one, wanted in zip(actual, expected):
        assert_exact(one, wanted)


def test_denormals_are_flushed_in_float32_and_the_mode_is_restored(isa):
    tiny = np.full((1, 1, 2, 2), np.float32(1e-40))
    result = fc.conv2d_grad_weight(tiny, np.ones_like(tiny), (1, 1, 1, 1))
    if platform.machine() == "x86_64":
        assert result[0, 0, 0, 0] == 0
    assert tiny[0, 0, 0, 0] * np.float32(2) > 0  # this thread still has denormals
    tiny = np.full((1, 1, 2, 2), 5e-324)
    assert fc.conv2d_grad_weight(tiny, np.ones_like(tiny), (1, 1, 1, 1))[0, 0, 0, 0] == 4 * 5e-324


X = np.zeros((8, 3, 32, 32), np.float32)
G = np.zeros((8, 16, 28, 28), np.float32)

ERRORS = [
    (
        lambda: fc.conv2d_grad_weight(G[:, :, :20], X, (16, 3, 5, 5)),
        ValueError,
        r"conv2d_grad_weight: grad_output has shape \(8, 16, 20, 28\), but conv2d's output shape "
        r"here is \(8, 16, 28, 28\)",
    ),
    (lambda: fc.conv2d_grad_weight(G, X, (16, 4, 5, 5)), ValueError, "has 4 input channels x 1"),
    (lambda: fc.conv2d_grad_weight(G, X, (3, 5, 5)), ValueError, r"weight_shape is \(3, 5, 5\)"),
    (lambda: fc.conv2d_grad_weight(G.astype(np.float64), X, (16, 3, 5, 5)), TypeError, "float64"),
    (
        lambda: fc.conv2d_grad_weight(G, X, (16, 3, 5, 5), accumulate=True),
        ValueError,
        "accumulate=True adds to out, but out is None",
    ),
    (
        lambda: fc.conv2d_grad_weight(G, X, (16, 3, 5, 5), algorithm="pointwise"),
        ValueError,
        "'pointwise' cannot do this problem: .*not 1x1",
    ),
    (lambda: fc.conv2d_grad_bias(G[0, 0]), ValueError, "grad_output has 2 dimensions"),
    (
        lambda: fc.conv2d_grad_bias(G, out=np.zeros(3, np.float32)),
        ValueError,
        r"out has shape \(3,\)",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_name_argument_value_and_remedy(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("name", ["n4c33h14w15-k40r3s3-st2-pad1", "n2c3h33w34-k24r7s7-st2-pad3"])
def test_against_torch(name, rng):
    torch = pytest.importorskip("torch")
    case = conv(name)
    x, grad = operands(case, rng, make=normals)
    tensors = torch.from_numpy(grad), torch.from_numpy(x)
    expected = torch.nn.grad.conv2d_weight(
        tensors[1], case.weight_shape, tensors[0], stride=case.stride, padding=case.padding[0]
    )
    actual = fc.conv2d_grad_weight(*tensors, case.weight_shape, **case.arguments)
    assert isinstance(actual, torch.Tensor)
    assert torch.allclose(actual, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("n", "c", "size", "k", "r"),
    [(1, 512, 14, 256, 1), (2, 64, 48, 64, 3)],
    ids=["196 positions", "Winograd"],
)
def test_sums_of_unequal_lengths_are_more_tasks_than_threads(n, c, size, k, r):
    """Three chunks in two sums are one and two, five blocks of tiles two and three."""
    if "avx512" not in _core.supported_isas():
        pytest.skip("the chunks are those of AVX-512")
    with fc.isa("avx512"):
        plan = fc.explain(
            fc.conv2d_grad_weight,
            (n, k, size, size),
            (n, c, size, size),
            (k, c, r, r),
            padding=r // 2,
            threads=2,
        )
    assert plan.tasks >= 4
