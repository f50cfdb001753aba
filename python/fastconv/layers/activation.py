"""Activation layers. Their gradients follow from the output, so the output is all they keep."""

from __future__ import annotations

from typing import Any

from fastconv import ops
from fastconv.graph import Value
from fastconv.layers.arguments import arguments
from fastconv.layers.base import Layer


class ReLU(Layer):
    """max(x, 0).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> fc.layers.ReLU()(np.array([[-1.0, 2.0]], np.float32))
    array([[0., 2.]], dtype=float32)
    """

    def forward(self, x: Any) -> Any:
        y = ops.relu(x)
        self.save(y)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (y,) = self.saved()
        if y is None:  # the layer before or after does both gradients (layers/fused.py)
            return grad_y
        return ops.relu_backward(grad_y, y) if need_input else None

    def lower(self, x: Value) -> Value:
        return x.graph.add("relu", (x,))


class Sigmoid(Layer):
    """1 / (1 + exp(-x)).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> fc.layers.Sigmoid()(np.array([[0.0]], np.float32))
    array([[0.5]], dtype=float32)
    """

    def forward(self, x: Any) -> Any:
        y = ops.sigmoid(x)
        self.save(y)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (y,) = self.saved()
        return ops.sigmoid_backward(grad_y, y) if need_input else None

    def lower(self, x: Value) -> Value:
        return x.graph.add("sigmoid", (x,))


class Tanh(Layer):
    """The hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> fc.layers.Tanh()(np.array([[0.0]], np.float32))
    array([[0.]], dtype=float32)
    """

    def forward(self, x: Any) -> Any:
        y = ops.tanh(x)
        self.save(y)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (y,) = self.saved()
        return ops.tanh_backward(grad_y, y) if need_input else None

    def lower(self, x: Value) -> Value:
        return x.graph.add("tanh", (x,))


class Softmax(Layer):
    """exp(x) / sum exp(x) along ``axis``. ``CrossEntropyLoss`` takes logits: no Softmax before it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> fc.layers.Softmax()(np.zeros((1, 4), np.float32))
    array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Any:
        y = ops.softmax(x, axis=self.axis)
        self.save(y)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (y,) = self.saved()
        return ops.softmax_backward(grad_y, y, axis=self.axis) if need_input else None

    def lower(self, x: Value) -> Value:
        return x.graph.add("softmax", (x,), axis=self.axis)

    def extra_repr(self) -> str:
        return arguments(axis=(self.axis, 1))
