"""`direct` over planes, where filters and channels are few (csrc/cpu/conv2d_planes*.cpp)."""

import cases
import fastconv as fc
import numpy as np
import pytest
from conv_checks import check_bounds, check_exact, check_same_bits, check_special_values
from fastconv import _core
from support import ORDERS, available_isas, normals, params

# Around two vectors of 16, 8 or 4 positions, blocks of 1024, 3 filters and 5 taps together.
CASES = [
    cases.conv("n3c1h28w28-k6r5s5-pad2"),  # LeNet's first
    cases.conv("n2c1h9w36-k8r3s7-pad1"),
    cases.conv("n2c3h7w34-k4r3s3-pad1"),
    cases.conv("n1c4h13w64-k3r3s1-st2x1"),
    cases.conv("n1c2h11w33-k5r2s6-pad0.3x2.5-dil2x3"),
    cases.conv("n2c6h6w32-k12r3s3-pad1-g3"),
    cases.conv("n1c1h70w64-k7r5s5"),  # five blocks
    cases.conv("n1c1h3w1025-k4r3s3-pad1"),
    cases.conv("n40c1h5w32-k6r5s1"),  # more images than sums
    cases.conv("n1c2h3w32-k3r5s5-pad4"),  # windows that see padding alone
]


def taken(case, function=fc.conv2d):
    grad = fc.conv2d_output_shape(case.input_shape, case.weight_shape, **window(case))
    first = case.input_shape if function is fc.conv2d else grad
    rest = [case.weight_shape] if function is fc.conv2d else [case.input_shape, case.weight_shape]
    options = {**case.arguments, "algorithm": "direct"}
    return fc.explain(function, first, *rest, **options).phases[0]["planes"]


def window(case):
    return {name: case.arguments[name] for name in ("stride", "padding", "dilation")}


@pytest.mark.parametrize("case", params(CASES))
def test_avx512_takes_them(case):
    if "avx512" not in available_isas():
        pytest.skip("narrower vectors have other limits")
    with fc.isa("avx512"):
        assert taken(case)
        assert taken(case, fc.conv2d_grad_weight)
        plan = fc.explain(fc.conv2d, case.input_shape, case.weight_shape, **case.arguments)
        assert plan.algorithm != "direct" or "planes copied to scratch" in str(plan)


@pytest.mark.parametrize(
    "name", ["n1c1h9w8-k6r3s3", "n1c1h9w64-k9r3s3", "n1c5h9w64-k6r3s3", "n1c1h9w64-k6r3s3-st2"]
)
def test_others_are_left_alone(name, isa):
    assert not taken(cases.conv(name))
    assert not taken(cases.conv(name), fc.conv2d_grad_weight)


def test_they_read_the_weight_as_it_is(rng):
    if "avx512" not in available_isas():
        pytest.skip("narrower vectors have other limits")
    x, weight = normals((8, 1, 28, 28), rng), normals((6, 1, 5, 5), rng)
    options = {"padding": 2, "algorithm": "direct"}
    with fc.isa("avx512"):
        packed = fc.pack_weight(weight, input_shape=x.shape, **options)
        assert packed.formats == ()
        plan = fc.explain(fc.conv2d, x, packed, **options)
        assert not plan.packed
        assert "packed ahead" not in str(plan)
        y = fc.conv2d(x, packed, **options)
        assert np.array_equal(y, fc.conv2d(x, weight, **options))
        assert packed.formats == ()
        fc.conv2d(x, packed, residual=y, **options)  # not over planes
        assert packed.formats == ("panels",)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(CASES))
def test_exact(case, order, dtype, isa, rng):
    check_exact(case, "direct", rng, dtype, order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", params(CASES))
def test_rounding_error_is_within_the_bound(case, dtype, isa, rng):
    check_bounds(case, "direct", rng, dtype)


@pytest.mark.parametrize("case", params(CASES))
def test_same_bits_for_any_thread_count_and_batch(case, isa, rng):
    check_same_bits(case, "direct", rng)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["n1c1h7w35-k4r3s3", "n1c2h9w38-k3r3s7"])
def test_special_values_as_in_the_reference(name, value, isa, rng):
    check_special_values(cases.conv(name), "direct", value, rng)


def test_packed_weights_give_the_same_bits(isa, rng):
    x, weight = normals((2, 1, 9, 35), rng), normals((6, 1, 5, 5), rng)
    options = {"padding": 2, "algorithm": "direct"}
    packed = fc.pack_weight(weight)
    assert np.array_equal(fc.conv2d(x, packed, **options), fc.conv2d(x, weight, **options))
    assert _core.current_isa() == packed.isa
