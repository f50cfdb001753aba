"""im2col's grad_input by a product and col2im, where the phases would multiply padding."""

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import check_bounds, check_exact, check_same_bits, check_special_values
from fastconv import reference
from support import ORDERS, assert_exact, in_order, integers, params

# Around its chunks (32 KB of terms), blocks and bands; strides that leave gaps.
CASES = [
    *(cases.conv(f"n1c1h4w{w}-k12r3s3-pad1") for w in (383, 384, 385, 1537)),
    *(cases.conv(f"n1c3h{h}w11-k32r3s3-pad1") for h in (8, 9, 17, 18)),
    *(cases.conv(f"n1c2h6w7-k{k}r3s3-pad1") for k in (511, 512, 513, 1025)),
    cases.conv("n2c3h33w35-k16r7s7-st2-pad3"),
    cases.conv("n1c3h39w43-k9r11s11-st4-pad2"),
    cases.conv("n1c3h11w13-k12r2s2-st3"),  # columns that no tap reaches
    cases.conv("n1c3h13w14-k12r3s3-st2x1-pad0.1x2.0"),
    cases.conv("n1c3h12w13-k12r3s4-pad2-dil2x1"),
    cases.conv("n2c6h9w10-k24r5s5-pad2-g2"),
    cases.conv("n1c65h10w11-k19r7s7"),  # 16 positions, 110 pixels
    cases.conv("n1c1h9w8-k64r5s5-pad6"),  # windows that see padding alone
]


def _plan(case):
    shape = fc.conv2d_output_shape(
        case.input_shape, case.weight_shape,
        **{name: case.arguments[name] for name in ("stride", "padding", "dilation")},
    )  # fmt: skip
    return fc.explain(
        fc.conv2d_grad_input, shape, case.weight_shape, case.input_shape,
        algorithm="im2col", **case.arguments,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(CASES))
def test_exact(case, dtype, isa, rng):
    plan = _plan(case)
    if isa != "scalar":  # three channels fill three of its four lanes
        assert plan.col2im is not None
        assert "product and col2im" in str(plan)
    check_exact(case, "im2col", rng, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(CASES[-8:]))
def test_any_strides(case, order, isa, rng):
    check_exact(case, "im2col", rng, order=order)


@pytest.mark.parametrize("case", params(CASES[4:]))
def test_rounding_error_is_within_the_bound(case, isa, rng):
    check_bounds(case, "im2col", rng)


@pytest.mark.parametrize("case", params(CASES[3:]))
def test_same_bits_for_any_thread_count_and_batch(case, isa, rng):
    check_same_bits(case, "im2col", rng)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_as_in_the_reference(value, isa, rng):
    check_special_values(cases.conv("n1c3h7w8-k4r3s3-st2-pad1"), "direct", value, rng)


@pytest.mark.parametrize("order", ORDERS)
def test_a_transposed_convolution_adds_its_bias_once(order, isa, rng):
    x, weight, bias = integers((2, 7, 5, 6), rng), integers((7, 3, 4, 5), rng), integers((3,), rng)
    expected = reference.conv_transpose2d(x, weight, bias, stride=2, padding=1)
    actual = fc.conv_transpose2d(
        in_order(x, order), in_order(weight, order), bias, stride=2, padding=1, algorithm="im2col"
    )
    assert_exact(actual, expected)


def test_it_is_taken_for_what_padding_costs_and_no_more():
    """Three channels in a vector of 16; 100 positions against 256; but not 3x3 over 64 channels."""
    first = fc.explain(
        fc.conv2d_grad_input, (1, 64, 224, 224), (64, 3, 3, 3), (1, 3, 224, 224), padding=1
    )
    assert (first.algorithm, first.phases) == ("im2col", [])
    assert first.scratch_bytes_per_thread > 0
    valid = fc.explain(
        fc.conv2d_grad_input, (1, 128, 10, 10), (128, 128, 7, 7), (1, 128, 16, 16),
        algorithm="im2col",
    )  # fmt: skip
    assert valid.col2im is not None
    same = fc.explain(
        fc.conv2d_grad_input, (1, 64, 56, 56), (64, 64, 3, 3), (1, 64, 56, 56), padding=1,
        algorithm="im2col",
    )  # fmt: skip
    assert same.col2im is None


def test_bands_share_the_rows_among_threads():
    shape = ((1, 64, 224, 224), (64, 3, 3, 3), (1, 3, 224, 224))
    one = fc.explain(fc.conv2d_grad_input, *shape, padding=1, threads=1)
    many = fc.explain(fc.conv2d_grad_input, *shape, padding=1, threads=8)
    assert many.tasks % 8 == 0
    assert one.tasks < 8
    assert one.col2im["chunk"] == many.col2im["chunk"]  # which fixes the bits
