"""Normalisation layers: batch norm (Ioffe, Szegedy 2015) and AlexNet's local response norm."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import ops
from fastconv.graph import Value
from fastconv.layers.activation import ReLU
from fastconv.layers.arguments import arguments, positive
from fastconv.layers.base import Layer
from fastconv.layers.gradients import accumulate
from fastconv.layers.parameter import Parameter
from fastconv.ops.normalization import (
    batch_norm_add_relu,
    batch_norm_add_relu_backward,
    batch_norm_relu,
    batch_norm_relu_backward,
)


class BatchNorm2d(Layer):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, per channel.

    In training mean and variance are the batch's (variance over N H W elements), and the running
    ones move by ``momentum`` towards them (the running variance is the unbiased one, as PyTorch);
    ``momentum`` is the weight of the new value: ONNX's and Keras's 0.9 is 0.1 here. In eval mode
    the running ones are used. Parameters and statistics stay float32 in a model of 16 bits.

    Examples
    --------
    >>> import fastconv as fc
    >>> list(fc.layers.BatchNorm2d(8).state_dict())
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """

    keeps_float32 = True
    finds_relu_mask = True
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        (num_features,) = positive("BatchNorm2d", num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.register_buffer("running_mean", np.zeros(num_features, np.float32))
        self.register_buffer("running_var", np.ones(num_features, np.float32))
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64))

    def forward(self, x: Any) -> Any:
        return self._normalize(x, ops.batch_norm, relu=False)

    def forward_relu(self, x: Any, relu: ReLU) -> Any:
        finds_mask = isinstance(x, np.ndarray)  # in backward, from x; on a device by the output
        y = self._normalize(x, batch_norm_relu, relu=finds_mask)
        relu.save(None if finds_mask else y)
        return y

    def forward_add_relu(self, x: Any, side: Any) -> Any:
        return self._normalize(x, batch_norm_add_relu, side, relu=False)

    def _normalize(self, x: Any, function: Any, *side: Any, relu: bool) -> Any:
        y, mean, rstd = function(
            x,
            *side,
            weight=self.weight.data,
            bias=self.bias.data,
            running_mean=self.running_mean,
            running_var=self.running_var,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        if self.training:
            self.num_batches_tracked += 1
            self.save(x, mean, rstd, relu)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        x, mean, rstd, relu = self.saved()
        weight, bias = self.weight.data, self.bias.data
        if relu:
            gradients = batch_norm_relu_backward(grad_y, x, mean, rstd, weight=weight, bias=bias)
        else:
            gradients = ops.batch_norm_backward(grad_y, x, mean, rstd, weight=weight, training=True)
        grad_x, grad_weight, grad_bias = gradients
        accumulate(self.weight, grad_weight)
        accumulate(self.bias, grad_bias)
        return grad_x

    def backward_add_relu(self, grad_y: Any, y: Any) -> tuple[Any, Any]:
        x, mean, rstd, _ = self.saved()
        grad_x, grad_side, grad_weight, grad_bias = batch_norm_add_relu_backward(
            grad_y, y, x, mean, rstd, weight=self.weight.data
        )
        accumulate(self.weight, grad_weight)
        accumulate(self.bias, grad_bias)
        return grad_x, grad_side

    def lower(self, x: Value) -> Value:
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(f"num_features={self.num_features}, but the input has shape {x.shape}")
        names = {name: name for name in ("weight", "bias", "running_mean", "running_var")}
        return x.graph.add("batch_norm", (x,), names, eps=self.eps)

    def extra_repr(self) -> str:
        return arguments(self.num_features, eps=(self.eps, 1e-5), momentum=(self.momentum, 0.1))


class LocalResponseNorm(Layer):
    """y = x / (k + alpha / size * sum of x^2 over ``size`` neighbouring channels) ^ beta.

    ``alpha`` is divided by ``size``, as in PyTorch and Caffe; AlexNet's paper does not divide, so
    its 1e-4 with size 5 is 5e-4 here (Krizhevsky et al. 2012, section 3.3).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.LocalResponseNorm(5, alpha=5e-4, k=2.0)
    LocalResponseNorm(5, alpha=0.0005, k=2.0)
    """

    def __init__(
        self, size: int, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        (size,) = positive("LocalResponseNorm", size=size)
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "beta": self.beta, "k": self.k}

    def forward(self, x: Any) -> Any:
        self.save(x)
        return ops.local_response_norm(x, self.size, **self._options())

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (x,) = self.saved()
        if not need_input:
            return None
        return ops.local_response_norm_backward(grad_y, x, self.size, **self._options())

    def lower(self, x: Value) -> Value:
        return x.graph.add("local_response_norm", (x,), size=self.size, **self._options())

    def extra_repr(self) -> str:
        return arguments(
            self.size, alpha=(self.alpha, 1e-4), beta=(self.beta, 0.75), k=(self.k, 1.0)
        )
