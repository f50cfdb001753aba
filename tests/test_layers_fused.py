"""A ReLU in the pass of the layer before it (layers/fused.py) gives what two passes give, to the
bit, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import fastconv as fc
import numpy as np
import pytest
from fastconv.layers.fused import steps

L = fc.layers
Array = np.ndarray


class Apart(L.ReLU):
    """A ReLU that is not fused: steps() takes ``ReLU`` itself alone."""


def layers(seed: int) -> dict[str, Callable[[], L.Layer]]:
    rng = np.random.default_rng(seed)

    def batch_norm() -> L.Layer:
        layer = L.BatchNorm2d(5)
        layer.weight.data[...] = [1.5, -0.7, 0.0, 2.0, 1.0]
        layer.bias.data[...] = rng.standard_normal(5)
        return layer

    return {
        "conv": lambda: L.Conv2d(5, 5, 3, padding=1),
        "linear": lambda: L.Sequential(L.Flatten(), L.Linear(5 * 42, 6)),
        "batch_norm": batch_norm,
        "residual": lambda: L.Residual(L.Conv2d(5, 5, 3, padding=1)),
        "residual with shortcut": lambda: L.Residual(
            L.Conv2d(5, 4, 3, padding=1), L.Conv2d(5, 4, 1)
        ),
        "residual ending in batch norm": lambda: L.Residual(
            L.Sequential(L.Conv2d(5, 5, 3, padding=1), batch_norm())
        ),
        "residual ending in batch norm, with shortcut": lambda: L.Residual(
            L.Sequential(L.Conv2d(5, 5, 1), batch_norm(), L.ReLU(), batch_norm()),
            L.Sequential(L.Conv2d(5, 5, 1), batch_norm()),
        ),
        "residual of batch norm alone": lambda: L.Residual(batch_norm()),
    }


def run(model: L.Layer, x: Array, seed: int) -> list[Array]:
    """The output, the input's gradient, the parameters' gradients and the buffers."""
    y = model(x)
    grad = np.random.default_rng(seed).standard_normal(y.shape).astype(x.dtype)
    grad_x = model.backward(grad)
    parameters = [parameter.grad for parameter in model.parameters()]
    return [y, grad_x, *parameters, *model.state_dict().values()]


@pytest.mark.parametrize("order", ["C", "channels_last", "reversed"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", layers(0))
def test_same_bits_as_apart(name: str, dtype: str, order: str) -> None:
    x = np.random.default_rng(1).standard_normal((4, 5, 6, 7)).astype(dtype)
    if order == "channels_last":
        x = fc.channels_last(x)
    elif order == "reversed":
        x = x[:, :, ::-1]
    results = []
    for relu in (L.ReLU, Apart):
        with fc.init.seeded(5):
            parts = layers(2)[name]()
        model = parts if isinstance(parts, L.Sequential) else L.Sequential(parts)
        model.append(relu())
        model.to(dtype=dtype)
        joined = [after for _, after in steps(model) if after is not None]
        assert len(joined) == (relu is L.ReLU)
        results.append([run(model, x, 3), run(model, x, 4)])
    for fused, apart in zip(*results, strict=True):
        for one, other in zip(fused, apart, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_batch_norm_and_relu_with_values_that_are_not_finite(value: float) -> None:
    results = []
    for relu in (L.ReLU, Apart):
        x = fc.channels_last(np.random.default_rng(0).standard_normal((3, 5, 4, 4)))
        x[1, 2, 3, 0] = value
        model = L.Sequential(L.BatchNorm2d(5), relu())
        model.to(dtype="float64")
        results.append(run(model, x, 1))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_eval_mode_and_frozen_batch_norm() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(np.float32)
    norm, relu = L.BatchNorm2d(5), L.ReLU()
    norm.running_mean[...] = 0.3
    model = L.Sequential(norm, relu).eval()
    expected = fc.relu(norm(x))
    np.testing.assert_array_equal(model(x), expected)
    model.train()
    norm.eval()  # a frozen one beside a ReLU in training: not joined
    assert [after for _, after in steps(model)] == [None, None]
    np.testing.assert_array_equal(model(x), expected)


def test_a_forward_of_ones_own_is_called() -> None:
    class Doubled(L.Conv2d):
        def forward(self, x: Array) -> Array:
            return 2 * super().forward(x)

    layer = Doubled(2, 3, 1)
    model = L.Sequential(layer, L.ReLU())
    x = np.ones((1, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(model(x), fc.relu(layer(x)))


def test_the_error_names_the_layer() -> None:
    model = L.Sequential({"conv": L.Conv2d(3, 4, 3), "relu": L.ReLU()})
    with pytest.raises(ValueError, match="conv") as caught:
        model(np.zeros((1, 2, 8, 8), np.float32))
    assert "Shapes so far" in str(caught.value)


def test_one_array_less_is_kept() -> None:
    norm, relu = L.BatchNorm2d(2), L.ReLU()
    L.Sequential(norm, relu)(np.ones((2, 2, 3, 3), np.float32))
    assert relu.saved() == (None,)
    assert norm.saved()[0].shape == (2, 2, 3, 3)


@pytest.mark.parametrize("order", ["C", "channels_last"])
@pytest.mark.parametrize(
    ("before", "pool"),
    [
        (lambda: L.Conv2d(5, 4, 3), lambda: L.MaxPool2d(2)),
        (lambda: L.Conv2d(5, 4, 3), lambda: L.MaxPool2d(3, stride=2, padding=1)),
        (L.Flatten, None),
        (lambda: L.BatchNorm2d(5), lambda: L.MaxPool2d(3, stride=1)),
        (lambda: L.MaxPool2d(1), lambda: L.MaxPool2d(2, ceil_mode=True)),
    ],
)
def test_max_pooling_masks_for_the_relu_before_it(before, pool, order) -> None:
    x = np.random.default_rng(1).standard_normal((4, 5, 7, 9)).astype(np.float32)
    x[2, :, 3, 4], x[1, 0, 0, 0] = 0, np.nan
    if order == "channels_last":
        x = fc.channels_last(x)
    results = []
    for relu in (L.ReLU, Apart):
        with fc.init.seeded(5):
            model = L.Sequential(before(), relu(), *([pool()] if pool else []))
        results.append([run(model, x, 3), run(model, x, 4)])
        keeps = model[1].saved()[0] is not None
        assert keeps == (relu is Apart or pool is None)
    for fused, apart in zip(*results, strict=True):
        for one, other in zip(fused, apart, strict=True):
            np.testing.assert_array_equal(one, other)


def test_max_pooling_alone_masks_nothing() -> None:
    pool, relu = L.MaxPool2d(2), L.ReLU()
    x = -np.ones((1, 1, 2, 2), np.float32)
    L.Sequential(relu, pool)(x)
    np.testing.assert_array_equal(pool.backward(np.ones((1, 1, 1, 1), np.float32)), 0 * x)
    pool(x)
    assert pool.backward(np.ones((1, 1, 1, 1), np.float32)).sum() == 1
    L.Sequential(relu, pool.eval())(x)
    assert relu.saved()[0] is not None
