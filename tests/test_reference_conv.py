"""The reference convolution against its definition in nested loops, PyTorch and differences."""

import itertools

import cases
import numpy as np
import pytest
from fastconv import reference
from fastconv.gradient_check import gradcheck
from support import assert_exact, assert_within_bound, integers, params, sum_bound

SHORT = [case for case in cases.CONV if not case.full]
TINY = [case for case in cases.CONV_FEW if case.c < 100]


def conv2d_by_definition(x, weight, padding, stride, dilation, groups):
    """Seven loops: y[n, k, p, q] = sum over c, r, s of weight[k, c, r, s] x[n, c, h, w]."""
    (top, bottom), (left, right) = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n_size, _, height, width = x.shape
    k_size, c_size, r_size, s_size = weight.shape
    rows = (height - (r_size - 1) * dilation[0] - 1) // stride[0] + 1
    cols = (width - (s_size - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((n_size, k_size, rows, cols))
    for n, k, p, q in itertools.product(*map(range, y.shape)):
        first_channel = k // (k_size // groups) * c_size
        for c, r, s in itertools.product(range(c_size), range(r_size), range(s_size)):
            h, w = p * stride[0] + r * dilation[0], q * stride[1] + s * dilation[1]
            y[n, k, p, q] += weight[k, c, r, s] * x[n, first_channel + c, h, w]
    return y


@pytest.mark.parametrize(
    "case",
    params(c for c in SHORT if not isinstance(c.padding, str) and c.k * c.c * c.h * c.w < 9000),
)
def test_conv2d_is_its_definition(case, rng):
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    assert_exact(
        reference.conv2d(x, weight, **case.arguments),
        conv2d_by_definition(x, weight, **case.arguments),
    )


def test_conv2d_by_hand():
    x = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    weight = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    assert_exact(reference.conv2d(x, weight), [[[[-4.0, -4.0]]]])
    assert_exact(
        reference.conv2d(x, weight, np.array([10.0]), padding=((1, 0), (0, 1)), stride=(1, 2)),
        [[[[8.0, 10.0], [6.0, 13.0]]]],
    )
    assert_exact(reference.conv2d(x, weight, activation="relu"), [[[[0.0, 0.0]]]])
    residual = np.array([[[[5.0, 3.0]]]])
    assert_exact(
        reference.conv2d(x, weight, residual=residual, activation="relu"), [[[[1.0, 0.0]]]]
    )


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_keeps_the_size_over_the_stride(size, kernel, stride):
    shape = reference.conv2d_output_shape(
        (1, 1, size, 1), (1, 1, kernel, 1), stride=(stride, 1), padding="same"
    )
    assert shape == (1, 1, -(-size // stride), 1)


def test_same_puts_the_odd_pixel_at_the_bottom_and_right(rng):
    x, weight = rng.normal(size=(1, 2, 5, 6)), rng.normal(size=(3, 2, 2, 4))
    assert_exact(
        reference.conv2d(x, weight, padding="same"),
        reference.conv2d(x, weight, padding=((0, 1), (1, 2))),
    )


def test_padding_is_a_zero_that_takes_part_in_the_product():
    weight = np.ones((1, 1, 1, 3))
    weight[0, 0, 0, 0] = np.inf
    y = reference.conv2d(np.ones((1, 1, 1, 3)), weight, padding=(0, 1))
    assert_exact(y, [[[[np.nan, np.inf, np.inf]]]])
    # The gradient sums outputs that exist, and no others: nothing is multiplied by a missing one.
    grad = reference.conv2d_grad_input(np.ones((1, 1, 1, 3)), weight, (1, 1, 1, 3), padding=(0, 1))
    assert_exact(grad, [[[[np.inf, np.inf, 2.0]]]])


def torch_conv2d(case, *arrays):
    """y of PyTorch in float64 as a tensor with history; asymmetric padding goes by F.pad."""
    torch = pytest.importorskip("torch")
    x, weight, bias = (torch.tensor(a, requires_grad=True) for a in arrays)
    arguments = dict(case.arguments)
    (top, bottom), (left, right) = reference_padding(case)
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    del arguments["padding"]
    return (x, weight, bias), torch.nn.functional.conv2d(padded, weight, bias, **arguments)


def reference_padding(case):
    if case.padding == "valid":
        return (0, 0), (0, 0)
    if case.padding != "same":
        return case.padding
    sides = []
    for size, kernel, stride, dilation in zip(
        (case.h, case.w), (case.r, case.s), case.stride, case.dilation, strict=True
    ):
        total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
        sides.append((total // 2, total - total // 2))
    return tuple(sides)


@pytest.mark.parametrize("case", params(cases.CONV))
def test_conv2d_and_gradients_are_those_of_torch(case, rng):
    torch = pytest.importorskip("torch")
    x, weight = rng.normal(size=case.input_shape), rng.normal(size=case.weight_shape)
    bias = rng.normal(size=case.k)
    tensors, expected = torch_conv2d(case, x, weight, bias)
    y = reference.conv2d(x, weight, bias, **case.arguments)
    depth = x.shape[1] // case.groups * case.r * case.s + 1
    bound = sum_bound(
        reference.conv2d, x, weight, bias, terms=depth, dtype=np.float64, **case.arguments
    )
    assert_within_bound(y, expected.detach().numpy(), bound)

    g = rng.normal(size=y.shape)
    expected.backward(torch.tensor(g))
    gradients = reference.conv2d_backward(g, x, weight, **case.arguments)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert_within_bound(gradient, tensor.grad.numpy(), 1e-11)
    assert_exact(gradients[0], reference.conv2d_grad_input(g, weight, x.shape, **case.arguments))
    assert_exact(gradients[1], reference.conv2d_grad_weight(g, x, weight.shape, **case.arguments))


@pytest.mark.parametrize("case", params(TINY))
def test_conv2d_gradients_are_differences(case, rng):
    def f(x, weight, bias, residual):
        y = reference.conv2d(
            x, weight, bias, residual=residual, activation="relu", **case.arguments
        )

        def backward(grad):
            three = reference.conv2d_backward(
                grad, x, weight, activation="relu", output=y, **case.arguments
            )
            return (*three, reference.relu_backward(grad, y))

        return y, backward

    x, weight = rng.normal(size=case.input_shape), rng.normal(size=case.weight_shape)
    bias = rng.normal(size=case.k)
    residual = rng.normal(size=reference.conv2d(x, weight, **case.arguments).shape)
    report = gradcheck(f, (x, weight, bias, residual), max_elements=24)
    # An empty batch moves nothing: weight and bias have gradient 0, which is compared too.
    assert report, report


def test_needed_gradients_only(rng):
    x, weight = rng.normal(size=(1, 2, 4, 4)), rng.normal(size=(3, 2, 3, 3))
    g = rng.normal(size=(1, 3, 2, 2))
    grad_input, grad_weight, grad_bias = reference.conv2d_backward(g, x, weight, need=("bias",))
    assert grad_input is None
    assert grad_weight is None
    assert_exact(grad_bias, g.sum(axis=(0, 2, 3)))


def test_one_image_without_a_batch(rng):
    x, weight = rng.normal(size=(2, 5, 6)), rng.normal(size=(4, 2, 3, 3))
    y = reference.conv2d(x, weight, padding=1)
    assert_exact(y, reference.conv2d(x[None], weight, padding=1)[0])
    gradients = reference.conv2d_backward(y, x, weight, padding=1)
    batched = reference.conv2d_backward(y[None], x[None], weight, padding=1)
    assert_exact(gradients[0], batched[0][0])
    assert_exact(gradients[1], batched[1])
    assert_exact(gradients[2], batched[2])


@pytest.mark.parametrize("case", params(cases.CONV_TRANSPOSE))
def test_conv_transpose2d_is_that_of_torch(case, rng):
    torch = pytest.importorskip("torch")
    x, weight = rng.normal(size=case.input_shape), rng.normal(size=case.weight_shape)
    bias = rng.normal(size=case.k)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    arguments = dict(case.arguments)
    (top, bottom), (left, right) = arguments.pop("padding")
    expected = torch.nn.functional.conv_transpose2d(*tensors, **arguments)
    height, width = expected.shape[2:]
    expected = expected[:, :, top : height - bottom, left : width - right]

    y = reference.conv_transpose2d(x, weight, bias, **case.arguments)
    assert_within_bound(y, expected.detach().numpy(), 1e-12)
    g = rng.normal(size=y.shape)
    expected.backward(torch.tensor(g))
    gradients = reference.conv_transpose2d_backward(g, x, weight, **case.arguments)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert_within_bound(gradient, tensor.grad.numpy(), 1e-11)


@pytest.mark.parametrize("case", params(c for c in cases.CONV_TRANSPOSE if c.c < 100))
def test_conv_transpose2d_gradients_are_differences(case, rng):
    def f(x, weight, bias):
        return (
            reference.conv_transpose2d(x, weight, bias, **case.arguments),
            lambda g: reference.conv_transpose2d_backward(g, x, weight, **case.arguments),
        )

    shapes = (case.input_shape, case.weight_shape, (case.k,))
    report = gradcheck(f, tuple(rng.normal(size=shape) for shape in shapes), max_elements=24)
    assert report, report


@pytest.mark.parametrize("name", ["n2c6h7w8-k4r3s2-st2x1-pad1-g2", "n1c4h9w8-k3r3s3-pad2x1-dil2"])
def test_conv_transpose2d_undoes_the_shape_of_conv2d(name, rng):
    """Its forward is conv2d's grad_input: <conv(x), y> = <x, transposed conv(y)>."""
    case = cases.conv(name)
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    y = reference.conv2d(x, weight, **case.arguments)
    back = reference.conv2d_grad_input(y, weight, x.shape, **case.arguments)
    spare = [
        x.shape[2 + i] - reference.conv_transpose2d(y, weight, **case.arguments).shape[2 + i]
        for i in range(2)
    ]
    again = reference.conv_transpose2d(y, weight, output_padding=spare, **case.arguments)
    assert_exact(again, back)


def test_float32_stays_float32(rng):
    x, weight = integers((1, 2, 4, 4), rng), integers((3, 2, 3, 3), rng)
    y = reference.conv2d(x, weight, padding=1)
    assert y.dtype == np.float32
    for gradient in reference.conv2d_backward(y, x, weight, padding=1):
        assert gradient.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 2}, "2 groups"),
        ({"padding": -1}, "padding=-1"),
        ({"padding": "full"}, "padding='full'"),
        ({"stride": 0}, "stride=0"),
        ({"dilation": (1, 2, 3)}, "dilation"),
        ({"dilation": 4}, "no window fits"),
        ({"activation": "gelu"}, "activation='gelu'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        reference.conv2d(np.ones((1, 3, 5, 5)), np.ones((2, 3, 3, 3)), **arguments)


def test_conv_transpose2d_refuses():
    x, weight = np.ones((1, 3, 4, 4)), np.ones((3, 2, 3, 3))
    with pytest.raises(ValueError, match="output_padding=2 must be less than stride 2"):
        reference.conv_transpose2d(x, weight, stride=2, output_padding=2)
    with pytest.raises(ValueError, match='"same"'):
        reference.conv_transpose2d(x, weight, padding="same")
    with pytest.raises(ValueError, match="leaves nothing"):
        reference.conv_transpose2d(x, weight, padding=3)
    with pytest.raises(ValueError, match="weight has shape"):
        reference.conv_transpose2d(x, weight, groups=2)
