"""Elementwise activations, softmax and log-softmax, each with its gradient from its output.

    relu        y = x if x > 0 else 0                dx = 0 where y <= 0, else dy
    leaky_relu  y = x if x > 0 else slope * x        dx = dy where y > 0, else slope * dy
    sigmoid     y = 1 / (1 + exp(-x))                dx = dy * y * (1 - y)
    tanh        y = tanh(x)                          dx = dy * (1 - y^2)
    softmax     y = exp(x) / sum(exp(x))             dx = y * (dy - sum(dy * y))
    log_softmax y = x - log(sum(exp(x)))             dx = dy - exp(y) * sum(dy)

Sums run along `axis`. dL/dy is written dy, dL/dx dx. The gradients need only the output, so that
a network may keep one array a layer. NaN goes through all of them: relu(NaN) is NaN, and its
gradient is passed on (as PyTorch does), not dropped; leaky_relu scales it. Arrays of any shape.
"""

from __future__ import annotations

import numpy as np

from .windows import Array, no_warnings


@no_warnings
def relu(x: Array) -> Array:
    """max(x, 0), NaN where x is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    x = np.asarray(x)
    return np.where(x <= 0, x.dtype.type(0), x)


@no_warnings
def relu_backward(grad_output: Array, output: Array) -> Array:
    """dx = 0 where y <= 0, else dy. At y = 0 the gradient is 0, one of relu's subgradients.

    Examples
    --------
    >>> import numpy as np
    >>> relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0]))
    array([0., 5.])
    """
    grad_output = np.asarray(grad_output)
    return np.where(np.asarray(output) <= 0, grad_output.dtype.type(0), grad_output)


@no_warnings
def leaky_relu(x: Array, negative_slope: float = 0.01) -> Array:
    """x where x > 0, else negative_slope * x.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    x = np.asarray(x)
    return np.where(x > 0, x, np.asarray(x * x.dtype.type(negative_slope)))


@no_warnings
def leaky_relu_backward(grad_output: Array, output: Array, negative_slope: float = 0.01) -> Array:
    """dx = dy where y > 0, else negative_slope * dy; y has x's sign only if the slope is >= 0.

    Examples
    --------
    >>> import numpy as np
    >>> leaky_relu_backward(np.array([4.0, 4.0]), np.array([-0.5, 2.0]), 0.5)
    array([2., 4.])
    """
    if negative_slope < 0:
        raise ValueError(f"negative_slope={negative_slope}: the output hides x's sign below 0")
    grad_output = np.asarray(grad_output)
    slope = grad_output.dtype.type(negative_slope)
    return np.where(np.asarray(output) > 0, grad_output, np.asarray(grad_output * slope))


@no_warnings
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written with exp(-|x|) so that nothing overflows.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """
    x = np.asarray(x)
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, small, x.dtype.type(1)) / (1 + small))


@no_warnings
def sigmoid_backward(grad_output: Array, output: Array) -> Array:
    """dx = dy * y * (1 - y).

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid_backward(np.array([1.0]), np.array([0.5]))
    array([0.25])
    """
    output = np.asarray(output)
    return np.asarray(grad_output * output * (1 - output))


@no_warnings
def tanh(x: Array) -> Array:
    """The hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.array([0.0]))
    array([0.])
    """
    return np.asarray(np.tanh(x))


@no_warnings
def tanh_backward(grad_output: Array, output: Array) -> Array:
    """dx = dy * (1 - y^2).

    Examples
    --------
    >>> import numpy as np
    >>> tanh_backward(np.array([1.0]), np.array([0.5]))
    array([0.75])
    """
    output = np.asarray(output)
    return np.asarray(grad_output * (1 - output * output))


@no_warnings
def softmax(x: Array, axis: int = 1) -> Array:
    """exp(x) / sum(exp(x)) along `axis`, the maximum taken off first against overflow.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """
    weights = np.exp(_below_maximum(np.asarray(x), axis))
    return np.asarray(weights / weights.sum(axis=axis, keepdims=True))


@no_warnings
def softmax_backward(grad_output: Array, output: Array, axis: int = 1) -> Array:
    """dx = y * (dy - sum(dy * y)): dy_i/dx_j = y_i (delta_ij - y_j), summed over i.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_backward(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    array([[ 0.25, -0.25]])
    """
    output = np.asarray(output)
    common = (grad_output * output).sum(axis=axis, keepdims=True)
    return np.asarray(output * (grad_output - common))


@no_warnings
def log_softmax(x: Array, axis: int = 1) -> Array:
    """x - log(sum(exp(x))) along `axis`, the maximum taken off first.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax(np.array([[0.0, -1000.0]]))
    array([[    0., -1000.]])
    """
    shifted = _below_maximum(np.asarray(x), axis)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


@no_warnings
def log_softmax_backward(grad_output: Array, output: Array, axis: int = 1) -> Array:
    """dx = dy - exp(y) * sum(dy): dy_i/dx_j = delta_ij - softmax_j, summed over i.

    Examples
    --------
    >>> import numpy as np
    >>> log_softmax_backward(np.array([[1.0, 0.0]]), np.log(np.array([[0.5, 0.5]])))
    array([[ 0.5, -0.5]])
    """
    grad_output = np.asarray(grad_output)
    return np.asarray(grad_output - np.exp(output) * grad_output.sum(axis=axis, keepdims=True))


def _below_maximum(x: Array, axis: int) -> Array:
    """x minus its maximum along `axis`. An infinite maximum makes its row NaN, as in PyTorch."""
    if x.shape[axis] == 0:
        return x
    return np.asarray(x - x.max(axis=axis, keepdims=True))


def activate(y: Array, activation: str | None) -> Array:
    """The activation that conv2d and linear can apply to their result."""
    if activation is None:
        return y
    if activation == "relu":
        return relu(y)
    raise ValueError(f'activation={activation!r}: wanted None or "relu"')


def activation_backward(grad: Array, activation: str | None, output: Array | None) -> Array:
    """The gradient before the activation, from the one behind it and the stored output."""
    if activation is None:
        return grad
    if activation != "relu":
        raise ValueError(f'activation={activation!r}: wanted None or "relu"')
    if output is None:
        raise ValueError("activation='relu': its gradient needs output=, what forward returned")
    return relu_backward(grad, output)
