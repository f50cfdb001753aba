"""Layers: state and backward over the functions of ``fastconv.ops``; names and order as
``torch.nn``."""

from fastconv.layers.activation import ReLU, Sigmoid, Softmax, Tanh
from fastconv.layers.base import Layer
from fastconv.layers.composite import Concat, Highway, Residual
from fastconv.layers.convolution import Conv2d, ConvTranspose2d
from fastconv.layers.linear import Dropout, Flatten, Linear, PositionBias
from fastconv.layers.loss import CrossEntropyLoss
from fastconv.layers.normalization import BatchNorm2d, LocalResponseNorm
from fastconv.layers.parameter import Parameter
from fastconv.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d
from fastconv.layers.sequential import Sequential
from fastconv.layers.shortcut import ZeroPaddedShortcut

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Highway",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Parameter",
    "PositionBias",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "ZeroPaddedShortcut",
]
