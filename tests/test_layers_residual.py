"""Additions in the passes of the layers beside them (layers/fused.py): the end of a residual block,
and the gradients of an input that several branches read; to the bit what separate passes give."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core
from fastconv.layers import arithmetic
from fastconv.models.parts import ResidualBlock

L = fc.layers
Array = np.ndarray


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_branches_add_their_gradients_in_the_passes_of_their_first_layers(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fc.init.seeded(5):
        model = L.Concat(
            L.Sequential(L.Conv2d(16, 4, 1), L.ReLU()),
            L.Conv2d(16, 5, 3, padding=1),
            L.Sequential(L.MaxPool2d(3, stride=1, padding=1), L.Conv2d(16, 3, 1)),
            L.Sequential(L.Sequential(L.Conv2d(16, 4, 1)), L.ReLU()),
        ).to(dtype=dtype)
    x = fc.channels_last(np.random.default_rng(1).standard_normal((3, 16, 9, 8)).astype(dtype))
    y = model(x)
    grad = fc.channels_last(np.random.default_rng(2).standard_normal(y.shape).astype(dtype))
    with monkeypatch.context() as patch:
        patch.setattr(_core, "add", None)
        joined = model.backward(grad)
    parts = [p.grad.copy() for p in model.parameters()]
    model.zero_grad()
    branches, cuts = list(model._layers.values()), (0, 4, 9, 12, 16)
    apart = [b.backward(grad[:, cuts[i] : cuts[i + 1]]) for i, b in enumerate(branches)]
    np.testing.assert_array_equal(joined, ((apart[2] + apart[0]) + apart[1]) + apart[3])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        np.testing.assert_array_equal(parameter.grad, part)
    model.zero_grad()
    assert model.backward(grad, need_input=False) is None
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


@pytest.mark.parametrize("name", ["add", "add_relu", "subtract", "multiply"])
def test_arithmetic_between_layers_takes_arrays_of_any_family(name: str) -> None:
    class Exported:  # no arithmetic of its own
        def __init__(self, array: Array) -> None:
            self.array = array

        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> object:
            return self.array.__dlpack_device__()

    a, b = (np.arange(6, dtype=np.float32).reshape(2, 3) - shift for shift in (2, 4))
    function = getattr(arithmetic, name)
    np.testing.assert_array_equal(function(Exported(a), Exported(b)), function(a, b))
