"""The reference pooling against PyTorch, small examples and differences."""

import cases
import numpy as np
import pytest
from fastconv import reference
from fastconv.gradient_check import gradcheck
from support import assert_exact, assert_within_bound, integers, params

INF, NAN = np.inf, np.nan


def torch_can(case):
    """PyTorch pads symmetrically and by at most half a kernel."""
    if isinstance(case.padding, str):
        return False
    return all(
        low == high and 2 * low <= kernel
        for (low, high), kernel in zip(case.padding, case.kernel, strict=True)
    )


def torch_arguments(case):
    return {
        "stride": case.stride,
        "padding": tuple(low for low, _ in case.padding),
        "ceil_mode": case.ceil_mode,
    }


@pytest.mark.parametrize("case", params(c for c in cases.MAX_POOL if torch_can(c)))
def test_max_pool2d_is_that_of_torch(case, rng):
    torch = pytest.importorskip("torch")
    x = integers(case.input_shape, rng, np.float64, largest=20)  # with ties
    x_torch = torch.tensor(x, requires_grad=True)
    expected, expected_indices = torch.nn.functional.max_pool2d(
        x_torch, case.kernel, dilation=case.dilation, return_indices=True, **torch_arguments(case)
    )
    y, indices = reference.max_pool2d(x, case.kernel, return_indices=True, **case.max_arguments)
    assert_exact(y, expected.detach().numpy())
    assert_exact(indices, expected_indices.numpy())
    assert indices.dtype == np.int64

    g = integers(y.shape, rng, np.float64)
    expected.backward(torch.tensor(g))
    grad = reference.max_pool2d_backward(g, indices, x.shape, case.kernel, **case.max_arguments)
    assert_exact(grad, x_torch.grad.numpy())


@pytest.mark.parametrize("case", params(cases.MAX_POOL))
def test_max_pool2d_is_its_definition(case, rng):
    """Windows are looked up one by one; a position outside the input is not there."""
    x = integers(case.input_shape, rng, np.float64, largest=2)
    arguments = case.max_arguments
    y, indices = reference.max_pool2d(x, case.kernel, return_indices=True, **arguments)
    assert y.shape == reference.pool2d_output_shape(x.shape, case.kernel, **arguments)
    top, left = first_offsets(case)
    stride = case.kernel if case.stride is None else case.stride
    for p, q in np.ndindex(y.shape[2:]):
        places = [
            (h, w)
            for r in range(case.kernel[0])
            for s in range(case.kernel[1])
            if 0 <= (h := p * stride[0] + r * case.dilation[0] - top) < case.h
            and 0 <= (w := q * stride[1] + s * case.dilation[1] - left) < case.w
        ]
        if not places:
            assert (y[:, :, p, q] == -INF).all()
            assert (indices[:, :, p, q] == -1).all()
            continue
        window = np.stack([x[:, :, h, w] for h, w in places], axis=-1)
        assert_exact(y[:, :, p, q], window.max(axis=-1))
        flat = np.array([h * case.w + w for h, w in places])
        assert_exact(indices[:, :, p, q], flat[window.argmax(axis=-1)])


def first_offsets(case):
    if case.padding == "same":
        stride = case.kernel if case.stride is None else case.stride
        total = [
            max(0, (-(-size // step) - 1) * step + kernel - size)
            for size, step, kernel in zip((case.h, case.w), stride, case.kernel, strict=True)
        ]
        return total[0] // 2, total[1] // 2
    return case.padding[0][0], case.padding[1][0]


@pytest.mark.parametrize("case", params(c for c in cases.POOL if torch_can(c)))
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("divisor_override", [None, 3])
def test_avg_pool2d_is_that_of_torch(case, count_include_pad, divisor_override, rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=case.input_shape)
    x_torch = torch.tensor(x, requires_grad=True)
    divisors = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    expected = torch.nn.functional.avg_pool2d(
        x_torch, case.kernel, **torch_arguments(case), **divisors
    )
    y = reference.avg_pool2d(x, case.kernel, **case.arguments, **divisors)
    assert_within_bound(y, expected.detach().numpy(), 1e-13)

    g = rng.normal(size=y.shape)
    expected.backward(torch.tensor(g))
    grad = reference.avg_pool2d_backward(g, x.shape, case.kernel, **case.arguments, **divisors)
    assert_within_bound(grad, x_torch.grad.numpy(), 1e-13)


@pytest.mark.parametrize("case", params(c for c in cases.MAX_POOL if c.n))
def test_max_pool2d_gradient_is_differences(case, rng):
    def f(x):
        y, indices = reference.max_pool2d(x, case.kernel, return_indices=True, **case.max_arguments)
        y = np.where(indices < 0, 0, y)  # -inf has no differences
        return y, lambda g: reference.max_pool2d_backward(
            g, indices, x.shape, case.kernel, **case.max_arguments
        )

    report = gradcheck(f, rng.normal(size=case.input_shape), max_elements=30)
    assert report, report


@pytest.mark.parametrize("case", params(c for c in cases.POOL if c.n))
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool2d_gradient_is_differences(case, count_include_pad, rng):
    arguments = case.arguments | {"count_include_pad": count_include_pad}

    def f(x):
        return reference.avg_pool2d(
            x, case.kernel, **arguments
        ), lambda g: reference.avg_pool2d_backward(g, x.shape, case.kernel, **arguments)

    report = gradcheck(f, rng.normal(size=case.input_shape), max_elements=30)
    assert report, report


def test_max_pool2d_special_values():
    x = np.array([[[-INF, -INF, NAN, 1.0, NAN, INF]]])
    y, indices = reference.max_pool2d(x, (1, 2), return_indices=True)
    assert_exact(y, [[[-INF, NAN, NAN]]])
    assert_exact(indices, [[[0, 2, 4]]])
    # Padding never wins over -inf, and the first of equals, the first NaN, is taken.
    y, indices = reference.max_pool2d(
        np.array([[[-INF, 3.0, 3.0, NAN, NAN]]]), (1, 3), stride=2, padding=(0, 1),
        return_indices=True,
    )  # fmt: skip
    assert_exact(y, [[[3.0, NAN, NAN]]])
    assert_exact(indices, [[[1, 3, 3]]])
    y, indices = reference.max_pool2d(
        np.full((1, 1, 1), -INF), 3, stride=1, padding=1, return_indices=True
    )
    assert_exact(y, [[[-INF]]])
    assert_exact(indices, [[[0]]])


def test_windows_without_an_input_element():
    x = np.ones((1, 1, 1, 1))
    y, indices = reference.max_pool2d(x, 2, stride=1, padding=1, dilation=2, return_indices=True)
    assert_exact(y, [[[[-INF]]]])
    assert_exact(indices, [[[[-1]]]])
    grad = reference.max_pool2d_backward(
        np.ones((1, 1, 1, 1)), indices, x.shape, 2, stride=1, padding=1, dilation=2
    )
    assert_exact(grad, [[[[0.0]]]])
    x = np.ones((1, 1, 1, 4))
    y = reference.avg_pool2d(x, (1, 3), stride=(1, 3), padding=((0, 0), (2, 2)), ceil_mode=True)
    assert_exact(y, [[[[1 / 3, 1.0]]]])


def test_avg_pool2d_by_hand():
    x = np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]])
    window = {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1)}
    assert_exact(reference.avg_pool2d(x, **window), [[[1.0, 3.0, 3.0]]])
    assert_exact(reference.avg_pool2d(x, count_include_pad=False, **window), [[[1.5, 3.0, 4.5]]])
    assert_exact(reference.avg_pool2d(x, divisor_override=1, **window), [[[3.0, 9.0, 9.0]]])
    # A window that hangs over the padded input divides by what is within: 5 and one padding.
    assert_exact(
        reference.avg_pool2d(x, (1, 4), stride=(1, 4), padding=((0, 0), (0, 1)), ceil_mode=True),
        [[[2.5, 2.5]]],
    )


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("kernel", range(1, 5))
@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_counted_windows_are_those_of_the_formula(size, kernel, stride, ceil_mode):
    """PyTorch's pooling_output_shape, written out."""
    for low in range(kernel):
        for high in range(kernel):
            total = size + low + high - kernel
            count = total // stride + 1
            if ceil_mode:
                count = -(-total // stride) + 1
                if (count - 1) * stride >= size + low:
                    count -= 1
            arguments = {
                "stride": (stride, 1), "padding": ((low, high), (0, 0)), "ceil_mode": ceil_mode
            }  # fmt: skip
            if count < 1:
                with pytest.raises(ValueError, match="no window fits"):
                    reference.pool2d_output_shape((1, 1, size, 1), (kernel, 1), **arguments)
                continue
            shape = reference.pool2d_output_shape((1, 1, size, 1), (kernel, 1), **arguments)
            assert shape == (1, 1, count, 1)


def test_padding_must_be_less_than_the_window():
    with pytest.raises(ValueError, match="less than the window's extent 2"):
        reference.max_pool2d(np.ones((1, 1, 4, 4)), 2, padding=2)
    with pytest.raises(ValueError, match="less than the window's extent 2"):
        reference.avg_pool2d(np.ones((1, 1, 4, 4)), 2, padding=((0, 0), (0, 2)))
    reference.max_pool2d(np.ones((1, 1, 4, 4)), 2, padding=2, dilation=2)


SIZES = [(1, 1), (2, 3), (7, 7), (5, None), 3, (10, 13)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 7, 7), (0, 2, 4, 4), (1, 1, 1, 9)])
def test_adaptive_pooling_is_that_of_torch(size, shape, rng):
    torch = pytest.importorskip("torch")
    x = integers(shape, rng, np.float64, largest=9)
    for name in ("avg", "max"):
        x_torch = torch.tensor(x, requires_grad=True)
        if name == "avg":
            expected = torch.nn.functional.adaptive_avg_pool2d(x_torch, size)
            y = reference.adaptive_avg_pool2d(x, size)
        else:
            expected, expected_indices = torch.nn.functional.adaptive_max_pool2d(
                x_torch, size, return_indices=True
            )
            y, indices = reference.adaptive_max_pool2d(x, size, return_indices=True)
            assert_exact(indices, expected_indices.numpy())
        assert_within_bound(y, expected.detach().numpy(), 1e-13)
        g = rng.normal(size=y.shape)
        expected.backward(torch.tensor(g))
        if name == "avg":
            grad = reference.adaptive_avg_pool2d_backward(g, shape)
        else:
            grad = reference.adaptive_max_pool2d_backward(g, indices, shape)
        assert_within_bound(grad, x_torch.grad.numpy(), 1e-13)


def test_adaptive_max_pool2d_takes_the_first_nan():
    x = np.array([[[1.0, NAN, NAN, 4.0]]])
    y, indices = reference.adaptive_max_pool2d(x, 1, return_indices=True)
    assert_exact(y, [[[NAN]]])
    assert_exact(indices, [[[1]]])


def test_adaptive_and_global_gradients_are_differences(rng):
    def average(x):
        return reference.adaptive_avg_pool2d(
            x, (2, 4)
        ), lambda g: reference.adaptive_avg_pool2d_backward(g, x.shape)

    def maximum(x):
        y, indices = reference.adaptive_max_pool2d(x, (2, 4), return_indices=True)
        return y, lambda g: reference.adaptive_max_pool2d_backward(g, indices, x.shape)

    def whole(x):
        return reference.global_avg_pool2d(x), lambda g: reference.global_avg_pool2d_backward(
            g, x.shape
        )

    for f in (average, maximum, whole):
        report = gradcheck(f, rng.normal(size=(2, 3, 5, 7)))
        assert report, report


def test_global_avg_pool2d(rng):
    x = integers((2, 3, 4, 2), rng, np.float64)
    assert_exact(reference.global_avg_pool2d(x), x.mean(axis=(2, 3), keepdims=True))
    assert reference.global_avg_pool2d(x[0]).shape == (3, 1, 1)
    assert reference.global_avg_pool2d(x[:0]).shape == (0, 3, 1, 1)


@pytest.mark.parametrize("name", ["n2c3h8w9-k2", "n1c5h9w7-k3-st2-pad1", "n0c3h8w9-k2"])
def test_unpooling_is_that_of_torch(name, rng):
    torch = pytest.importorskip("torch")
    case = cases.pool(name)
    x = rng.permutation(int(np.prod(case.input_shape))).reshape(case.input_shape).astype(float)
    y, indices = reference.max_pool2d(x, case.kernel, return_indices=True, **case.max_arguments)
    y_torch = torch.tensor(y, requires_grad=True)
    expected = torch.nn.functional.max_unpool2d(
        y_torch, torch.tensor(indices), case.kernel, output_size=x.shape[2:],
        stride=case.stride, padding=0 if case.padding == "valid" else case.padding[0][0],
    )  # fmt: skip
    unpooled = reference.max_unpool2d(y, indices, output_size=x.shape[2:])
    assert_exact(unpooled, expected.detach().numpy())
    g = rng.normal(size=x.shape)
    expected.backward(torch.tensor(g))
    assert_exact(reference.max_unpool2d_backward(g, indices), y_torch.grad.numpy())


def test_unpooling_ignores_index_minus_one_and_refuses_others():
    indices = np.array([[[-1, 3]]])
    y = reference.max_unpool2d(np.array([[[5.0, 6.0]]]), indices, output_size=2)
    assert_exact(y, [[[0.0, 0.0], [0.0, 6.0]]])
    grad = reference.max_unpool2d_backward(np.arange(4.0).reshape(1, 2, 2), indices)
    assert_exact(grad, [[[0.0, 3.0]]])
    for wrong in (4, -2):
        with pytest.raises(ValueError, match="indices reach"):
            reference.max_unpool2d(np.ones((1, 1, 1)), np.array([[[wrong]]]), output_size=2)


def test_one_image_without_a_batch(rng):
    x = rng.normal(size=(3, 6, 7))
    y, indices = reference.max_pool2d(x, 2, return_indices=True)
    batched = reference.max_pool2d(x[None], 2, return_indices=True)
    assert_exact(y, batched[0][0])
    assert_exact(indices, batched[1][0])
    assert reference.max_pool2d_backward(y, indices, (1, 3, 6, 7), 2).shape == x.shape
    assert reference.avg_pool2d(x, 2).shape == (3, 3, 3)
    assert reference.avg_pool2d_backward(y, (1, 3, 6, 7), 2).shape == x.shape
    assert reference.adaptive_avg_pool2d(x, 2).shape == (3, 2, 2)


def test_sequences_are_those_of_torch(rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, weight, bias = rng.normal(size=(2, 4, 11)), rng.normal(size=(6, 2, 3)), rng.normal(size=6)
    x_torch = torch.tensor(x)
    assert_within_bound(
        reference.conv1d(x, weight, bias, stride=2, padding=1, dilation=2, groups=2),
        functional.conv1d(x_torch, torch.tensor(weight), torch.tensor(bias), 2, 1, 2, 2).numpy(),
        1e-13,
    )
    y, indices = reference.max_pool1d(
        x, 3, stride=2, padding=1, ceil_mode=True, return_indices=True
    )
    expected = functional.max_pool1d(x_torch, 3, 2, 1, ceil_mode=True, return_indices=True)
    assert_exact(y, expected[0].numpy())
    assert_exact(indices, expected[1].numpy())
    y = reference.avg_pool1d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    assert_within_bound(y, functional.avg_pool1d(x_torch, 3, 2, 1, True, False).numpy(), 1e-13)


@pytest.mark.parametrize("padding", [(1, 2), ((1, 2),), "same"])
def test_sequences_pad_either_side(padding, rng):
    x, weight = rng.normal(size=(3, 8)), rng.normal(size=(2, 3, 4))
    y = reference.conv1d(x, weight, padding=padding)
    padded = np.pad(x, ((0, 0), (1, 2)))
    assert_exact(y, reference.conv1d(padded, weight))
