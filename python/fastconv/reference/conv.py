"""Convolution (cross-correlation) and its gradients, as sums over the taps of the kernel.

    y[n, k, p, q] = bias[k] + sum over c, r, s of weight[k, c, r, s] x[n, c, h(p, r), w(q, s)]
    h(p, r) = p * stride_h + r * dilation_h - top        w(q, s) likewise

Outside the input x is 0, a value that takes part in the product (0 * inf is NaN). For one tap
(r, s) the sum over c is a product of a matrix (K, C) with the image sampled at that tap,
(C, P * Q); `groups` cuts K and C into as many independent convolutions. Gradients of a loss L, with
g = dL/dy, follow by the chain rule: each product above passes g times its other factor.

    dL/dx[n, c, i, j]      = sum over k, r, s and those p, q with h(p, r) = i, w(q, s) = j
                             of weight[k, c, r, s] g[n, k, p, q]
    dL/dweight[k, c, r, s] = sum over n, p, q of g[n, k, p, q] x[n, c, h(p, r), w(q, s)]
    dL/dbias[k]            = sum over n, p, q of g[n, k, p, q]

Results have the dtype of the arguments and are computed in it: pass float64 for a reference value.
Source: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .activation import activate, activation_backward
from .channels import check_channels, correlate_channels, mix_channels, transpose_groups
from .windows import (
    Array,
    Axis,
    Padding,
    Pair,
    as_batch,
    axes,
    check_grad,
    like_batch,
    no_warnings,
    pad,
)


@no_warnings
def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Array | None = None,
) -> Array:
    """Convolve images with a bank of filters.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    weight : array (K, C // groups, R, S)
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
    groups : int
        Filter k sees only the channels of its group, k // (K // groups).
    activation : None or "relu"
    residual : array of the result's shape, optional
        Added before the activation.

    Returns
    -------
    array (N, K, P, Q), or (K, P, Q) for one image

    Raises
    ------
    ValueError
        If shapes do not fit or no window fits into the padded input.

    Examples
    --------
    >>> import numpy as np
    >>> conv2d(np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 1, 2, 2)))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    images, weight = as_batch(x), np.asarray(weight)
    check_channels(images.shape[1], weight.shape, groups)
    rows, cols = conv_axes(images.shape, weight.shape, stride, padding, dilation)
    padded = pad(images, rows, cols)
    shape = (images.shape[0], weight.shape[0], rows.count, cols.count)
    y = np.zeros(shape, dtype=np.result_type(images, weight))
    for r, s in np.ndindex(weight.shape[2:]):
        y += mix_channels(weight[:, :, r, s], padded[:, :, rows.tap(r), cols.tap(s)], groups)
    if bias is not None:
        y += np.asarray(bias)[None, :, None, None]
    if residual is not None:
        y += as_batch(residual, "residual")
    return like_batch(activate(y, activation), x)


@no_warnings
def conv2d_grad_input(
    grad_output: Array,
    weight: Array,
    input_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    residual: Array | None = None,
) -> Array:
    """dL/dx: every output position hands its gradient back to the inputs under its window.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    weight : array (K, C // groups, R, S)
    input_shape : (N, C, H, W)
    stride, padding, dilation, groups : as in `conv2d`
    residual : array of the result's shape, optional
        Added to the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_grad_input(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), (1, 1, 3, 3))
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    grads, weight = as_batch(grad_output, "grad_output"), np.asarray(weight)
    n, c = input_shape[:2]
    check_channels(c, weight.shape, groups)
    rows, cols = conv_axes(input_shape, weight.shape, stride, padding, dilation)
    check_grad(grads.shape, (n, weight.shape[0], rows.count, cols.count))
    padded = np.zeros(
        (n, c, rows.padded_size, cols.padded_size), dtype=np.result_type(grads, weight)
    )
    transposed = transpose_groups(weight, groups)  # (C, K // groups, R, S)
    for r, s in np.ndindex(weight.shape[2:]):
        padded[:, :, rows.tap(r), cols.tap(s)] += mix_channels(
            transposed[:, :, r, s], grads, groups
        )
    result = like_batch(padded[:, :, rows.inside, cols.inside], grad_output)
    return result if residual is None else result + residual


@no_warnings
def conv2d_grad_weight(
    grad_output: Array,
    x: Array,
    weight_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """dL/dweight: correlate the gradient with the input, one tap at a time.

    Takes no `accumulate`: without `out` there is nothing to add to.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x : array (N, C, H, W) or (C, H, W)
    weight_shape : (K, C // groups, R, S)
    stride, padding, dilation, groups : as in `conv2d`

    Returns
    -------
    array (K, C // groups, R, S), zero for an empty batch

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d_grad_weight(np.ones((1, 1, 2, 2)), x, (1, 1, 2, 2))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    images, grads = as_batch(x), as_batch(grad_output, "grad_output")
    check_channels(images.shape[1], weight_shape, groups)
    rows, cols = conv_axes(images.shape, weight_shape, stride, padding, dilation)
    check_grad(grads.shape, (images.shape[0], weight_shape[0], rows.count, cols.count))
    padded = pad(images, rows, cols)
    grad_weight = np.zeros(tuple(weight_shape), dtype=np.result_type(images, grads))
    for r, s in np.ndindex(*weight_shape[2:]):
        sampled = padded[:, :, rows.tap(r), cols.tap(s)]
        grad_weight[:, :, r, s] = correlate_channels(grads, sampled, groups)
    return grad_weight


@no_warnings
def conv2d_grad_bias(grad_output: Array) -> Array:
    """dL/dbias: the gradient summed over the batch and all positions.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)

    Returns
    -------
    array (K,)

    Examples
    --------
    >>> import numpy as np
    >>> conv2d_grad_bias(np.ones((2, 1, 2, 2)))
    array([8.])
    """
    return np.asarray(as_batch(grad_output, "grad_output").sum(axis=(0, 2, 3)))


@no_warnings
def conv2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    output: Array | None = None,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """All gradients of `conv2d` at once; first undoes the activation with the stored `output`.

    (The gradient of a residual is grad_output behind the activation: `relu_backward`.)

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x, weight, stride, padding, dilation, groups, activation : as in `conv2d`
    output : array, what `conv2d` returned; needed with an activation
    need : which of "input", "weight", "bias" to compute

    Returns
    -------
    grad_input, grad_weight, grad_bias : arrays like x, weight and (K,); None where not needed

    Examples
    --------
    >>> import numpy as np
    >>> x, weight = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    >>> conv2d_backward(np.ones((1, 1, 2, 2)), x, weight, need=("bias",))
    (None, None, array([4.]))
    """
    grad = activation_backward(np.asarray(grad_output), activation, output)
    problem: dict[str, Any] = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups
    }  # fmt: skip
    grad_input = grad_weight = grad_bias = None
    if "input" in need:
        input_shape = as_batch(x).shape
        grad_input = conv2d_grad_input(grad, weight, input_shape, **problem)
    if "weight" in need:
        grad_weight = conv2d_grad_weight(grad, x, np.shape(weight), **problem)
    if "bias" in need:
        grad_bias = conv2d_grad_bias(grad)
    return grad_input, grad_weight, grad_bias


def pack_weight(
    weight: Any,
    *,
    groups: int = 1,
    input_shape: Sequence[int] | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> Array:
    """`weight` itself: the reference has no packed form; for code written against `fastconv`.

    Examples
    --------
    >>> import numpy as np
    >>> pack_weight(np.ones((1, 1, 1, 1))).shape
    (1, 1, 1, 1)
    """
    return np.asarray(weight)


def conv_axes(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
) -> tuple[Axis, Axis]:
    """The windows of a kernel (K, C // groups, R, S) over images (N, C, H, W)."""
    kernel = (weight_shape[2], weight_shape[3])
    return axes(input_shape[2:], kernel, stride, padding, dilation)
