"""Small models that `fc.compile` must get right, for the CPU and for CUDA: name -> (how to make the
model, the shape of its input, what its fused steps are called)."""

from __future__ import annotations

import fastconv as fc
import numpy as np
from fastconv import init
from support import normals

L = fc.layers


def _classifier():
    return L.Sequential(
        L.Conv2d(3, 8, 3, padding=1, bias=False),
        L.BatchNorm2d(8),
        L.ReLU(),
        L.MaxPool2d(2),
        L.Dropout(0.5),
        L.Flatten(),
        L.Linear(8 * 3 * 4, 7),
        L.BatchNorm2d(7),
        L.ReLU(),
        L.Linear(7, 5),
        L.Softmax(),
    )


def _block(channels, shortcut=None):
    body = L.Sequential(
        L.Conv2d(8, channels, 3, padding=1), L.BatchNorm2d(channels), L.ReLU(),
        L.Conv2d(channels, channels, 1), L.BatchNorm2d(channels),
    )  # fmt: skip
    return L.Sequential(L.Residual(body, shortcut), L.ReLU())


def _blocks():
    shortcut = L.Sequential(L.Conv2d(8, 16, 1), L.BatchNorm2d(16))
    return L.Sequential(
        L.Conv2d(3, 8, 3, padding=1), L.ReLU(), _block(8), _block(16, shortcut),
        L.GlobalAvgPool2d(), L.Flatten(),
    )  # fmt: skip


def _inception():
    def branch(channels):
        return L.Sequential(L.Conv2d(8, channels, 1), L.ReLU())

    inner = L.Concat(L.Conv2d(8, 5, 3, padding=1), L.MaxPool2d(3, stride=1, padding=1))
    return L.Sequential(
        L.Conv2d(4, 8, 1), L.Concat(branch(8), inner, L.Dropout(0.1), branch(3)),
        L.AvgPool2d(2, padding=1, count_include_pad=False),
    )  # fmt: skip


def _normalized():
    return L.Sequential(
        L.BatchNorm2d(6), L.ReLU(), L.Conv2d(6, 9, 3, stride=2, padding="same", groups=3),
        L.LocalResponseNorm(5, alpha=0.5), L.Tanh(), L.MaxPool2d(3, stride=2, ceil_mode=True),
        L.Conv2d(9, 4, 1), L.Sigmoid(), L.PositionBias(4, 2, 2),
    )  # fmt: skip


def _pools():
    return L.Concat(
        L.MaxPool2d(2, stride=1, padding=1, dilation=2),
        L.Sequential(L.AdaptiveAvgPool2d((6, 5))),
        L.AvgPool2d((1, 2), stride=1, divisor_override=3, padding=((0, 0), (0, 1))),
    )


def _shared():
    conv = L.Conv2d(4, 4, 3, padding=1)
    return L.Sequential(conv, L.Residual(conv), L.Residual(L.Sequential()), L.Concat(conv, conv))


def _upscaled():
    return L.Sequential(
        L.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), L.BatchNorm2d(6),
        L.Residual(L.Conv2d(6, 6, 3, padding=1), L.AvgPool2d(3, stride=1, padding=1)),
    )  # fmt: skip


def _option_a():
    return L.Sequential(
        L.Conv2d(4, 4, 1),
        L.Residual(L.Conv2d(4, 7, 3, stride=2, padding=1), L.ZeroPaddedShortcut(4, 7, stride=2)),
        L.Concat(L.ZeroPaddedShortcut(7, 7, stride=3), L.ZeroPaddedShortcut(7, 10, stride=3)),
    )


class _Product(L.Layer):
    def __init__(self):
        self.gate = L.Sequential(L.Conv2d(4, 4, 1), L.Sigmoid())

    def forward(self, x):
        return self.gate(x) * x


class _Reused(L.Layer):
    """Values that are needed again after what could be fused with them or written over them."""

    def __init__(self):
        self.stem, self.one, self.two = (L.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.relu, self.norm, self.later = L.ReLU(), L.BatchNorm2d(4), L.BatchNorm2d(4)

    def forward(self, x):
        s = self.stem(x)
        y = self.later(self.norm(self.relu(self.one(s))))  # not in the order that folds
        y = self.later(self.two(y) + s)  # nor here: the sum is normalized
        return y + self.relu(s) + s


MODELS = {
    "classifier": (
        _classifier, (2, 3, 6, 8),
        ["conv2d + batch_norm + relu", "max_pool2d", "flatten", "linear + batch_norm + relu",
         "linear", "softmax"],
    ),
    "residual": (
        _blocks, (2, 3, 6, 5),
        ["conv2d + relu", "conv2d + batch_norm + relu", "conv2d + batch_norm + add + relu",
         "conv2d + batch_norm + relu", "conv2d + batch_norm",
         "conv2d + batch_norm + add + relu", "global_avg_pool2d"],
    ),
    "inception": (
        _inception, (2, 4, 5, 4),
        ["conv2d", "conv2d + relu", "conv2d", "max_pool2d", "concat", "conv2d + relu", "concat",
         "avg_pool2d"],
    ),
    "normalized": (
        _normalized, (2, 6, 7, 8),
        ["batch_norm", "relu", "conv2d", "local_response_norm", "tanh", "max_pool2d", "conv2d",
         "sigmoid", "position_bias"],
    ),
    "pools": (_pools, (2, 4, 6, 5), ["max_pool2d", "adaptive_avg_pool2d", "avg_pool2d", "concat"]),
    "shared": (
        _shared, (2, 4, 5, 4), ["conv2d", "conv2d + add", "add", "conv2d", "conv2d", "concat"]
    ),
    "gated": (
        lambda: L.Sequential(
            L.Highway(L.Sequential(L.Conv2d(4, 4, 1), L.ReLU()), L.Conv2d(4, 4, 1)), _Product()
        ),
        (2, 4, 5, 3),
        ["conv2d + relu", "conv2d", "sigmoid", "highway", "conv2d", "sigmoid", "multiply"],
    ),
    "reused": (
        _Reused, (2, 4, 5, 4),
        ["conv2d", "conv2d + relu", "batch_norm", "batch_norm", "conv2d + add", "batch_norm",
         "relu", "add", "add"],
    ),
    "option_a": (
        _option_a, (2, 4, 5, 6),
        ["conv2d", "zero_padded_shortcut", "conv2d + add", "zero_padded_shortcut",
         "zero_padded_shortcut", "concat"],
    ),
    "upscaled": (
        _upscaled, (2, 4, 3, 4), ["conv_transpose2d", "batch_norm", "avg_pool2d", "conv2d + add"]
    ),
}  # fmt: skip


def model_of(name):
    """The model in eval mode, with statistics that batch norm's do not start with."""
    with init.seeded(3):
        model = MODELS[name][0]()
    rng = np.random.default_rng(4)
    for _, layer in model.named_layers():
        if isinstance(layer, L.BatchNorm2d):
            layer.weight.data = 0.5 + rng.random(layer.weight.shape, np.float32)
            layer.bias.data = normals(layer.bias.shape, rng)
            layer.running_mean[...] = normals(layer.running_mean.shape, rng)
            layer.running_var[...] = 0.5 + rng.random(layer.running_var.shape, np.float32)
        elif getattr(layer, "bias", None) is not None:
            layer.bias.data = normals(layer.bias.shape, rng)
    return model.eval()
