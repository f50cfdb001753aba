"""Fully connected layers and what surrounds them: Linear, Flatten, PositionBias, Dropout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastconv import init, ops
from fastconv.graph import Value
from fastconv.layers.activation import ReLU
from fastconv.layers.arguments import arguments, positive
from fastconv.layers.arithmetic import add_to_each, sum_over_batch
from fastconv.layers.base import Layer
from fastconv.layers.gradients import accumulate, accumulate_bias
from fastconv.layers.parameter import Parameter


class Linear(Layer):
    """y = x weight^T + bias, x (N, in_features), weight (out_features, in_features).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.Linear(84, 10).num_parameters
    850
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        self.in_features, self.out_features = positive(
            "Linear", in_features=in_features, out_features=out_features
        )
        self.weight = Parameter(init.he_normal((self.out_features, self.in_features)))
        self.bias = Parameter(np.zeros(self.out_features, np.float32)) if bias else None

    def forward(self, x: Any) -> Any:
        return self._multiply(x, None)

    def forward_relu(self, x: Any, relu: ReLU) -> Any:
        y = self._multiply(x, "relu")
        relu.save(y)
        return y

    def _multiply(self, x: Any, activation: str | None) -> Any:
        self.save(x)
        bias = None if self.bias is None else self.bias.data
        return ops.linear(x, self.weight.data, bias, activation=activation)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (x,) = self.saved()
        weight, bias = self.weight, self.bias
        if x.ndim == 1:
            x, grads = x[None], grad_y[None]
        else:
            grads = grad_y
        # As a 1x1 convolution of images of one pixel, whose gradients add in place: a temporary of
        # weight's size costs more than the sums do (32x4096x1024: 20.4 ms against 3.9 ms, AVX-512).
        pixels = grads[:, :, None, None]
        if weight.requires_grad:
            weight.accumulate_from(
                lambda out, accumulate: ops.conv2d_grad_weight(
                    pixels,
                    x[:, :, None, None],
                    (*weight.shape, 1, 1),
                    out=out[:, :, None, None],
                    accumulate=accumulate,
                )
            )
        accumulate_bias(bias, pixels)
        if not need_input:
            return None
        grad_x = ops.linear_backward(grads, x, weight.data, need=("input",))[0]
        return grad_x.reshape(self.saved()[0].shape)

    def lower(self, x: Value) -> Value:
        names = {"weight": "weight"} | ({"bias": "bias"} if self.bias is not None else {})
        return x.graph.add("linear", (x,), names, weight_shape=self.weight.shape)

    def extra_repr(self) -> str:
        return arguments(self.in_features, self.out_features, bias=(self.bias is not None, True))


class Flatten(Layer):
    """(N, C, H, W) -> (N, C H W) in the logical order of the axes, whatever the memory order.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.Flatten().output_shape((8, 16, 5, 5))
    (8, 400)
    """

    def forward(self, x: Any) -> Any:
        self.save(x.shape, x.ndim == 4 and ops.is_channels_last(x))
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        shape, was_channels_last = self.saved()
        if not need_input:
            return None
        grad_x = grad_y.reshape(shape)
        return ops.channels_last(grad_x) if was_channels_last else grad_x

    def lower(self, x: Value) -> Value:
        return x.graph.add("flatten", (x,))


class PositionBias(Layer):
    """y = x + bias with one bias per position: the last layer of AlphaGo's policy network.

    Parameters
    ----------
    *shape : int
        Shape of one input without N, such as ``PositionBias(1, 19, 19)``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.PositionBias(1, 19, 19).num_parameters
    361
    """

    def __init__(self, *shape: int) -> None:
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = tuple(shape[0])
        self.shape = tuple(positive("PositionBias", shape=size)[0] for size in shape)
        self.bias = Parameter(np.zeros(self.shape, np.float32))

    def _check(self, shape: tuple[int, ...]) -> None:
        if tuple(shape[1:]) != self.shape:
            raise ValueError(f"bias has shape {self.shape}, but one input has {tuple(shape[1:])}")

    def forward(self, x: Any) -> Any:
        single = tuple(x.shape) == self.shape  # one input without N
        if not single:
            self._check(x.shape)
        self.save(single)
        y = add_to_each(x[None] if single else x, self.bias.data)
        return y[0] if single else y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (single,) = self.saved()
        accumulate(self.bias, grad_y if single else sum_over_batch(grad_y))
        return grad_y

    def lower(self, x: Value) -> Value:
        self._check(x.shape)
        return x.graph.add("position_bias", (x,), {"bias": "bias"})

    def extra_repr(self) -> str:
        return arguments(*self.shape)


class Dropout(Layer):
    """In training each element is zero with probability ``p``, else x / (1 - p); nothing in eval
    mode.

    The mask depends on the layer's seed, the number of training calls so far and the element's
    logical index alone: the same on any device, memory order and number of threads, and after a
    resume.

    Parameters
    ----------
    p : float
        Probability of zero, 0 <= p < 1.
    seed : int, optional
        By default drawn from ``fc.init``'s generator, so that two layers have different masks.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.Dropout(0.5, seed=1)
    Dropout(0.5, seed=1)
    """

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p={p!r}, but a probability from 0 to 1 is needed")
        self.p = p
        self.seed = int(init.generator().integers(2**31)) if seed is None else int(seed)
        self.step = 0

    def forward(self, x: Any) -> Any:
        if not self.training:
            return x
        # An odd constant of 64 bits keeps neighbouring seeds' sequences of steps apart.
        seed = (self.seed * 0x9E3779B97F4A7C15 + self.step) % 2**63
        self.step += 1
        self.save(seed)
        return ops.dropout(x, self.p, seed=seed, training=True)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (seed,) = self.saved()
        return ops.dropout_backward(grad_y, self.p, seed=seed) if need_input else None

    def lower(self, x: Value) -> Value:
        return x.graph.add("dropout", (x,), p=self.p)

    def get_extra_state(self) -> dict[str, Any]:
        return {"seed": self.seed, "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seed, self.step = int(state["seed"]), int(state["step"])

    def extra_repr(self) -> str:
        return arguments(self.p, seed=(self.seed, None))
