"""One image (C, H, W), and arrays of other families: layers give results of the same kind."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from support import normals

L = fc.layers

LAYERS = {
    "conv": lambda: L.Conv2d(4, 6, 3, padding=1),
    "conv_relu": lambda: L.Sequential(L.Conv2d(4, 6, 3), L.ReLU(), L.MaxPool2d(2)),
    "conv_transpose": lambda: L.ConvTranspose2d(4, 6, 2, stride=2),
    "max_pool": lambda: L.MaxPool2d(2),
    "avg_pool": lambda: L.AvgPool2d(2, padding=1),
    "adaptive": lambda: L.AdaptiveAvgPool2d((3, 1)),
    "adaptive_to_a_pixel": lambda: L.AdaptiveAvgPool2d(1),
    "global": lambda: L.GlobalAvgPool2d(),
    "response_norm": lambda: L.LocalResponseNorm(3),
    "relu": lambda: L.ReLU(),
    "sigmoid": lambda: L.Sigmoid(),
    "tanh": lambda: L.Tanh(),
    "residual": lambda: L.Residual(L.Conv2d(4, 4, 3, padding=1)),
    "residual_relu": lambda: L.Sequential(
        L.Residual(L.Sequential(L.Conv2d(4, 6, 1), L.ReLU()), L.Conv2d(4, 6, 1)), L.ReLU()
    ),
    "concat": lambda: L.Concat(L.Conv2d(4, 2, 1), L.MaxPool2d(3, stride=1, padding=1)),
    "highway": lambda: L.Highway(L.Conv2d(4, 4, 1), L.Conv2d(4, 4, 3, padding=1)),
    "position_bias": lambda: L.PositionBias(4, 6, 8),
    "shortcut": lambda: L.ZeroPaddedShortcut(4, 7, stride=2),
}


def one_way(layer, x, rng):
    """(y, grad_x, gradients of the parameters) for a fixed gradient of y."""
    layer.zero_grad()
    y = layer(x)
    grad_y = np.random.default_rng(5).standard_normal(y.size).astype(np.float32)
    grad_x = layer.backward(grad_y.reshape(y.shape))
    return y, grad_x, [parameter.grad.copy() for parameter in layer.parameters()]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_one_image_is_a_batch_of_one(name, last, rng):
    layer, x = LAYERS[name](), normals((1, 4, 6, 8), rng)
    for parameter in layer.parameters():
        parameter.data = normals(parameter.shape, rng)
    x = fc.channels_last(x) if last else x
    y, grad_x, grads = one_way(layer, x, rng)
    single, grad_single, grads_single = one_way(layer, x[0], rng)
    assert (single.shape, grad_single.shape) == (y.shape[1:], grad_x.shape[1:])
    np.testing.assert_array_equal(single, y[0])
    np.testing.assert_array_equal(grad_single, grad_x[0])
    for one, other in zip(grads_single, grads, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(layer.eval()(x[0]), layer(x)[0])


def test_a_vector_is_concatenated_along_its_channels(rng):
    layer, x = L.Concat(L.Linear(5, 2), L.Linear(5, 3)), normals((1, 5), rng)
    y, grad_x, grads = one_way(layer, x, rng)
    single, grad_single, grads_single = one_way(layer, x[0], rng)
    np.testing.assert_array_equal(single, y[0])
    np.testing.assert_array_equal(grad_single, grad_x[0])
    for one, other in zip(grads_single, grads, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_bias_of_each_position_keeps_the_order_and_the_dtype(rng):
    layer, x = L.PositionBias(4, 6, 8), fc.channels_last(normals((2, 4, 6, 8), rng))
    layer.bias.data = normals(layer.shape, rng)
    for image in (x, x[0]):
        assert fc.is_channels_last(layer(image))
        np.testing.assert_array_equal(layer(image), image + layer.bias.data)
    with pytest.raises(TypeError, match=r"PositionBias: add_to_each: bias has dtype float32, but"):
        layer(x.astype(np.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_torchs_tensors_give_torchs(name, rng):
    torch = pytest.importorskip("torch")
    layer, x = LAYERS[name](), normals((2, 4, 6, 8), rng)
    y, grad_x, grads = one_way(layer, x, rng)
    layer.zero_grad()
    given = layer(torch.from_numpy(x))
    grad_y = np.random.default_rng(5).standard_normal(y.size).astype(np.float32)
    back = layer.backward(torch.from_numpy(grad_y.reshape(y.shape)))
    assert type(given) is type(back) is torch.Tensor
    np.testing.assert_array_equal(given.numpy(), y)
    np.testing.assert_allclose(back.numpy(), grad_x, rtol=1e-5, atol=1e-6)
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        np.testing.assert_allclose(parameter.grad, grad, rtol=1e-5, atol=1e-5)


def test_googlenet_gives_torchs_tensors(rng):
    torch = pytest.importorskip("torch")
    with fc.init.skipped():
        model = fc.models.googlenet(num_classes=5)
    x = torch.from_numpy(normals((1, 3, 224, 224), rng))
    outputs = model(x)
    assert [type(y) for y in outputs] == [torch.Tensor] * 3
    assert type(model.backward(outputs)) is torch.Tensor
    assert type(model.eval()(x)) is torch.Tensor
