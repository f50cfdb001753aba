"""Validation, allocation and dispatch: one module a family, one call into _core a function."""

from .activation import (
    dropout,
    dropout_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    tanh,
    tanh_backward,
)
from .arrays import channels_last, is_channels_last
from .conv import algorithms, conv1d, conv2d, conv2d_output_shape
from .conv_gradients import (
    conv2d_backward,
    conv2d_grad_bias,
    conv2d_grad_input,
    conv2d_grad_weight,
)
from .conv_problem import PackedWeight, pack_weight
from .conv_transpose import conv_transpose2d, conv_transpose2d_backward
from .linear import linear, linear_backward
from .loss import (
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    softmax,
    softmax_backward,
)

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
    "cross_entropy",
    "cross_entropy_backward",
    "dropout",
    "dropout_backward",
    "is_channels_last",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log_softmax",
    "log_softmax_backward",
    "pack_weight",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]
