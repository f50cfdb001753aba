"""The reference batch norm and local response norm against PyTorch and differences."""

import numpy as np
import pytest
from cases import IMAGES
from fastconv import reference
from fastconv.gradient_check import gradcheck
from support import assert_exact, assert_within_bound

NORMAL = [shape for shape in IMAGES if shape[0] * shape[2] * shape[3] > 1]
SHAPES = [*NORMAL, (5, 3), (2, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_that_of_torch(shape, affine, training, rng):
    torch = pytest.importorskip("torch")
    c = shape[1]
    x, g = 2 + 3 * rng.normal(size=shape), rng.normal(size=shape)
    weight, bias = (rng.normal(size=c), rng.normal(size=c)) if affine else (None, None)
    running = [rng.normal(size=c), 0.5 + rng.random(size=c)]
    running_torch = [torch.tensor(a) for a in running]
    tensors = [
        None if a is None else torch.tensor(a, requires_grad=True) for a in (x, weight, bias)
    ]
    expected = torch.nn.functional.batch_norm(
        tensors[0], *running_torch, *tensors[1:], training, 0.3, 1e-3
    )
    y, mean, rstd = reference.batch_norm(
        x, weight=weight, bias=bias, running_mean=running[0], running_var=running[1],
        training=training, momentum=0.3, eps=1e-3,
    )  # fmt: skip
    assert_within_bound(y, expected.detach().numpy(), 1e-12)
    for ours, theirs in zip(running, running_torch, strict=True):
        assert_within_bound(ours, theirs.numpy(), 1e-13)

    expected.backward(torch.tensor(g))
    gradients = reference.batch_norm_backward(g, x, mean, rstd, weight=weight, training=training)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        if tensor is not None:
            assert_within_bound(gradient, tensor.grad.numpy(), 1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (6, 3), (3, 4, 5)])
def test_batch_norm_gradient_is_differences(training, shape, rng):
    running = {"running_mean": rng.normal(size=3), "running_var": 1 + rng.random(size=3)}

    def f(x, weight, bias):
        copies = {name: array.copy() for name, array in running.items()}
        y, mean, rstd = reference.batch_norm(
            x, weight=weight, bias=bias, training=training, **copies
        )
        return y, lambda g: reference.batch_norm_backward(
            g, x, mean, rstd, weight=weight, training=training
        )

    report = gradcheck(f, (rng.normal(size=shape), rng.normal(size=3), rng.normal(size=3)))
    assert report, report


def test_batch_norm_by_hand():
    x = np.array([[1.0, 10.0], [3.0, 10.0], [5.0, 10.0]])
    running_mean, running_var = np.zeros(2), np.ones(2)
    y, mean, rstd = reference.batch_norm(
        x, running_mean=running_mean, running_var=running_var, training=True, momentum=0.5, eps=1.0
    )
    assert_exact(mean, [3.0, 10.0])
    assert_within_bound(rstd, [1 / np.sqrt(8 / 3 + 1), 1.0], 1e-15)
    assert_within_bound(y[:, 1], np.zeros(3), 0)
    assert_exact(running_mean, [1.5, 5.0])
    assert_exact(running_var, [0.5 + 0.5 * 4, 0.5])  # unbiased: (4 + 0 + 4) / 2


def test_batch_norm_of_one_image_is_over_its_pixels(rng):
    x = rng.normal(size=(3, 4, 5))
    y, mean, _ = reference.batch_norm(x, training=True)
    assert_exact(y, reference.batch_norm(x[None], training=True)[0][0])
    assert_within_bound(mean, x.mean(axis=(1, 2)), 1e-15)


def test_batch_norm_of_an_empty_batch():
    running_mean, running_var = np.array([2.0, 3.0]), np.array([4.0, 5.0])
    x = np.zeros((0, 2, 3, 3))
    y, mean, rstd = reference.batch_norm(
        x, running_mean=running_mean, running_var=running_var, training=True, eps=0.25
    )
    assert y.shape == x.shape
    assert_exact(mean, np.zeros(2))
    assert_exact(rstd, np.full(2, 2.0))
    assert_exact(running_mean, [2.0, 3.0])
    assert_exact(running_var, [4.0, 5.0])
    gradients = reference.batch_norm_backward(x, x, mean, rstd, training=True)
    assert gradients[0].shape == x.shape
    assert_exact(gradients[1], np.zeros(2))
    assert_exact(gradients[2], np.zeros(2))


def test_batch_norm_refuses():
    with pytest.raises(ValueError, match="more than one value per channel"):
        reference.batch_norm(np.ones((1, 3, 1, 1)), training=True)
    with pytest.raises(ValueError, match="needs running_mean"):
        reference.batch_norm(np.ones((2, 3)), training=False)
    reference.batch_norm(
        np.ones((1, 3)), running_mean=np.zeros(3), running_var=np.ones(3), training=False
    )


@pytest.mark.parametrize("shape", [*IMAGES, (4, 5)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 40])
def test_local_response_norm_is_that_of_torch(shape, size, rng):
    torch = pytest.importorskip("torch")
    x, g = rng.normal(size=shape), rng.normal(size=shape)
    constants = {"alpha": 0.3, "beta": 0.6, "k": 1.5}
    x_torch = torch.tensor(x, requires_grad=True)
    as_image = x_torch if len(shape) == 4 else x_torch[:, :, None]  # it wants 3 axes or more
    if 0 in shape:
        assert reference.local_response_norm(x, size).shape == shape
        assert reference.local_response_norm_backward(g, x, size).shape == shape
        return
    expected = torch.nn.functional.local_response_norm(as_image, size, **constants)
    expected = expected.reshape(shape)
    y = reference.local_response_norm(x, size, **constants)
    assert_within_bound(y, expected.detach().numpy(), 1e-13)
    expected.backward(torch.tensor(g))
    grad = reference.local_response_norm_backward(g, x, size, **constants)
    assert_within_bound(grad, x_torch.grad.numpy(), 1e-13)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_local_response_norm_gradient_is_differences(size, rng):
    def f(x):
        return reference.local_response_norm(
            x, size, alpha=0.5
        ), lambda g: reference.local_response_norm_backward(g, x, size, alpha=0.5)

    report = gradcheck(f, rng.normal(size=(2, 6, 2, 3)))
    assert report, report


def test_local_response_norm_by_hand():
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)  # one image
    y = reference.local_response_norm(x, 3, alpha=3.0, beta=1.0, k=1.0)
    assert_within_bound(y.ravel(), [1 / 6, 2 / 15, 3 / 30, 4 / 26], 1e-15)
    y = reference.local_response_norm(x, 2, alpha=2.0, beta=1.0, k=1.0)  # the one before and itself
    assert_within_bound(y.ravel(), [1 / 2, 2 / 6, 3 / 14, 4 / 26], 1e-15)
    with pytest.raises(ValueError, match="size=0"):
        reference.local_response_norm(x, 0)
