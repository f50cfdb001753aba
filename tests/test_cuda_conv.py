"""Convolution and its gradients on CUDA: every kernel, forced by name, against the reference."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cases import CONV, CONV_CUDA, CONV_FEW, CONV_TRANSPOSE, conv
from cuda_support import (
    DTYPES,
    ORDERS,
    Poisoned,
    directions,
    forced_kernels,
    host,
    on_gpu,
    rounded,
    rounding,
)
from fastconv import reference
from support import (
    THREAD_ORDERS,
    assert_exact,
    assert_within_bound,
    float64,
    integers,
    normals,
    params,
    sum_bound,
)

pytestmark = pytest.mark.kernels

# dtype and what float32 may be multiplied as; small integers are exact in TF32, too.
ARITHMETICS = [(dtype, "highest") for dtype in DTYPES] + [("float32", "tf32")]
# Of a product of two factors rounded to 11 bits, and of three such products for one.
PRODUCT_ERROR = {"highest": 0.0, "high": 2.0**-21, "tf32": 2.0**-10}

# What one kernel must do in every memory order and by every algorithm that can.
ORDER_CASES = [case for case in CONV_FEW if case.n]
BY_NAME_CASES = [*CONV_FEW, conv("n1c3h3w4-k3r1s1-st2-g3")]


class Problem:
    """Operands of a case on the host, and one direction of it on the device."""

    def __init__(self, case, rng, make=integers):
        self.case = case
        self.x = make(case.input_shape, rng)
        self.weight = make(case.weight_shape, rng)
        self.bias = make((case.k,), rng)
        window = {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
        shape = fc.conv2d_output_shape(case.input_shape, case.weight_shape, **window)
        self.grad, self.residual = make(shape, rng), make(shape, rng)

    def operands(self, direction):
        if direction == "conv2d":
            return self.x, self.weight
        if direction == "conv2d_grad_input":
            return self.grad, self.weight, self.x.shape
        return self.grad, self.x, self.weight.shape

    def run(self, direction, dtype, order="C", **options):
        placed = [
            on_gpu(a, dtype, order) if isinstance(a, np.ndarray) else a
            for a in self.operands(direction)
        ]
        return directions()[direction](*placed, **self.case.arguments, **options)

    def expected(self, direction):
        wide = [
            a.astype(np.float64) if isinstance(a, np.ndarray) else a
            for a in self.operands(direction)
        ]
        return getattr(reference, direction)(*wide, **self.case.arguments)


def check_exact(problem, direction, dtype, order, **options):
    """Equal to the reference, nothing written elsewhere, nothing left unwritten; what is fused."""
    expected = problem.expected(direction)
    out = Poisoned(expected.shape, dtype, order)
    problem.run(direction, dtype, order, out=out.array, **options)
    assert_exact(host(out.array), rounded(expected, dtype))
    out.only_wrote()
    if direction == "conv2d":
        bias, residual = on_gpu(problem.bias, dtype), on_gpu(problem.residual, dtype, order)
        y = problem.run(direction, dtype, order, bias=bias, residual=residual, activation="relu",
                        **options)  # fmt: skip
        wide = expected + problem.bias[:, None, None] + problem.residual
        assert_exact(host(y), rounded(np.maximum(wide, 0), dtype))
        problem.run(direction, dtype, order, residual=residual, out=residual, **options)
        assert_exact(host(residual), rounded(expected + problem.residual, dtype))
    if direction == "conv2d_grad_weight":
        stored = host(out.array).astype(np.float64)
        problem.run(direction, dtype, order, out=out.array, accumulate=True, **options)
        assert_exact(host(out.array), rounded(stored + expected, dtype))
        out.only_wrote()


def arithmetics_of(kernel):
    """3xTF32 has kernels of its own, beside which precision "high" has the exact ones."""
    return [("float32", "high")] if kernel.endswith("_3xtf32") else ARITHMETICS


def with_kernel(kernel, check):
    """Run `check(dtype)` for every arithmetic that the kernel has; skip if it has none here."""
    refused = None
    ran = 0
    for dtype, precision in arithmetics_of(kernel):
        with fc.cuda.kernel(kernel), fc.float32_precision(precision):
            try:
                check(dtype, precision)
            except ValueError as error:
                if "cannot do this problem" not in str(error):
                    raise
                if refused is None or "dtype or precision" not in str(error):
                    refused = error
                continue
        ran += 1
    if not ran:
        pytest.skip(str(refused))


@pytest.mark.parametrize("case", params([*CONV_CUDA, *(case for case in CONV if case.full)]))
@pytest.mark.parametrize(("direction", "kernel"), forced_kernels())
def test_every_kernel_is_exact(direction, kernel, case, rng):
    problem = Problem(case, rng)
    with_kernel(
        kernel,
        lambda dtype, _: check_exact(problem, direction, dtype, "channels_last"),
    )


@pytest.mark.parametrize("case", params(CONV))
@pytest.mark.parametrize("direction", directions())
def test_all_problems_are_exact(direction, case, rng):
    problem = Problem(case, rng)
    for dtype in DTYPES:
        check_exact(problem, direction, dtype, "channels_last")


@pytest.mark.parametrize(("direction", "kernel"), forced_kernels())
def test_a_kernel_that_is_forced_runs(direction, kernel):
    """The plan takes it, or says why it cannot; no kernel is beyond all of the cases."""
    reasons = []
    for case in CONV_CUDA:
        if not case.n:
            continue
        problem = Problem(case, np.random.default_rng(0))
        shapes = [
            tuple(getattr(operand, "shape", operand)) for operand in problem.operands(direction)
        ]
        for dtype, precision in arithmetics_of(kernel):
            try:
                with fc.cuda.kernel(kernel), fc.float32_precision(precision):
                    plan = fc.explain(
                        directions()[direction],
                        *shapes,
                        device="cuda",
                        dtype=dtype,
                        **case.arguments,
                    )
            except ValueError as error:
                reasons.append(str(error))
                continue
            assert plan.kernel == kernel
            return
    pytest.fail(f"no case for {kernel}: {set(reasons)}")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(ORDER_CASES))
@pytest.mark.parametrize("direction", directions())
def test_any_memory_order(direction, case, order, rng):
    problem = Problem(case, rng)
    for dtype in ("float32", "bfloat16"):
        check_exact(problem, direction, dtype, order)


@pytest.mark.parametrize("algorithm", ["naive", "direct", "pointwise", "depthwise"])
@pytest.mark.parametrize("direction", directions())
def test_algorithms_by_name(direction, algorithm, rng):
    refused = []
    for case in BY_NAME_CASES:
        problem = Problem(case, rng)
        try:
            check_exact(problem, direction, "float16", "C", algorithm=algorithm)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) < len(BY_NAME_CASES)
    assert all(f"algorithm {algorithm!r} cannot do this problem" in text for text in refused)


BOUND_CASES = [
    conv("n2c16h9w8-k33r3s3-st2-pad1"),
    conv("n1c19h7w13-k17r3s3-pad1"),
    conv("n2c136h5w7-k24r1s1"),
    conv("n2c72h8w8-k40r3s3-pad1"),  # for kernels by TMA, with patches too
    conv("n2c16h7w9-k16r3s3-pad1-g16"),
]


def terms_of(direction, case, problem):
    if direction == "conv2d":
        return case.r * case.s * case.c // case.groups
    if direction == "conv2d_grad_input":
        return case.r * case.s * case.k // case.groups
    return problem.grad[:, 0].size


@pytest.mark.parametrize("case", params(BOUND_CASES))
@pytest.mark.parametrize(("direction", "kernel"), forced_kernels())
def test_every_kernel_is_within_its_bound(direction, kernel, case, rng):
    """n eps sum |a| |b| of float32, and one rounding to the dtype that is stored."""
    problem = Problem(case, rng, normals)

    def check(dtype, precision):
        for name in ("x", "weight", "grad"):
            setattr(problem, name, rounded(getattr(problem, name), dtype))
        expected = problem.expected(direction)
        arrays = [a for a in problem.operands(direction) if isinstance(a, np.ndarray)]
        shapes = {"conv2d_grad_input": {"input_shape": problem.x.shape},
                  "conv2d_grad_weight": {"weight_shape": problem.weight.shape}}  # fmt: skip
        function, more = getattr(reference, direction), shapes.get(direction, {})
        arguments = {**more, **case.arguments}
        bound = sum_bound(function, *arrays, terms=terms_of(direction, case, problem), **arguments)
        if dtype == "float32":
            magnitudes = [np.abs(a).astype(np.float64) for a in arrays]
            bound = bound + PRODUCT_ERROR[precision] * function(*magnitudes, **arguments)
        actual = host(problem.run(direction, dtype, "channels_last"))
        assert_within_bound(
            actual, expected, bound + (dtype != "float32") * rounding(expected, dtype)
        )

    with_kernel(kernel, check)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("size", "pixel"),
    [("h6w7-k17", (2, 3)), ("h6w7-k24", (-1, -1)), ("h8w8-k24", (2, 3))],
    ids=["tails", "last", "whole"],
)
@pytest.mark.parametrize(("direction", "kernel"), forced_kernels())
def test_nan_and_infinity_reach_their_elements_only(direction, kernel, size, pixel, value, rng):
    """A NaN that was multiplied by the zeros beyond an edge would show in elements it has no part
    in. Positive values elsewhere, so that an infinity is never cancelled."""
    case = conv(f"n1c16{size}r3s3-pad1")
    problem = Problem(case, rng, lambda shape, rng: 1 + rng.random(shape).astype(np.float32))
    operand = problem.x if direction != "conv2d_grad_input" else problem.grad
    operand[(0, operand.shape[1] - 1, *pixel)] = value
    touched = ~np.isfinite(_without_padding(direction, problem))

    def check(dtype, precision):
        actual = host(problem.run(direction, dtype, "channels_last"))
        assert_exact(~np.isfinite(actual), touched)

    with_kernel(kernel, check)


def _without_padding(direction, problem):
    """The reference, in which padding's zeros meet the special value where weights do."""
    with np.errstate(invalid="ignore"):
        return problem.expected(direction)


@pytest.mark.parametrize(("direction", "kernel"), forced_kernels())
def test_same_bits_from_run_to_run_and_in_any_thread_order(direction, kernel, rng, monkeypatch):
    problem = Problem(conv("n2c40h7w6-k24r3s3-pad1"), rng, normals)

    def check(dtype, precision):
        first = host(problem.run(direction, dtype, "channels_last"))
        for order in THREAD_ORDERS:
            monkeypatch.setenv("FASTCONV_EMULATION_ORDER", order)  # if emulated; else again
            assert np.array_equal(host(problem.run(direction, dtype, "channels_last")), first)

    with_kernel(kernel, check)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [16, 12])
def test_weights_whose_rows_begin_between_16_byte_lines(dtype, channels, rng):
    """Aligned at its first element, but a slice of filters of three more channels."""
    x, wide = integers((2, channels, 5, 4), rng), integers((24, channels + 3, 1, 1), rng)
    grad = integers((2, 24, 5, 4), rng)
    dx, dg = on_gpu(x, dtype, "channels_last"), on_gpu(grad, dtype, "channels_last")
    weight = on_gpu(wide, dtype)[:, :channels]
    assert weight.ptr % 16 == 0
    assert weight.strides[0] % 16 != 0
    kernel = wide[:, :channels]
    expected = reference.conv2d(*float64(x, kernel))
    assert_exact(host(fc.conv2d(dx, weight)), rounded(expected, dtype))
    expected = reference.conv2d_grad_input(*float64(grad, kernel), x.shape)
    assert_exact(host(fc.conv2d_grad_input(dg, weight, x.shape)), rounded(expected, dtype))


def test_without_channels_bias_residual_and_relu_are_left(rng):
    x, weight = np.zeros((2, 0, 3, 4), np.float32), np.zeros((5, 0, 1, 1), np.float32)
    bias, residual = integers((5,), rng), integers((2, 5, 3, 4), rng)
    arguments = {"activation": "relu"}
    expected = reference.conv2d(x, weight, bias, residual=residual, **arguments)
    operands = [fc.cuda.asarray(array) for array in (x, weight, bias)]
    result = fc.conv2d(*operands, residual=fc.cuda.asarray(residual), **arguments)
    assert_exact(host(result), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_gradient(dtype, rng):
    for shape in [(2, 3, 5, 7), (1, 65, 1, 1), (3, 8, 4, 4), (0, 3, 2, 2), (5, 130, 3, 1)]:
        grad = integers(shape, rng)
        expected = grad.astype(np.float64).sum((0, 2, 3))
        for order in ORDERS:
            placed = on_gpu(grad, dtype, order)
            assert_exact(host(fc.conv2d_grad_bias(placed)), rounded(expected, dtype))
            out = Poisoned(expected.shape, dtype, order)
            out.array[...] = on_gpu(np.ones(shape[1], np.float32), dtype)
            fc.conv2d_grad_bias(placed, out=out.array, accumulate=True)
            assert_exact(host(out.array), rounded(expected + 1, dtype))
            out.only_wrote()


@pytest.mark.parametrize("case", params(CONV_TRANSPOSE))
def test_conv_transpose(case, rng):
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    bias = integers((case.k,), rng)
    expected = reference.conv_transpose2d(*float64(x, weight, bias), **case.arguments)
    grad = integers(expected.shape, rng)
    grads = reference.conv_transpose2d_backward(*float64(grad, x, weight), **case.arguments)
    for dtype in ("float32", "bfloat16"):
        placed = [on_gpu(a, dtype, "channels_last") for a in (x, weight)]
        y = fc.conv_transpose2d(*placed, on_gpu(bias, dtype), **case.arguments)
        assert_exact(host(y), rounded(expected, dtype))
        ours = fc.conv_transpose2d_backward(on_gpu(grad, dtype), *placed, **case.arguments)
        for mine, theirs in zip(ours, grads, strict=True):
            assert_exact(host(mine), rounded(theirs, dtype))


def test_all_gradients_at_once(rng):
    x, weight = integers((2, 8, 6, 7), rng), integers((16, 8, 3, 3), rng)
    y = fc.conv2d(x, weight, padding=1, activation="relu")
    grad = integers(y.shape, rng)
    expected = reference.conv2d_backward(
        *float64(grad, x, weight), padding=1, activation="relu", output=y
    )
    placed = [on_gpu(a, "float32", "channels_last") for a in (grad, x, weight, y)]
    ours = fc.conv2d_backward(*placed[:3], padding=1, activation="relu", output=placed[3])
    for mine, theirs in zip(ours, expected, strict=True):
        assert_exact(host(mine), theirs)
    assert fc.is_channels_last(ours[0])
    assert fc.is_channels_last(ours[1])


def test_single_images_packed_weights_and_one_dimension(rng):
    x, weight = integers((2, 8, 6, 7), rng), integers((16, 8, 3, 3), rng)
    placed, kernel = on_gpu(x), on_gpu(weight)
    y = fc.conv2d(x, weight)
    assert_exact(host(fc.conv2d(placed[1], kernel)), y[1])
    packed = fc.pack_weight(kernel)
    kernel.fill(0)  # a snapshot
    assert_exact(host(fc.conv2d(placed, packed)), y)
    line, taps = integers((2, 8, 9), rng), integers((5, 8, 3), rng)
    assert_exact(host(fc.conv1d(on_gpu(line), on_gpu(taps), stride=2)),
                 fc.conv1d(line, taps, stride=2))  # fmt: skip


def test_memory_order_of_results():
    x = on_gpu(np.ones((2, 8, 6, 7), np.float32), order="channels_last")
    weight = on_gpu(np.ones((4, 8, 1, 1), np.float32))
    assert fc.is_channels_last(fc.conv2d(x, weight))
    assert fc.conv2d(x.copy("C"), weight).flags.c_contiguous
    assert fc.channels_last(x) is x
    assert fc.is_channels_last(fc.channels_last(x.copy("C")))


def test_errors():
    x, weight = (on_gpu(np.ones(s, np.float32)) for s in ((1, 2, 5, 5), (3, 2, 3, 3)))
    with pytest.raises(ValueError, match=r"weight is on the CPU, but x is on CUDA device 0"):
        fc.conv2d(x, host(weight))
    with pytest.raises(ValueError, match=r"weight is on CUDA device 0, but x is on the CPU"):
        fc.conv2d(host(x), weight)
    with pytest.raises(TypeError, match=r"weight has dtype float16, but x has float32"):
        fc.conv2d(x, weight.astype("float16"))
    with pytest.raises(TypeError, match=r"int64.*float32, float16 and bfloat16 have on a CUDA"):
        fc.conv2d(x.astype("int64"), weight)
    with pytest.raises(ValueError, match=r"out overlaps x"):
        fc.relu(x, out=x[:, :, ::-1])
    with pytest.raises(ValueError, match=r"kernel: 'wmma' is none of"), fc.cuda.kernel("wmma"):
        pass
    with pytest.raises(ValueError, match=r"winograd4.*has no CUDA kernel"):
        fc.conv2d(x, weight, algorithm="winograd4")


def test_out_may_be_the_other_channels_of_the_buffer_that_holds_x(rng):
    x, weight = integers((2, 8, 5, 5), rng), integers((8, 8, 1, 1), rng)
    buffer = fc.cuda.empty((2, 5, 5, 16), dtype="float32").transpose(0, 3, 1, 2)
    buffer[:, :8] = on_gpu(x)
    fc.conv2d(buffer[:, :8], on_gpu(weight), out=buffer[:, 8:])
    assert_exact(host(buffer[:, 8:].copy()), fc.conv2d(x, weight))
    with pytest.raises(ValueError, match="out overlaps x"):
        fc.conv2d(buffer[:, :8], on_gpu(weight), out=buffer[:, 4:12])


@pytest.mark.parametrize("family", ["torch", "cupy"])
def test_tensors_of_other_libraries(family, rng):
    library = pytest.importorskip(family)
    x, weight = integers((2, 8, 5, 5), rng), integers((8, 8, 3, 3), rng)
    expected = fc.conv2d(x, weight)
    if family == "torch":
        if not library.cuda.is_available():
            pytest.skip("torch sees no GPU")
        move = lambda a: library.from_numpy(a).cuda()  # noqa: E731
    else:
        move = library.asarray
    y = fc.conv2d(move(x), move(weight))
    assert type(y) is type(move(x))
    assert_exact(host(y), expected)
    assert_exact(host(fc.conv2d(on_gpu(x), move(weight))), expected)
    if family == "torch":
        half = fc.conv2d(move(x).bfloat16(), move(weight).bfloat16())
        assert half.dtype == library.bfloat16
        with pytest.raises(TypeError, match=r"\.detach\(\)"):
            fc.conv2d(move(x).requires_grad_(), move(weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_explain_and_verify(dtype, rng):
    x, weight = normals((2, 16, 7, 7), rng), normals((24, 16, 3, 3), rng)
    placed = on_gpu(x, dtype, "channels_last"), on_gpu(weight, dtype)
    plan = fc.explain(fc.conv2d, *placed, padding=1)
    assert (plan.dtype, plan.channels_last, plan.macs) == (dtype, True, 2 * 49 * 24 * 16 * 9)
    assert plan.kernel in str(plan)
    assert plan.kernel in fc.cuda.kernels(fc.conv2d)
    assert fc.verify(fc.conv2d, *placed, padding=1)
    with fc.float32_precision("tf32"):
        assert fc.verify(fc.conv2d, *placed, padding=1)
