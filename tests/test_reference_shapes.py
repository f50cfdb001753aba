"""Two independent ways to an output's size: the package's formula and the reference's counting."""

import cases
import fastconv as fc
import pytest
from fastconv import reference
from hypothesis import given
from hypothesis import strategies as st
from support import params

sizes = st.integers(1, 40)
kernels = st.integers(1, 12)
steps = st.integers(1, 7)
amounts = st.integers(0, 14)
paddings = st.one_of(
    st.sampled_from(["same", "valid"]),
    amounts,
    st.tuples(amounts, amounts),
    st.tuples(st.tuples(amounts, amounts), st.tuples(amounts, amounts)),
)


def either(function, *args, **arguments):
    """The shape, or that there is none."""
    try:
        return function(*args, **arguments)
    except ValueError:
        return ValueError


@given(
    size=st.tuples(sizes, sizes),
    kernel=st.tuples(kernels, kernels),
    stride=st.tuples(steps, steps),
    dilation=st.tuples(steps, steps),
    padding=paddings,
)
def test_conv2d_output_shape(size, kernel, stride, dilation, padding):
    shapes = (2, 3, *size), (5, 3, *kernel)
    arguments = {"stride": stride, "padding": padding, "dilation": dilation}
    counted = either(reference.conv2d_output_shape, *shapes, **arguments)
    assert either(fc.conv2d_output_shape, *shapes, **arguments) == counted


@pytest.mark.skipif(not hasattr(fc, "pool2d_output_shape"), reason="no pooling in this build")
@given(
    size=st.tuples(sizes, sizes),
    kernel=st.tuples(kernels, kernels),
    stride=st.one_of(st.none(), st.tuples(steps, steps)),
    dilation=st.tuples(steps, steps),
    padding=paddings,
    ceil_mode=st.booleans(),
)
def test_pool2d_output_shape(size, kernel, stride, dilation, padding, ceil_mode):
    arguments = {
        "stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode
    }  # fmt: skip
    counted = either(reference.pool2d_output_shape, (2, 3, *size), kernel, **arguments)
    assert either(fc.pool2d_output_shape, (2, 3, *size), kernel, **arguments) == counted


@pytest.mark.parametrize("case", params(cases.CONV))
def test_shapes_of_the_list(case):
    arguments = {k: v for k, v in case.arguments.items() if k != "groups"}
    shapes = case.input_shape, case.weight_shape
    assert fc.conv2d_output_shape(*shapes, **arguments) == reference.conv2d_output_shape(
        *shapes, **arguments
    )
