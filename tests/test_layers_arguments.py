"""Arguments of layers: whole numbers of any kind are taken, and print as they would be typed."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from fastconv import layers as L
from support import normals

i32, i64, u8 = np.int32, np.int64, np.uint8

LAYERS = [
    (
        lambda: L.Conv2d(i64(4), u8(6), i32(3), stride=i64(2), padding=i64(1), groups=i64(2)),
        "Conv2d(4, 6, kernel_size=3, stride=2, padding=1, groups=2)",
    ),
    (
        lambda: L.Conv2d(4, 6, np.array([3, 2]), padding=(i64(1), i32(0)), dilation=i64(1)),
        "Conv2d(4, 6, kernel_size=(3, 2), padding=(1, 0))",
    ),
    (
        lambda: L.ConvTranspose2d(i64(4), i64(6), i64(2), stride=i64(2), output_padding=i64(1)),
        "ConvTranspose2d(4, 6, kernel_size=2, stride=2, output_padding=1)",
    ),
    (lambda: L.MaxPool2d(i64(3), padding=i64(1)), "MaxPool2d(3, padding=1)"),
    (lambda: L.AvgPool2d(i64(2), divisor_override=i64(3)), "AvgPool2d(2, divisor_override=3)"),
    (lambda: L.AdaptiveAvgPool2d((i64(3), i64(2))), "AdaptiveAvgPool2d((3, 2))"),
    (lambda: L.BatchNorm2d(i64(4)), "BatchNorm2d(4)"),
    (lambda: L.LocalResponseNorm(i64(3)), "LocalResponseNorm(3)"),
    (lambda: L.PositionBias(i64(4), i64(8), i64(8)), "PositionBias(4, 8, 8)"),
    (
        lambda: L.ZeroPaddedShortcut(i64(4), i64(6), stride=i64(2)),
        "ZeroPaddedShortcut(4, 6, stride=2)",
    ),
    (
        lambda: L.Sequential(L.Flatten(), L.Linear(i64(256), i64(3))),
        "Sequential(\n  (0): Flatten()\n  (1): Linear(256, 3)\n)",
    ),
]


@pytest.mark.parametrize(("make", "text"), LAYERS, ids=[text[:30] for _, text in LAYERS])
def test_numpys_integers_are_integers(make, text, rng):
    layer, x = make(), normals((2, 4, 8, 8), rng)
    assert repr(layer) == text
    y = layer(x)
    assert layer.output_shape(x.shape) == y.shape
    assert layer.backward(np.ones_like(y)).shape == x.shape
    assert fc.compile(layer, tuple(map(np.int64, x.shape)))(x).shape == y.shape


@pytest.mark.parametrize(
    "model",
    [
        lambda: fc.models.cifar_resnet(i64(8), num_classes=i64(3)),
        lambda: fc.models.cifar_highway(i64(7), num_classes=i64(3)),
        lambda: fc.models.highway_mlp(i64(3), num_classes=i64(3), width=i64(5)),
        lambda: fc.models.alphago_policy(filters=i64(4), convolutions=i64(2), board=i64(5)),
        lambda: fc.models.lenet5(num_classes=i64(3)),
    ],
)
def test_numpys_integers_make_models(model):
    assert "int64" not in repr(model())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: L.Conv2d(True, 4, 3), ValueError),
        (lambda: L.Conv2d(np.True_, 4, 3), ValueError),
        (lambda: L.Linear(3.0, 4), ValueError),
        (lambda: L.Linear(np.float64(3), 4), ValueError),
        (lambda: L.Linear(i64(0), 4), ValueError),
        (lambda: L.MaxPool2d(np.float32(2.5)), TypeError),
        (lambda: L.MaxPool2d((2.5, 2)), ValueError),
        (lambda: L.MaxPool2d(np.array([2, 2, 2])), TypeError),
        (lambda: fc.models.highway_mlp(i64(2)), ValueError),
        (lambda: fc.models.highway_mlp("3"), ValueError),
    ],
)
def test_other_numbers_are_refused(make, error):
    with pytest.raises(error, match=r"but (an int|a whole|whole)"):
        make()
