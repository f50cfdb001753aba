"""A ReLU in the pass of the layer before it (layers/fused.py) gives what two passes give, to the
bit, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from fastconv.layers.fused import steps
from fastconv.models.parts import ResidualBlock

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


def block(shortcut: bool) -> ResidualBlock:
    """As ResNet's, with values in the batch norms that cut off about half."""
    with fc.init.seeded(5):
        body = {"conv": L.Conv2d(8, 8, 3, padding=1), "bn": L.BatchNorm2d(8)}
        made = ResidualBlock(body, ("down", L.Conv2d(8, 8, 1)) if shortcut else None)
    made.bn.bias.data[...] = np.linspace(-1, 1, 8)
    made.bn.weight.data[...] = np.linspace(1, -1, 8)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shortcut", [True, False])
def test_the_end_of_a_residual_block_is_one_pass_with_the_same_bits(
    shortcut: bool, dtype: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = fc.channels_last(np.random.default_rng(1).standard_normal((3, 8, 6, 7)).astype(dtype))
    model = block(shortcut).to(dtype=dtype).train(training)
    with monkeypatch.context() as patch:
        # Nothing but the kernels of batch norm adds, cuts off or masks.
        for name in ("add", "add_relu", "relu", "relu_backward"):
            patch.setattr(_core, name, None)
        y = model(x)
        grad = fc.channels_last(np.random.default_rng(3).standard_normal(y.shape).astype(dtype))
        grad_x = model.backward(grad) if training else None
    buffers = [array.copy() for array in model.state_dict().values()]
    gradients = [parameter.grad.copy() for parameter in model.parameters()]

    apart = block(shortcut).to(dtype=dtype).train(training)
    inner, side = apart.bn(apart.conv(x)), apart.down(x) if shortcut else x
    np.testing.assert_array_equal(y, fc.relu(inner + side))
    assert y.strides == x.strides
    assert 0.2 < (y > 0).mean() < 0.8
    if not training:
        return
    masked = fc.relu_backward(grad, y)
    expected = apart.conv.backward(apart.bn.backward(masked))
    expected = expected + (apart.down.backward(masked) if shortcut else masked)
    np.testing.assert_array_equal(grad_x, expected)
    for one, other in zip(buffers, apart.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, parameter in zip(gradients, apart.parameters(), strict=True):
        np.testing.assert_array_equal(one, parameter.grad)


def test_a_residual_block_with_a_batch_norm_of_ones_own() -> None:
    class Doubled(L.BatchNorm2d):
        def forward(self, x: Array) -> Array:
            return 2 * super().forward(x)

        def backward(self, grad_y: Array, *, need_input: bool = True) -> Array:
            return super().backward(2 * grad_y, need_input=need_input)

    x = np.random.default_rng(1).standard_normal((3, 8, 6, 7)).astype(np.float32)
    model, apart = (ResidualBlock({"conv": L.Conv2d(8, 8, 1), "bn": Doubled(8)}) for _ in range(2))
    apart.load_state_dict(model.state_dict())
    y, inner = model(x), apart.bn(apart.conv(x))
    np.testing.assert_array_equal(y, fc.relu(inner + x))
    masked = fc.relu_backward(np.ones_like(y), y)
    np.testing.assert_array_equal(
        model.backward(np.ones_like(y)), apart.conv.backward(apart.bn.backward(masked)) + masked
    )


def test_sides_of_two_shapes_are_refused() -> None:
    model = ResidualBlock({"conv": L.Conv2d(4, 6, 1), "bn": L.BatchNorm2d(6)})
    with pytest.raises(ValueError, match=r"the body gives \(2, 6, 5, 5\), but the input has"):
        model(np.ones((2, 4, 5, 5), np.float32))


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


@pytest.mark.parametrize("order", ["C", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "body",
    [
        lambda: L.Conv2d(16, 16, 3, padding=1),
        lambda: L.Sequential(L.Conv2d(16, 5, 1), L.ReLU(), L.Conv2d(5, 16, 3, padding=1)),
        lambda: L.Sequential(L.Conv2d(16, 16, 3, padding=1, groups=16), L.ReLU()),
        lambda: L.Sequential(L.BatchNorm2d(16), L.Conv2d(16, 16, 1)),
        lambda: L.Residual(L.Sequential(L.Conv2d(16, 16, 5, padding=2))),
        lambda: L.Sequential(),
    ],
)
def test_a_residual_block_adds_its_gradients_in_the_pass_of_the_first_layer(
    body, dtype, order
) -> None:
    x = np.random.default_rng(1).standard_normal((3, 16, 9, 8)).astype(dtype)
    if order == "channels_last":
        x = fc.channels_last(x)
    with fc.init.seeded(5):
        model = L.Residual(body()).to(dtype=dtype)
    y = model(x)
    grad = np.random.default_rng(2).standard_normal(y.shape).astype(dtype)
    joined = model.backward(grad)
    parts = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    np.testing.assert_array_equal(joined, model.body.backward(grad) + grad)
    for parameter, part in zip(model.parameters(), parts, strict=True):
        np.testing.assert_array_equal(parameter.grad, part)


def test_a_backward_of_ones_own_is_called() -> None:
    class Halved(L.Conv2d):
        def backward(self, grad_y: Array, *, need_input: bool = True) -> Array:
            return super().backward(grad_y, need_input=need_input) / 2

    layer = Halved(2, 2, 1)
    x = np.ones((1, 2, 3, 3), np.float32)
    model = L.Residual(layer)
    grad = np.ones_like(model(x))
    np.testing.assert_array_equal(model.backward(grad), layer.backward(grad) + grad)
