"""Batch normalization and its gradient.

Per channel c, over the M = N * H * W elements of the batch (M = N for vectors):

    mean = sum(x) / M        var = sum((x - mean)^2) / M        rstd = 1 / sqrt(var + eps)
    xhat = (x - mean) * rstd        y = weight * xhat + bias

    running_mean <- (1 - momentum) * running_mean + momentum * mean
    running_var  <- (1 - momentum) * running_var  + momentum * var * M / (M - 1)

In evaluation mean and var are the running ones. With g = dL/dy:

    dL/dweight = sum(g * xhat)        dL/dbias = sum(g)
    training    dL/dx = weight * rstd * (g - sum(g) / M - xhat * sum(g * xhat) / M)
    evaluation  dL/dx = weight * rstd * g

In training mean and rstd depend on every x of the channel; dmean/dx = 1 / M and
drstd/dx = -rstd^2 * xhat / M bring the two terms that are taken off g.
An empty batch has mean 0, rstd 1 / sqrt(eps) and leaves the running statistics as they are.
Shapes: x (N, C, H, W), one image (C, H, W), or vectors (N, C); everything else (C,).
Source: S. Ioffe, C. Szegedy, "Batch Normalization" (2015), algorithm 1 and section 3.
"""

from __future__ import annotations

import numpy as np

from .windows import Array, no_warnings


@no_warnings
def batch_norm(
    x: Array,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, Array, Array]:
    """Give each channel mean 0 and variance 1, then scale and shift it.

    Parameters
    ----------
    x : array (N, C, H, W), (C, H, W) or (N, C)
    weight, bias : array (C,), 1 and 0 where None
    running_mean, running_var : array (C,), optional in training
        Updated in place in training, the variance by its unbiased estimate.
    training : bool
    momentum : float
        Weight of the new statistics (PyTorch's meaning; ONNX and Keras weigh the old ones).
    eps : float

    Returns
    -------
    y : array like x
    mean, rstd : arrays (C,), what `batch_norm_backward` needs

    Raises
    ------
    ValueError
        In training with a single value per channel: its variance says nothing.

    Examples
    --------
    >>> import numpy as np
    >>> batch_norm(np.array([[1.0], [3.0]]), training=True, eps=0.0)
    (array([[-1.],
           [ 1.]]), array([2.]), array([1.]))
    """
    x = np.asarray(x)
    axes, shape = channel_axes(x)
    if training:
        mean, var = batch_statistics(x, axes)
        update_running(x, mean, var, running_mean, running_var, momentum)
    elif running_mean is None or running_var is None:
        raise ValueError("training=False needs running_mean and running_var")
    else:
        mean, var = np.array(running_mean), np.array(running_var)
    rstd = 1 / np.sqrt(var + var.dtype.type(eps))
    y = (x - mean.reshape(shape)) * rstd.reshape(shape)
    if weight is not None:
        y = y * np.reshape(weight, shape)
    if bias is not None:
        y = y + np.reshape(bias, shape)
    return y, mean, rstd


@no_warnings
def batch_norm_backward(
    grad_output: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    *,
    weight: Array | None = None,
    training: bool,
) -> tuple[Array, Array, Array]:
    """Gradients of `batch_norm` by the formulas at the module's head.

    Parameters
    ----------
    grad_output, x : arrays (N, C, H, W), (C, H, W) or (N, C)
    mean, rstd : arrays (C,), what `batch_norm` returned
    weight : array (C,), 1 where None
    training : bool, as in `batch_norm`

    Returns
    -------
    grad_input : array like x
    grad_weight, grad_bias : arrays (C,)

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0], [3.0]])
    >>> batch_norm_backward(x, x, np.array([2.0]), np.array([1.0]), training=False)
    (array([[1.],
           [3.]]), array([2.]), array([4.]))
    """
    grad_output, x = np.asarray(grad_output), np.asarray(x)
    axes, shape = channel_axes(x)
    xhat = (x - np.reshape(mean, shape)) * np.reshape(rstd, shape)
    grad_weight = (grad_output * xhat).sum(axis=axes)
    grad_bias = grad_output.sum(axis=axes)
    grad_xhat = grad_output
    if training and x.size:
        m = x.size // grad_bias.size
        grad_xhat = grad_output - (grad_bias.reshape(shape) + xhat * grad_weight.reshape(shape)) / m
    scale = np.asarray(rstd) if weight is None else np.asarray(rstd) * weight
    return grad_xhat * scale.reshape(shape), grad_weight, grad_bias


def batch_statistics(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and population variance of each channel; 0 and 0 of an empty batch."""
    if x.size == 0:
        zeros = np.zeros(np.sum(x, axis=axes).shape, dtype=x.dtype)
        return zeros, zeros
    return x.mean(axis=axes), x.var(axis=axes)


def update_running(
    x: Array,
    mean: Array,
    var: Array,
    running_mean: Array | None,
    running_var: Array | None,
    momentum: float,
) -> None:
    """Move the running statistics towards the batch's, in place."""
    if x.size == 0:
        return
    m = x.size // mean.size
    if m == 1:
        raise ValueError(f"training needs more than one value per channel: x has shape {x.shape}")
    if running_mean is not None:
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
    if running_var is not None:
        running_var[...] = (1 - momentum) * running_var + momentum * (var * (m / (m - 1)))


def channel_axes(x: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes to sum over for one number a channel, and the shape that lines (C,) up with x."""
    if x.ndim not in (2, 3, 4):
        raise ValueError(f"x has shape {x.shape}: wanted (N, C, H, W), (C, H, W) or (N, C)")
    channel = 0 if x.ndim == 3 else 1
    axes = tuple(i for i in range(x.ndim) if i != channel)
    return axes, tuple(-1 if i == channel else 1 for i in range(x.ndim))
