"""algorithm="im2col": all directions of every instruction set, forced by name."""

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import (
    check_bounds,
    check_exact,
    check_same_bits,
    check_special_values,
    operands,
)
from fastconv import reference
from support import ORDERS, assert_exact, available_isas, integers, normals, params

# Around its own blocks: 96 or 24 rows of outputs, 512 of depth, 1024 columns a part.
BLOCKS = [
    *(cases.conv(f"n1c2h1w{w}-k3r1s1") for w in (23, 24, 25, 95, 96, 97, 193)),
    *(cases.conv(f"n1c2h{h}w7-k3r3s3-pad1") for h in (13, 14, 15)),
    *(cases.conv(f"n1c{c}h2w3-k5r1s1") for c in (511, 512, 513, 1025)),
    *(cases.conv(f"n1c2h2w3-k{k}r1s1") for k in (1023, 1024, 1025)),
    cases.conv("n3c2h13w14-k3r2s2"),  # 468 positions
    cases.conv("n3c2h14w14-k97r2s2-g1"),  # 507
    cases.conv("n1c1h19w29-k3r2s2"),  # 504
    cases.conv("n1c1h20w28-k3r2s2"),  # 513
    cases.conv("n2c4h33w35-k6r3s3-st2-pad1-g2"),
]
# grad_input of few channels.
FEW_CHANNELS = [
    cases.conv("n2c1h9w11-k8r5s5"),
    cases.conv("n2c6h14w14-k16r5s5-pad2"),  # LeNet's second
    cases.conv("n2c3h17w19-k9r7s7-st2-pad3"),
    cases.conv("n1c3h23w21-k16r11s11-st4-pad2"),
    cases.conv("n1c3h15w13-k8r3s3-pad1"),
    cases.conv("n1c4h29w13-k20r3s4-pad0.1x2.0-dil2x1"),
    cases.conv("n2c10h13w11-k18r5s5-pad2-g2"),
    cases.conv("n1c2h12w13-k8r2s3-st4"),  # elements in no window
    cases.conv("n1c1h40w5-k1030r3s3-pad1"),  # depth in blocks
    cases.conv("n1c3h9w301-k8r3s3-pad1"),
    cases.conv("n1c2h3w4-k8r5s5-pad7"),  # windows that see padding alone
]
CASES = [*cases.CONV, *BLOCKS, *FEW_CHANNELS]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(CASES))
def test_exact(case, dtype, isa, rng):
    check_exact(case, "im2col", rng, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params([*cases.CONV_FEW, *FEW_CHANNELS[2:4], FEW_CHANNELS[6]]))
def test_any_strides(case, order, isa, rng):
    check_exact(case, "im2col", rng, order=order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params([*cases.CONV_FEW, BLOCKS[-1], *FEW_CHANNELS]))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    check_bounds(case, "im2col", rng, dtype)


@pytest.mark.parametrize("case", params([*cases.CONV_FEW, BLOCKS[-1], *FEW_CHANNELS]))
def test_same_bits_for_any_thread_count_and_batch(case, isa, rng):
    check_same_bits(case, "im2col", rng)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("filters", [4, 9])  # 9: grad_input of few channels
def test_special_values_as_in_the_reference(filters, value, isa, rng):
    case = cases.conv(f"n1c3h7w8-k{filters}r3s3-st2-pad1")
    check_special_values(case, "im2col", value, rng)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("n128c6h14w14-k16r5s5", "im2col"),
        ("n8c3h224w224-k64r7s7-st2-pad3", "im2col"),
        ("n8c3h224w224-k64r7s7-st2-pad3-dil1x2", "im2col"),  # a kernel row's columns lie apart
        ("n8c3h224w224-k2r7s7-st2-pad3", "direct"),  # too few filters for what is added up
        ("n8c32h56w56-k64r7s7-st2-pad3", "direct"),
    ],
)
def test_auto_leaves_gradients_of_few_channels_to_it(name, taken):
    if "avx512" not in available_isas():
        pytest.skip("columns are counted here in vectors of 16")
    case = cases.conv(name)
    window = {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
    grad = fc.conv2d_output_shape(case.input_shape, case.weight_shape, **window)
    operands = (grad, case.weight_shape, case.input_shape)
    with fc.isa("avx512"):
        assert fc.explain(fc.conv2d_grad_input, *operands, **case.arguments).algorithm == taken


def test_auto_takes_it_where_a_window_is_too_large_for_direct(isa, rng):
    """2 x 800,000 terms an output, 3.2 MB a position: beyond what a thread may have as scratch."""
    case = cases.conv("n1c800000h1w3-k2r1s2")
    x, weight, bias, grad = operands(case, rng, np.float32)
    assert 9 * 2 * case.c < 2**24  # exact in any order
    expected = reference.conv2d(x, weight, bias)
    with pytest.raises(ValueError, match="more scratch than a thread may have"):
        fc.conv2d(x, weight, bias, algorithm="direct")
    assert_exact(fc.conv2d(x, weight, bias), expected)
    assert_exact(fc.conv2d(x, fc.pack_weight(weight), bias), expected)
    actual = fc.conv2d_grad_input(grad, weight, x.shape, algorithm="im2col")
    assert_exact(actual, reference.conv2d_grad_input(grad, weight, x.shape))
    actual = fc.conv2d_grad_weight(grad, x, weight.shape, algorithm="im2col")
    assert_exact(actual, reference.conv2d_grad_weight(grad, x, weight.shape))


def test_a_kernel_of_many_taps(isa, rng):
    case = cases.conv("n1c3h41w43-k2r40s42-pad1")
    check_exact(case, "im2col", rng)


def test_packed_weight_gives_the_same_bits(isa, rng):
    case = cases.conv("n1c12h9w7-k18r3s3-st2-pad0.1x2.0-dil1x2-g3")
    x, weight = normals(case.input_shape, rng), normals(case.weight_shape, rng)
    options = {"algorithm": "im2col", **case.arguments}
    packed = fc.pack_weight(weight, groups=3)
    assert np.array_equal(fc.conv2d(x, packed, **options), fc.conv2d(x, weight, **options))


def test_deep_sums_are_blocked(isa):
    depth = 1 << 15
    x, weight = np.full((1, depth, 1, 1), 0.1, np.float32), np.ones((1, depth, 1, 1), np.float32)
    y = float(fc.conv2d(x, weight, algorithm="im2col")[0, 0, 0, 0])
    assert abs(y / (depth * float(np.float32(0.1))) - 1) < 1e-5


def test_agrees_with_pytorch(isa, rng):
    torch = pytest.importorskip("torch")
    case = cases.conv("n2c6h9w8-k8r3s2-st2x1-pad1x0-dil1x2-g2")
    x, weight = (integers(s, rng, np.float64) for s in (case.input_shape, case.weight_shape))
    arguments = case.arguments | {"padding": (1, 0)}
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, weight)]
    y = torch.nn.functional.conv2d(*tensors, **arguments)
    assert_exact(fc.conv2d(x, weight, algorithm="im2col", **arguments), y.detach().numpy())
    grad = integers(y.shape, rng, np.float64)
    y.backward(torch.from_numpy(grad))
    dx = fc.conv2d_grad_input(grad, weight, x.shape, algorithm="im2col", **arguments)
    assert_exact(dx, tensors[0].grad.numpy())
    dw = fc.conv2d_grad_weight(grad, x, weight.shape, algorithm="im2col", **arguments)
    assert_exact(dw, tensors[1].grad.numpy())
