"""What the networks share: convolution with what follows it, and checks of their arguments."""

from __future__ import annotations

from typing import Any

from fastconv.layers import BatchNorm2d, Conv2d, ReLU, Sequential
from fastconv.layers.arguments import positive


def check_arguments(function: str, variant: str, variants: tuple[str, ...], **sizes: int) -> None:
    """Refuse a ``variant`` that is none of ``variants``, and sizes below 1."""
    positive(function, **sizes)
    if variant not in variants:
        known = " or ".join(map(repr, variants))
        raise ValueError(f"{function}: variant={variant!r}, but {known} is needed")


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
