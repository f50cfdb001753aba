"""Calls of layers: what one keeps is not given to another's backward; inputs and names that err."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv import layers as L
from support import normals


class Shares(L.Layer):
    """y = shared(second(shared(first(x))))"""

    def __init__(self, shared):
        self.first, self.second = L.Conv2d(4, 4, 1), L.Conv2d(4, 4, 1)
        self.shared = shared

    def forward(self, x):
        return self.shared(self.second(self.shared(self.first(x))))

    def backward(self, grad_y):
        grad = self.second.backward(self.shared.backward(grad_y))
        return self.first.backward(self.shared.backward(grad))


class Scaled(L.Conv2d):
    """Its backward calls its base's."""

    def backward(self, grad_y):
        return super().backward(2 * grad_y) / 2


SHARED = {
    "relu": L.ReLU,
    "tanh": L.Tanh,
    "conv": lambda: L.Conv2d(4, 4, 3, padding=1),
    "subclass": lambda: Scaled(4, 4, 3, padding=1),
    "max_pool": lambda: L.MaxPool2d(3, stride=1, padding=1),
    "norm": lambda: L.BatchNorm2d(4),
    "dropout": lambda: L.Dropout(0.5, seed=1),
    "chain": lambda: L.Sequential(L.Conv2d(4, 4, 1), L.ReLU()),
    "residual": lambda: L.Residual(L.Sequential(L.Conv2d(4, 4, 1), L.ReLU())),
}


@pytest.mark.parametrize("name", SHARED)
def test_a_layer_at_two_places_is_refused_and_not_wrong(name, rng):
    model, x = Shares(SHARED[name]()), normals((2, 4, 5, 6), rng)
    for _ in range(2):
        y = model(x)
        with pytest.raises(RuntimeError, match=r"'shared[.\w]*': backward came again after severa"):
            model.backward(np.ones_like(y))
    model.eval()(x)  # nothing is kept there


def test_a_relu_at_two_places_of_a_sequential_is_refused(rng):
    relu, x = L.ReLU(), normals((2, 4, 5, 6), rng)
    model = L.Sequential(L.Conv2d(4, 4, 1), relu, L.Conv2d(4, 4, 1), relu)
    y = model(x)
    with pytest.raises(RuntimeError, match="ReLU '3': backward came again"):
        model.backward(np.ones_like(y))


def test_shared_weights_with_a_layer_for_each_place(rng):
    """The remedy that the error names."""
    one, other = L.Conv2d(3, 3, 1), L.Conv2d(3, 3, 1)
    other.weight, other.bias = one.weight, one.bias
    model = L.Sequential(one, L.Tanh(), other).to(dtype="float64")
    assert len(model.parameters()) == 2
    report = fc.gradcheck(model, normals((1, 3, 2, 2), rng).astype(np.float64))
    assert report, report


def test_calls_without_backward_and_several_of_one_call(rng):
    layer, x, other = L.Conv2d(4, 4, 3), normals((2, 4, 5, 6), rng), normals((2, 4, 5, 6), rng)
    grad_y = np.ones((2, 4, 3, 4), np.float32)

    def gradients(count, *inputs):
        layer.zero_grad()
        for one in inputs:
            layer(one)
        given = [layer.backward(grad_y) for _ in range(count)]
        return given[-1], layer.weight.grad / count

    wanted = gradients(1, x)
    for count, inputs in ((1, (other, other, x)), (2, (x,)), (1, (x,)), (1, (other, x)), (4, (x,))):
        for one, expected in zip(gradients(count, *inputs), wanted, strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-6)
    gradients(1, other, x)
    layer.eval().train()
    assert np.array_equal(gradients(2, x)[0], wanted[0])


@pytest.mark.parametrize(
    ("layer", "shape"), [(L.Flatten(), (2, 12)), (L.AvgPool2d(2), (2, 3, 1, 1))], ids=repr
)
def test_layers_that_keep_sizes_serve_several_inputs_of_one(layer, shape, rng):
    one, other = normals((2, 3, 2, 2), rng), normals((2, 3, 2, 2), rng)
    assert layer(one).shape == layer(other).shape == shape
    grads = [layer.backward(np.ones(shape, np.float32)) for _ in range(2)]
    assert np.array_equal(*grads)
    layer(one)
    layer(normals((2, 3, 4, 2), rng))
    layer.backward(layer(one))
    with pytest.raises(RuntimeError, match="backward came again after several calls"):
        layer.backward(np.ones(shape, np.float32))


def test_nothing_is_kept_of_calls_without_backward(rng):
    layer, x = L.ReLU(), normals((2, 3), rng)
    for _ in range(5):
        layer(x)
    assert sum(isinstance(value, np.ndarray) for value in vars(layer).values()) == 0
    assert len(layer.saved()) == 1


@pytest.mark.parametrize("layer", [L.Conv2d(1, 1, 1), L.Flatten(), L.ReLU(), L.Linear(2, 1)])
def test_what_is_no_array_is_named(layer):
    model = L.Sequential(layer)
    for one in (layer, model):
        with pytest.raises(TypeError, match=rf"{type(layer).__name__}.*is a list|Sequential: the"):
            one([[1.0, 2.0]])


def test_another_missing_attribute_stays_what_it_is():
    class Wrong(L.Layer):
        def forward(self, x):
            return self.missing

    with pytest.raises(AttributeError, match="'Wrong' object has no attribute 'missing'"):
        Wrong()([1.0])


def test_an_attribute_called_path_is_the_users():
    class Reads(L.Layer):
        def __init__(self):
            self.path = self._path = "images/cat.png"
            self.conv = L.Conv2d(3, 4, 1)
            self.bias = fc.Parameter(np.zeros(1, np.float32))

    model = L.Sequential(Reads())
    assert model[0].path == model[0]._path == "images/cat.png"
    assert model[0].conv.weight.name == "0.conv.weight"
    assert model[0].bias.name == "0.bias"
