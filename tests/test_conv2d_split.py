"""float32 as three bfloat16 on matrix tiles: `direct` and `pointwise` of the instruction set "amx"
(csrc/cpu/kernels_split.h)."""

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import check_bounds, check_exact, check_same_bits, check_special_values, operands
from fastconv import reference
from support import (
    ORDERS,
    assert_within_bound,
    available_isas,
    in_order,
    normals,
    params,
    sum_bound,
)

pytestmark = pytest.mark.skipif(
    "amx" not in available_isas(), reason="this processor has no matrix tiles"
)

# Columns, rows and depths that are no multiples of 32; several depth blocks of 16 steps.
CASES = [
    cases.conv("n1c96h31w30-k160r1s1"),
    cases.conv("n1c1100h21w20-k140r1s1"),  # three blocks, the last step not full
    cases.conv("n1c512h31w29-k161r1s1"),  # a last panel of one column
    cases.conv("n3c128h46w45-k128r1s1-st2"),
    cases.conv("n1c48h34w26-k130r3s3-pad1"),  # a step holds parts of two taps
    cases.conv("n1c64h46w45-k129r3s3-st2-pad1"),
    cases.conv("n2c200h28w23-k256r3s2-pad1-g2"),
    cases.conv("n1c12h29w38-k140r3s5-pad2"),  # a kernel row a segment
    cases.conv("n1c160h13w17-k128r2s3-dil2x1-pad1"),
    cases.conv("n2c128h24w22-k144r3s3-pad1"),
]


@pytest.fixture(autouse=True)
def matrix_tiles():
    with fc.isa("amx"):
        yield


def split(case, **options):
    window = case.arguments | {"algorithm": "direct"} | options
    return fc.explain(fc.conv2d, case.input_shape, case.weight_shape, **window).phases[0]["split"]


@pytest.mark.parametrize("case", params(CASES))
def test_they_are_taken(case):
    assert split(case)
    with fc.isa("avx512"):
        assert not split(case)


@pytest.mark.parametrize(
    "name",
    [
        "n1c64h56w56-k16r1s1",  # few columns: splitting costs more than it saves
        "n64c512h7w7-k512r3s3-pad1",  # few positions an image, whatever the batch
        "n1c3h64w64-k64r3s3-pad1",
    ],
)
def test_others_are_left_alone(name):
    case = cases.conv(name)
    assert not split(case)


GRADIENTS = [
    cases.conv("n1c192h31w30-k256r1s1"),
    cases.conv("n2c210h21w20-k197r1s1"),  # rows and columns that fill no tile, images in one row
    cases.conv("n3c256h46w45-k192r1s1-st2"),  # positions that do not follow each other
    cases.conv("n2c512h29w28-k512r1s1-g2"),
    cases.conv("n9c192h9w9-k256r1s1-st2"),  # several images a chunk
]


def split_gradient(case):
    window = {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
    grad = fc.conv2d_output_shape(case.input_shape, case.weight_shape, **window)
    x = fc.channels_last(np.empty(case.input_shape, np.float32))
    grad = fc.channels_last(np.empty(grad, np.float32))
    plan = fc.explain(fc.conv2d_grad_weight, grad, x, case.weight_shape, **case.arguments)
    return plan.phases[0]["split"]


@pytest.mark.parametrize("case", params(GRADIENTS))
def test_gradients_take_them(case):
    assert split_gradient(case)
    with fc.isa("avx512"):
        assert not split_gradient(case)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(GRADIENTS))
def test_exact_gradients(case, order, rng):
    check_exact(case, "direct", rng, np.float32, order)
    if case.arguments["stride"] == (1, 1):
        check_exact(case, "pointwise", rng, np.float32, order)


@pytest.mark.parametrize("case", params(GRADIENTS))
def test_gradients_within_the_bound_and_of_the_same_bits(case, rng):
    check_bounds(case, "direct", rng)
    check_same_bits(case, "direct", rng)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", params(GRADIENTS))
def test_special_values_of_gradients(case, value, rng):
    check_special_values(case, "direct", value, rng, every_operand=True)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(CASES))
def test_exact(case, order, rng):
    check_exact(case, "direct", rng, np.float32, order)


def test_exact_pointwise(rng):
    check_exact(CASES[0], "pointwise", rng, np.float32, "channels_last")


@pytest.mark.parametrize("case", params(CASES))
def test_within_the_bound_of_ordinary_sums(case, rng):
    check_bounds(case, "direct", rng)


@pytest.mark.parametrize("case", params(CASES))
def test_same_bits(case, rng):
    check_same_bits(case, "direct", rng)


@pytest.mark.parametrize("case", params(CASES[:4]))
@pytest.mark.parametrize(("of_y", "of_residual"), [("C", "channels_last"), ("channels_last", "C")])
def test_results_in_another_order_than_the_residual(case, of_y, of_residual, rng):
    x, weight, bias, residual = operands(case, rng, np.float32)
    expected = reference.conv2d(x, weight, bias, **case.arguments) + residual
    out = in_order(np.full_like(residual, np.nan), of_y)
    fc.conv2d(in_order(x, "channels_last"), weight, bias, residual=in_order(residual, of_residual),
              out=out, algorithm="direct", **case.arguments)  # fmt: skip
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("case", params(CASES))
def test_packed_ahead_gives_the_same_bits(case, rng):
    x, weight, bias, _ = operands(case, rng, np.float32, normals)
    options = {"algorithm": "direct", **case.arguments}
    packed = fc.pack_weight(weight, groups=options["groups"])
    y = fc.conv2d(in_order(x, "channels_last"), weight, bias, **options)
    assert np.array_equal(fc.conv2d(in_order(x, "channels_last"), packed, bias, **options), y)
    assert packed.formats == ("split",)


@pytest.mark.parametrize(
    ("name", "order", "weight_order"),
    [
        ("n2c384h11w11-k304r3s3-pad1", "channels_last", "C"),  # near the cost model's limit
        ("n1c1024h33w33-k256r3s3-pad6-dil6", "C", "channels_last"),  # strips near a task's scratch
        ("n2c64h30w31-k256r1s1-g64", "C", "C"),  # one channel a group
        ("n2c256h30w31-k256r3s3-pad1-g256", "C", "C"),
    ],
)
def test_packing_decides_nothing(name, order, weight_order, rng):
    case = cases.conv(name)
    x, weight, bias, _ = operands(case, rng, np.float32, normals)
    x, weight = in_order(x, order), in_order(weight, weight_order)
    options = {"algorithm": "direct", **case.arguments}
    packed = fc.pack_weight(weight, groups=options["groups"])
    raw_plan, plan = (fc.explain(fc.conv2d, x, w, **options) for w in (weight, packed))
    assert raw_plan.phases[0]["split"] == plan.phases[0]["split"]
    y = fc.conv2d(x, weight, bias, **options)
    assert np.array_equal(fc.conv2d(x, packed, bias, **options), y)
    expected = reference.conv2d(x, weight, bias, **case.arguments)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-2)


def test_every_nan_is_one(rng):
    """Rounded to eight bits 0x7fffffff would be -0."""
    case = CASES[0]
    x, weight, _, _ = operands(case, rng, np.float32, normals)
    for bits in (0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000, 0x7F800001):
        x[0, 7, 8, 9] = np.uint32(bits).view(np.float32)
        y = fc.conv2d(x, weight, algorithm="direct")
        assert np.isnan(y[0, :, 8, 9]).all()
        assert np.isnan(y).sum() == case.k
        weight[3, 5, 0, 0] = np.uint32(bits).view(np.float32)
        assert np.isnan(fc.conv2d(x, weight, algorithm="direct")[0, 3]).all()
        weight[3, 5, 0, 0] = 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["n1c96h31w30-k160r1s1", "n1c1100h21w20-k140r1s1"])
def test_special_values(name, value, rng):
    check_special_values(cases.conv(name), "direct", value, rng, every_operand=True)


def large_integers(shape, rng, bits):
    return rng.integers(-(2**bits) + 1, 2**bits, shape).astype(np.float32)


def test_all_24_bits_take_part(rng):
    """Products of 24 bits and 1, of 12 and 12, are exact, and so is a sum of one of them."""
    x = np.zeros((1, 96, 31, 30), np.float32)
    at = rng.integers(0, 96, (31, 30))
    for of_x, of_weight in ((24, 1), (12, 12), (1, 24)):
        x[:] = 0
        np.put_along_axis(x[0], at[None], large_integers((1, 31, 30), rng, of_x), 0)
        weight = large_integers((160, 96, 1, 1), rng, of_weight)
        y = fc.conv2d(x, weight, algorithm="direct")
        assert np.array_equal(y, reference.conv2d(x.astype(np.float64), weight.astype(np.float64)))


def spread(shape, rng, low, high):
    """Random signs and significands, exponents from low to high."""
    exponent = rng.integers(low, high, shape)
    return np.ldexp(normals(shape, rng, np.float64), exponent).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ((-40, 20), (-40, 20)),
        ((-100, -50), (-4, 4)),  # rows that lie raw
        ((-4, 4), (-100, -30)),  # columns that do
        ((60, 80), (-90, -60)),  # both
        ((-70, -40), (-50, -38)),  # some of each
    ],
)
def test_any_exponents(rows, columns, rng):
    x = spread((1, 96, 31, 30), rng, *rows)
    weight = spread((160, 96, 1, 1), rng, *columns)
    keep = rng.random((31, 30)) < 0.5  # positions of ordinary numbers among them
    x[0, :, keep] = spread((keep.sum(), 96), rng, -2, 2)
    weight[::3] = spread(weight[::3].shape, rng, -2, 2)
    plain = reference.conv2d(x.astype(np.float64), weight.astype(np.float64))
    bound = sum_bound(reference.conv2d, x, weight, terms=96, dtype=np.float32)
    tiny = 96 * np.finfo(np.float32).tiny  # products below it are zero, as everywhere
    assert_within_bound(fc.conv2d(x, weight, algorithm="direct"), plain, bound + tiny)


@pytest.mark.parametrize(
    ("of_x", "of_grad"), [((-100, -50), (-4, 4)), ((-4, 4), (-100, -30)), ((-70, -40), (-50, -38))]
)
def test_any_exponents_in_gradients(of_x, of_grad, rng):
    shape = (256, 192, 1, 1)
    x, grad = spread((1, 192, 31, 30), rng, *of_x), spread((1, 256, 31, 30), rng, *of_grad)
    x[:, ::3] = spread((1, 64, 31, 30), rng, -2, 2)
    grad[:, ::4] = spread((1, 64, 31, 30), rng, -2, 2)
    x, grad = fc.channels_last(x), fc.channels_last(grad)
    plain = reference.conv2d_grad_weight(grad.astype(np.float64), x.astype(np.float64), shape)
    bound = sum_bound(
        reference.conv2d_grad_weight, grad, x, terms=930, dtype=np.float32, weight_shape=shape
    )
    tiny = 930 * np.finfo(np.float32).tiny
    actual = fc.conv2d_grad_weight(grad, x, shape, algorithm="direct")
    assert_within_bound(actual, plain, bound + tiny)


def test_raw_rows_change_no_other(rng):
    """Rows of ordinary numbers have the same bits beside an infinity as without it."""
    case = cases.conv("n1c1100h21w20-k140r1s1")
    x, weight, bias, _ = operands(case, rng, np.float32, normals)
    y = fc.conv2d(x, weight, bias, algorithm="direct")
    x[0, 700, 3, 5] = np.inf
    x[0, 2, 20, 19] = 1e-35
    other = fc.conv2d(x, weight, bias, algorithm="direct")
    same = np.ones((21, 20), bool)
    same[3, 5] = same[20, 19] = False
    assert np.array_equal(other[0, :, same], y[0, :, same])
    assert np.all(np.isinf(other[0, :, 3, 5]))
    np.testing.assert_allclose(other[0, :, 20, 19], y[0, :, 20, 19], rtol=1e-4, atol=1)


@pytest.mark.parametrize("depth", [96, 512, 4608])
def test_error_is_not_above_ordinary_multiply_adds(depth, rng):
    """Relative L2 error with ReLU'd normal inputs: 2.5e-7 at most, and below AVX-512's."""
    x = np.maximum(normals((1, depth, 24, 20), rng), 0)
    weight = normals((128, depth, 1, 1), rng) * np.float32(np.sqrt(2 / depth))
    plain = reference.conv2d(x.astype(np.float64), weight.astype(np.float64))

    def error(isa):
        with fc.isa(isa):
            y = fc.conv2d(x, weight, algorithm="direct")
        return np.linalg.norm(y - plain) / np.linalg.norm(plain)

    assert error("amx") < min(2.5e-7, error("avx512"))
