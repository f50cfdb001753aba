"""Every layer's backward against central differences in float64."""

from __future__ import annotations

import numpy as np
import pytest
from fastconv import layers as L
from fastconv.models import lenet5


def spread(shape, seed=0):
    """Values at least 0.05 apart and away from zero: no kink is within a step."""
    count = int(np.prod(shape))
    values = (np.arange(count) - count // 2 + 0.5) * 0.05
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def randomize(layer, seed=1):
    rng = np.random.default_rng(seed)
    layer.to(dtype=np.float64)
    for parameter in layer.parameters():
        parameter.data = rng.standard_normal(parameter.shape) * 0.5 + 0.1
    return layer


def check(layer, x, samples=12, step=1e-6, tolerance=2e-7):
    """Compare backward with slopes of sum(layer(x) * probe) along some elements of each array."""
    probe = np.random.default_rng(7).standard_normal(layer(x).shape)

    def value():
        # The same mask at each call: a layer's counters are put back.
        for sub, state in counters:
            sub.set_extra_state(state)
        return float((layer(x) * probe).sum())

    counters = [(sub, sub.get_extra_state()) for _, sub in layer.named_layers()]
    counters = [(sub, state) for sub, state in counters if state is not None]
    value()
    layer.zero_grad()
    grad_x = layer.backward(probe)
    assert grad_x.shape == x.shape
    arrays = [("input", x, grad_x.copy())]
    arrays += [(name, p.data, p.grad.copy()) for name, p in layer.named_parameters()]
    rng = np.random.default_rng(3)
    for name, array, grad in arrays:
        assert grad.shape == array.shape
        for flat in rng.permutation(array.size)[:samples]:
            index = np.unravel_index(flat, array.shape)
            kept = array[index]
            array[index] = kept + step
            above = value()
            array[index] = kept - step
            below = value()
            array[index] = kept
            slope = (above - below) / (2 * step)
            assert abs(slope - grad[index]) <= tolerance * max(1, abs(slope), abs(grad).max()), (
                name,
                index,
            )


CASES = [
    (L.Conv2d(4, 6, 3, padding=1), (2, 4, 6, 5)),
    (L.Conv2d(4, 6, (3, 2), stride=2, padding=((1, 0), (0, 1)), groups=2), (2, 4, 7, 6)),
    (L.Conv2d(2, 4, 3, dilation=2, bias=False), (1, 2, 8, 7)),
    (L.Conv2d(3, 6, 3, padding="same", groups=3), (2, 3, 5, 5)),
    (L.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (2, 4, 4, 3)),
    (L.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False), (1, 4, 3, 3)),
    (L.MaxPool2d(2), (2, 3, 6, 6)),
    (L.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 3, 6, 7)),
    (L.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 3, 6, 7)),
    (L.AvgPool2d(2, ceil_mode=True, divisor_override=3), (2, 3, 5, 5)),
    (L.AdaptiveAvgPool2d((3, 2)), (2, 3, 7, 5)),
    (L.GlobalAvgPool2d(), (2, 3, 4, 5)),
    (L.BatchNorm2d(3), (4, 3, 5, 4)),
    (
        L.Sequential(L.Residual(L.Sequential(L.Conv2d(3, 3, 1), L.BatchNorm2d(3))), L.ReLU()),
        (3, 3, 4, 3),
    ),
    (L.LocalResponseNorm(5, alpha=0.3, beta=0.75, k=2.0), (2, 8, 3, 3)),
    (L.ReLU(), (3, 4, 2, 2)),
    (L.Sigmoid(), (3, 7)),
    (L.Tanh(), (3, 7)),
    (L.Softmax(), (3, 7)),
    (L.Linear(7, 5), (3, 7)),
    (L.Linear(7, 5, bias=False), (1, 7)),
    (L.Linear(7, 5), (7,)),
    (L.Flatten(), (2, 3, 4, 5)),
    (L.PositionBias(2, 3, 3), (4, 2, 3, 3)),
    (L.Dropout(0.4, seed=5), (4, 9)),
    (L.Residual(L.Conv2d(3, 3, 3, padding=1)), (2, 3, 5, 5)),
    (L.Residual(L.Conv2d(3, 4, 3, stride=2, padding=1), L.Conv2d(3, 4, 1, stride=2)), (2, 3, 5, 5)),
    (L.Concat(L.Conv2d(3, 2, 1), L.MaxPool2d(3, stride=1, padding=1)), (2, 3, 4, 4)),
    (L.Highway(L.Sequential(L.Linear(6, 6), L.Tanh()), L.Linear(6, 6)), (4, 6)),
    (
        L.Sequential(
            L.Conv2d(2, 4, 3),
            L.BatchNorm2d(4),
            L.Tanh(),
            L.AvgPool2d(2),
            L.Flatten(),
            L.Linear(16, 3),
        ),
        (3, 2, 6, 6),
    ),
]


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=lambda v: repr(v).replace("\n", "")[:60])
def test_gradients(layer, shape):
    check(randomize(layer), spread(shape))


@pytest.mark.parametrize(("layer", "shape"), CASES, ids=lambda v: repr(v).replace("\n", "")[:60])
def test_need_input_false_changes_no_parameter_gradient(layer, shape):
    x = spread(shape)
    randomize(layer)
    states = [(sub, sub.get_extra_state()) for _, sub in layer.named_layers()]
    grads = []
    for need in (True, False):
        for sub, state in states:
            if state is not None:
                sub.set_extra_state(state)
        layer.zero_grad()
        y = layer(x)
        layer.backward(np.ones_like(y), need_input=need)
        grads.append([p.grad.copy() for p in layer.parameters()])
    for with_input, without in zip(*grads, strict=True):
        np.testing.assert_array_equal(with_input, without)


def test_gradients_of_one_image_without_batch():
    layer = randomize(L.Sequential(L.Conv2d(2, 3, 3), L.Tanh(), L.MaxPool2d(2)))
    x = spread((2, 6, 6))
    assert layer(x).shape == (3, 2, 2)
    check(layer, x)


def test_gradients_of_lenet5():
    model = lenet5(variant="paper", seed=2).to(dtype=np.float64)
    check(model, spread((2, 1, 28, 28)) * 0.02, samples=4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_gradient(smoothing, reduction):
    loss = L.CrossEntropyLoss(label_smoothing=smoothing, reduction=reduction)
    logits, target = spread((4, 5)), np.array([0, 4, 2, 2])
    loss(logits, target)
    grad = loss.backward()
    for index in np.ndindex(4, 5):
        ends = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * 1e-6
            ends.append(float(loss(moved, target)))
        assert abs((ends[0] - ends[1]) / 2e-6 - grad[index]) < 1e-8


def test_gradients_add_up_over_calls():
    layer = randomize(L.Linear(4, 3))
    x = spread((2, 4))
    layer.backward(np.ones_like(layer(x)))
    once = layer.weight.grad.copy()
    held = layer.weight.grad
    layer.backward(np.ones_like(layer(x)))
    np.testing.assert_allclose(layer.weight.grad, 2 * once, rtol=1e-14)
    assert layer.weight.grad is held  # allocated once
    layer.zero_grad()
    assert not layer.weight.grad.any()
    assert layer.weight.grad is held


def test_frozen_parameter_gets_no_gradient():
    layer = randomize(L.Conv2d(2, 3, 3))
    layer.weight.requires_grad = False
    y = layer(spread((1, 2, 5, 5)))
    layer.backward(np.ones_like(y))
    assert not layer.weight.has_grad
    assert layer.bias.grad.all()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (L.Conv2d(2, 3, 3), (2, 2, 5, 5)),
        (L.Linear(4, 3), (2, 4)),
        (L.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4)),
        (L.BatchNorm2d(3), (2, 3, 4, 4)),
        (L.PositionBias(3, 4), (2, 3, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_first_gradient_after_zero_grad_takes_the_place_of_the_old_one(layer, shape):
    randomize(layer)
    x = spread(shape)
    grad = np.random.default_rng(2).standard_normal(layer(x).shape)
    layer.backward(grad)
    once = [parameter.grad.copy() for parameter in layer.parameters()]
    held = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    layer.backward(grad)
    for parameter, expected, array in zip(layer.parameters(), once, held, strict=True):
        np.testing.assert_array_equal(parameter.grad, expected)
        assert parameter.grad is array
    layer.backward(grad)
    for parameter, expected in zip(layer.parameters(), once, strict=True):
        np.testing.assert_allclose(parameter.grad, 2 * expected, rtol=1e-14)


def test_a_gradient_that_fails_leaves_zeros():
    parameter = L.Parameter(np.ones(3))
    parameter.grad += 5
    parameter.zero_grad()

    def fails(out, accumulate):
        assert not accumulate
        raise ValueError("no gradient")

    with pytest.raises(ValueError, match="no gradient"):
        parameter.accumulate_from(fails)
    np.testing.assert_array_equal(parameter.grad, np.zeros(3))
    parameter.zero_grad()
    parameter.grad += 2  # read, so zeroed, before it is added to
    np.testing.assert_array_equal(parameter.grad, np.full(3, 2.0))
