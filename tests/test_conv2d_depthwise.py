"""algorithm="depthwise": all directions of every instruction set, forced by name."""

import itertools

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import check_bounds, check_exact, check_same_bits, check_special_values, operands
from fastconv import reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, integers, params, poisoned

WINDOWS = [
    *(cases.conv(f"n2c19h{h}w{w}-k19r3s3-st{st}-pad1-g19")
      for h, w in ((1, 1), (2, 3), (5, 4), (6, 9), (9, 12), (7, 14)) for st in (1, 2)),
    *(cases.conv(f"n1c9h9w{w}-k9r5s5-st{st}-pad2-g9")
      for w in (1, 4, 5, 9, 13, 16) for st in (1, 2)),
    *(cases.conv(f"n1c5h13w{w}-k5r7s7-pad3-g5") for w in (6, 8, 19)),
    cases.conv("n1c5h9w8-k5r3s3-g5"),  # no padding: read in place throughout
    cases.conv("n1c5h9w8-k5r3s3-st2x1-pad1x2-g5"),
    cases.conv("n1c5h9w11-k5r3s5-st1x3-pad0.3x2.1-dil3x2-g5"),
    cases.conv("n1c5h9w8-k5r3s3-pad4-g5"),  # windows of padding alone
    cases.conv("n1c5h4w4-k5r9s7-pad5-g5"),  # a kernel larger than the image
    cases.conv("n1c5h9w8-k5r1s1-st2-g5"),
    cases.conv("n1c5h9w8-k5r1s1-st2-pad1-g5"),
    cases.conv("n1c5h6w7-k5r1s5-padsame-g5"),
    cases.conv("n1c5h9w8-k5r2s4-st3x2-pad1-g5"),
    cases.conv("n1c4h30w5-k4r29s28-pad0x14-g4"),  # 812 taps: two blocks
    cases.conv("n1c4h3w600-k4r1s590-pad0x3-g4"),
    cases.conv("n1c4h5w1100-k4r3s3-pad1-g4"),  # a row beyond one accumulator of grad_weight
    cases.conv("n3c4h31w17-k4r3s3-st2-pad1-g4"),
]  # fmt: skip
CHANNELS = [
    *(cases.conv(f"n1c{c}h5w6-k{c}r3s3-pad1-g{c}")
      for c in (2, 4, 12, 31, 32, 63, 64, 127, 129, 256, 257, 513)),
    *(cases.conv(f"n2c{c}h6w9-k{m * c}r3s3-st{st}-pad1-g{c}")
      for c, m in ((3, 2), (5, 3), (17, 4), (64, 2)) for st in (1, 2)),
    cases.conv("n1c3h7w5-k21r5s3-st1x2-pad2x1-dil1x2-g3"),
    cases.conv("n1c2h29w29-k6r28s28-g2"),  # 3 x 784 terms of grad_input
]  # fmt: skip
OURS = [case for case in [*cases.CONV, *cases.CONV_FEW] if case.groups == case.c > 1]
FEW = [
    cases.conv("n2c17h7w9-k17r3s3-pad1-g17"),
    cases.conv("n2c40h12w11-k40r3s3-st2-pad1-g40"),
    cases.conv("n1c9h9w13-k9r5s5-st1-pad2-g9"),
    cases.conv("n1c10h9w13-k10r5s5-st2-pad2-g10"),
    cases.conv("n1c9h9w11-k9r3s5-st1x3-pad0.3x2.1-dil3x2-g9"),
    cases.conv("n2c6h7w8-k18r3s3-st2-pad1-g6"),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(dict.fromkeys([*OURS, *WINDOWS, *CHANNELS])))
def test_exact(case, dtype, isa, rng):
    for order in ("C", "channels_last"):
        check_exact(case, "depthwise", rng, dtype, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(FEW))
def test_any_strides(case, order, isa, rng):
    check_exact(case, "depthwise", rng, order=order)


def test_operands_of_different_orders(isa, rng):
    case = FEW[1]
    x, weight, bias, _ = operands(case, rng, np.float32)
    y = reference.conv2d(x, weight, bias, **case.arguments)
    few = ("C", "channels_last", "reversed")
    for first, second, third in itertools.product(few, repeat=3):
        residual = integers(y.shape, rng)
        out = poisoned(y.shape, order=second)
        fc.conv2d(
                in_order(x, first), weight, bias, residual=in_order(residual, third),
                algorithm="depthwise", out=out, **case.arguments,
            )  # fmt: skip
        assert_exact(out, y + residual)
        assert_only_wrote(out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(FEW))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    check_bounds(case, "depthwise", rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params([*FEW, cases.conv("n1c8h64w66-k8r3s3-pad1-g8")]))
def test_same_bits_for_any_thread_count_and_batch(case, dtype, isa, rng):
    check_same_bits(case, "depthwise", rng, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", params(FEW))
def test_special_values_as_in_the_reference(case, value, isa, rng):
    check_special_values(case, "depthwise", value, rng)


def test_sums_are_blocked(isa):
    """784 taps, 65,536 positions: one accumulator would drift to 1e-5 and 5e-4."""
    x = np.full((1, 2, 283, 283), 0.1, np.float32)
    weight = np.ones((2, 1, 28, 28), np.float32)
    options = {"groups": 2, "algorithm": "depthwise"}
    y = fc.conv2d(x, weight, **options)
    assert np.abs(y / (784 * float(np.float32(0.1))) - 1).max() < 2e-6
    gradient = fc.conv2d_grad_weight(np.ones_like(y), x, weight.shape, **options)
    assert np.abs(gradient / (65536 * float(np.float32(0.1))) - 1).max() < 1e-5


def test_rows_beyond_a_threads_scratch(isa, rng):
    """A strip of one row would take 6 MB: columns are cut too."""
    case = cases.conv("n1c2h3w100003-k2r3s3-pad1-g2")
    for order in ("C", "channels_last"):
        check_exact(case, "depthwise", rng, order=order)


@pytest.mark.parametrize("stride", [3, 17, 10**9])
def test_strides_beyond_the_image(stride, rng):
    check_exact(cases.conv(f"n2c5h6w7-k5r3s3-st{stride}-pad1-g5"), "depthwise", rng)
    check_exact(cases.conv(f"n2c5h6w7-k10r3s3-st{stride}-pad1-g5"), "auto", rng)


@pytest.mark.parametrize("algorithm", ["auto", "naive", "im2col", "direct"])
def test_no_filters(algorithm):
    x, weight = np.ones((2, 4, 5, 6)), np.ones((0, 1, 3, 3))
    options = {"groups": 4, "algorithm": algorithm}
    y = fc.conv2d(x, weight, **options)
    assert y.shape == (2, 0, 3, 4)
    assert_exact(fc.conv2d_grad_input(y, weight, x.shape, **options), np.zeros_like(x))
    assert fc.conv2d_grad_weight(y, x, weight.shape, **options).shape == weight.shape
    with pytest.raises(ValueError, match="depthwise: there are no filters"):
        fc.conv2d(x, weight, groups=4, algorithm="depthwise")


def test_auto_takes_it():
    plan = fc.explain(fc.conv2d, (1, 32, 28, 28), (32, 1, 3, 3), padding=1, groups=32)
    assert "depthwise" in str(plan)
    x, weight = np.zeros((1, 32, 9, 9), np.float32), np.zeros((32, 1, 3, 3), np.float32)
    y = fc.conv2d(x, weight, groups=32)
    for function, arguments in (
        (fc.conv2d, (x, weight)),
        (fc.conv2d_grad_input, (y, weight, x.shape)),
        (fc.conv2d_grad_weight, (y, x, weight.shape)),
    ):
        function(*arguments, groups=32, algorithm="depthwise")


@pytest.mark.parametrize(
    ("channels", "filters", "groups", "reason"),
    [
        (4, 6, 2, "groups differ from the input's channels"),
        (4, 4, 1, "groups differ from the input's channels"),
        (1, 3, 1, "one group is a dense convolution"),
    ],
)
def test_rejections_say_why(channels, filters, groups, reason):
    x = np.zeros((1, channels, 5, 5))
    weight = np.zeros((filters, channels // groups, 3, 3))
    words = f"algorithm 'depthwise' cannot do this problem: depthwise: {reason}"
    with pytest.raises(ValueError, match=words):
        fc.conv2d(x, weight, groups=groups, algorithm="depthwise")
    grad = np.zeros((1, filters, 3, 3))
    with pytest.raises(ValueError, match=words):
        fc.conv2d_grad_input(grad, weight, x.shape, groups=groups, algorithm="depthwise")
    with pytest.raises(ValueError, match=words):
        fc.conv2d_grad_weight(grad, x, weight.shape, groups=groups, algorithm="depthwise")


@pytest.mark.parametrize("case", params(FEW[:4]))
def test_agrees_with_pytorch(case, isa, rng):
    torch = pytest.importorskip("torch")
    x, weight, bias, grad = operands(case, rng, np.float32)
    arguments = case.arguments | {"padding": tuple(low for low, _ in case.padding)}
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, weight, bias)]
    y = torch.nn.functional.conv2d(*tensors, **arguments)
    options = {"algorithm": "depthwise", **arguments}
    assert_exact(fc.conv2d(x, weight, bias, **options), y.detach().numpy())
    y.backward(torch.from_numpy(grad))
    assert_exact(fc.conv2d_grad_input(grad, weight, x.shape, **options), tensors[0].grad.numpy())
    assert_exact(fc.conv2d_grad_weight(grad, x, weight.shape, **options), tensors[1].grad.numpy())
