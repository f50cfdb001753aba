"""Max pooling, its gradient, and unpooling.

    y[n, c, p, q] = max over r, s of x[n, c, h(p, r), w(q, s)]
    h(p, r) = p * stride_h + r * dilation_h - top        w(q, s) likewise

`indices[n, c, p, q] = h * W + w` of the element taken: the first maximum in row-major order. NaN
counts as greater than every number, so the first NaN of a window is taken (as `numpy.argmax` does;
PyTorch takes the last: same value, another index). Padding never wins: a window of -inf has the
index of its first element, and a window without an input element gives -inf and index -1.

    dL/dx[n, c, h, w] = sum of g[n, c, p, q] over those p, q with indices[n, c, p, q] = h * W + w

Padding must be less than the window's extent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    pair,
)


@no_warnings
def max_pool2d(
    x: Array,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Array | tuple[Array, Array]:
    """The maximum of every window.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    kernel_size, dilation : int or (height, width)
    stride : int or (height, width), kernel_size where None
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
    ceil_mode : bool
        Keep a last window that hangs over, if it begins within the input or the padding before it.
    return_indices : bool

    Returns
    -------
    y : array (N, C, P, Q), or (C, P, Q) for one image
    indices : int64 array like y, with return_indices

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d(np.array([[[1.0, 5.0], [7.0, 3.0]]]), 2, return_indices=True)
    (array([[[7.]]]), array([[[2]]]))
    """
    images = as_batch(x)
    kernel = pair(kernel_size, "kernel_size")
    rows, cols = pool_axes(images.shape, kernel, stride, padding, dilation, ceil_mode)
    padded = pad(images, rows, cols, -np.inf)
    places = pad(index_map(images.shape), rows, cols, -1)  # (1, 1, ...): h * W + w, or -1
    shape = (*images.shape[:2], rows.count, cols.count)
    best = np.full(shape, -np.inf, dtype=images.dtype)
    index = np.full(shape, -1, dtype=np.int64)
    for r, s in np.ndindex(kernel):
        value = padded[:, :, rows.tap(r), cols.tap(s)]
        place = places[:, :, rows.tap(r), cols.tap(s)]
        wins = (value > best) | (np.isnan(value) & ~np.isnan(best)) | (index < 0)
        wins &= place >= 0
        best = np.where(wins, value, best)
        index = np.where(wins, place, index)
    if return_indices:
        return like_batch(best, x), like_batch(index, x)
    return like_batch(best, x)


@no_warnings
def max_pool2d_backward(
    grad_output: Array,
    indices: Array,
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Array:
    """dL/dx: every output position hands its gradient to the element it took.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array of the same shape, from `max_pool2d`; -1 is ignored
    input_shape : (N, C, H, W)
    kernel_size, stride, padding, dilation, ceil_mode : as in `max_pool2d`

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> max_pool2d_backward(np.array([[[4.0]]]), np.array([[[2]]]), (1, 1, 2, 2), 2)
    array([[[0., 0.],
            [4., 0.]]])
    """
    kernel = pair(kernel_size, "kernel_size")
    rows, cols = pool_axes(input_shape, kernel, stride, padding, dilation, ceil_mode)
    grads = as_batch(grad_output, "grad_output")
    check_grad(grads.shape, (*input_shape[:2], rows.count, cols.count))
    return like_batch(scatter(grads, as_batch(indices), input_shape), grad_output)


@no_warnings
def max_unpool2d(x: Array, indices: Array, *, output_size: Pair) -> Array:
    """Put the maxima back where `max_pool2d` found them, 0 elsewhere.

    Parameters
    ----------
    x : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array of the same shape, into H * W; -1 is ignored
    output_size : (H, W)

    Returns
    -------
    array (N, C, H, W) or (C, H, W). Where an index comes twice the last one in row-major order
    stays (indices of overlapping windows repeat, with equal values).

    Examples
    --------
    >>> import numpy as np
    >>> max_unpool2d(np.array([[[7.0]]]), np.array([[[2]]]), output_size=(2, 2))
    array([[[0., 0.],
            [7., 0.]]])
    """
    values = as_batch(x)
    shape = (*values.shape[:2], *pair(output_size, "output_size"))
    plane, where, index = _places(as_batch(indices, "indices"), values.shape, shape)
    y = np.zeros((shape[0] * shape[1], shape[2] * shape[3]), dtype=values.dtype)
    y[plane, index] = values[where]  # NumPy keeps the last of equal indices
    return like_batch(y.reshape(shape), x)


@no_warnings
def max_unpool2d_backward(grad_output: Array, indices: Array) -> Array:
    """dL/dx: the gradient at the place each value went to; 0 for index -1.

    Parameters
    ----------
    grad_output : array (N, C, H, W) or (C, H, W)
    indices : int64 array (N, C, P, Q) or (C, P, Q)

    Returns
    -------
    array like indices

    Examples
    --------
    >>> import numpy as np
    >>> max_unpool2d_backward(np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[2]]]))
    array([[[3.]]])
    """
    grads, places = as_batch(grad_output, "grad_output"), as_batch(indices, "indices")
    plane, where, index = _places(places, places.shape, grads.shape)
    grad_input = np.zeros(places.shape, dtype=grads.dtype)
    h, w = np.divmod(index, grads.shape[3])
    n, c = np.divmod(plane, grads.shape[1])
    grad_input[where] = grads[n, c, h, w]
    return like_batch(grad_input, indices)


def pool_axes(
    input_shape: Sequence[int],
    kernel: tuple[int, int],
    stride: Pair | None,
    padding: Padding,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[Axis, Axis]:
    """The windows of a pooling kernel over images (N, C, H, W)."""
    stride = kernel if stride is None else stride
    both = axes(input_shape[2:], kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    for axis in both:
        if max(axis.low, axis.high) >= axis.extent:
            raise ValueError(
                f"padding={padding!r} must be less than the window's extent {axis.extent}"
            )
    return both


def index_map(input_shape: Sequence[int]) -> Array:
    """(1, 1, H, W) int64 array of h * W + w."""
    h, w = input_shape[2:]
    return np.arange(h * w, dtype=np.int64).reshape(1, 1, h, w)


def scatter(grads: Array, indices: Array, input_shape: Sequence[int]) -> Array:
    """Add every gradient to the element of its plane that its index names; -1 names none."""
    n, c, h, w = input_shape
    plane, where, index = _places(indices, grads.shape, input_shape)
    grad_input = np.zeros((n * c, h * w), dtype=grads.dtype)
    np.add.at(grad_input, (plane, index), grads[where])
    return grad_input.reshape(n, c, h, w)


def _places(
    indices: Array, shape: Sequence[int], image_shape: Sequence[int]
) -> tuple[Array, tuple[Array, ...], Array]:
    """Of each index >= 0: its plane n * C + c, its position (n, c, p, q), and the index itself."""
    h, w = image_shape[2:]
    if indices.shape != tuple(shape) or indices.shape[:2] != tuple(image_shape[:2]):
        raise ValueError(f"indices have shape {indices.shape}: wanted {tuple(shape)}")
    if indices.size and (indices.max() >= h * w or indices.min() < -1):
        raise ValueError(f"indices reach from {indices.min()} to {indices.max()}: image {h} x {w}")
    where = np.nonzero(indices >= 0)
    return where[0] * image_shape[1] + where[1], where, indices[where]
