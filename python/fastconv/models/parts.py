"""What the networks share: convolution with what follows it, the residual block, and checks of
their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastconv.graph import Value
from fastconv.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    ReLU,
    Sequential,
)
from fastconv.layers.arguments import positive
from fastconv.layers.fused import backward_residual, forward_residual, lower


def check_arguments(function: str, variant: str, variants: tuple[str, ...], **sizes: int) -> None:
    """Refuse a ``variant`` that is none of ``variants``, and sizes below 1."""
    positive(function, **sizes)
    choice(function, "variant", variant, variants)


def choice(function: str, name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is none of ``choices``."""
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"{function}: {name}={value!r}, but {known} is needed")


def classifier(features: int, num_classes: int) -> dict[str, Layer]:
    """AlexNet's and ZFNet's linear layers by Caffe's names, dropout before the first two (2012)."""
    return {
        "flatten": Flatten(),
        "drop6": Dropout(0.5),
        "fc6": Linear(features, 4096),
        "relu6": ReLU(),
        "drop7": Dropout(0.5),
        "fc7": Linear(4096, 4096),
        "relu7": ReLU(),
        "fc8": Linear(4096, num_classes),
    }


def conv_relu(in_channels: int, out_channels: int, kernel_size: int, **window: Any) -> Sequential:
    """A convolution with bias and ReLU, as ``conv`` and ``relu``."""
    return Sequential(
        {"conv": Conv2d(in_channels, out_channels, kernel_size, **window), "relu": ReLU()}
    )


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, *, eps: float = 1e-5, **window: Any
) -> Sequential:
    """A convolution without bias, batch norm and ReLU, as ``conv``, ``bn`` and ``relu``."""
    return Sequential(
        {
            "conv": Conv2d(in_channels, out_channels, kernel_size, bias=False, **window),
            "bn": BatchNorm2d(out_channels, eps=eps),
            "relu": ReLU(),
        }
    )


class ResidualBlock(Layer):
    """y = relu(body(x) + shortcut(x)), with the body's layers as the block's own.

    ``Residual`` would name them ``body.conv1``; published weights have ``conv1``.

    Parameters
    ----------
    body : dict of name -> Layer
        One after another.
    shortcut : (name, Layer), optional
        Without it the input itself.
    """

    def __init__(
        self, body: Mapping[str, Layer], shortcut: tuple[str, Layer] | None = None
    ) -> None:
        self._body = tuple(body)
        self._shortcut = None if shortcut is None else shortcut[0]
        for name, layer in body.items():
            setattr(self, name, layer)
        if shortcut is not None:
            setattr(self, *shortcut)
        self.relu = ReLU()

    def _sides(self) -> tuple[list[Layer], Layer | None]:
        shortcut = None if self._shortcut is None else self._layers[self._shortcut]
        return [self._layers[name] for name in self._body], shortcut

    def forward(self, x: Any) -> Any:
        body, shortcut = self._sides()
        y = forward_residual(body, x, shortcut, self.relu)
        self.save(y)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (y,) = self.saved()
        body, shortcut = self._sides()
        return backward_residual(body, grad_y, y, shortcut, need_input=need_input)

    def lower(self, x: Value) -> Any:
        body, shortcut = self._sides()
        y = lower(body, x)
        side = x if shortcut is None else x.graph.call(shortcut, x)
        return x.graph.call(self.relu, y + side)
