"""Validation, allocation and dispatch: one module a family, one call into _core a function."""

from .arrays import channels_last, is_channels_last
from .conv import (
    PackedWeight,
    algorithms,
    conv1d,
    conv2d,
    conv2d_backward,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv2d_output_shape,
    pack_weight,
)
from .conv_transpose import conv_transpose2d, conv_transpose2d_backward

__all__ = [
    "PackedWeight",
    "algorithms",
    "channels_last",
    "conv1d",
    "conv2d",
    "conv2d_backward",
    "conv2d_grad_bias",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv2d_output_shape",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "is_channels_last",
    "pack_weight",
]
