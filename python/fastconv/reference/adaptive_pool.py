"""Adaptive and global pooling: the output's size is given, the windows follow.

Along an axis of size H with P outputs, window p covers the input from floor(p * H / P) to
ceil((p + 1) * H / P), its end excluded (PyTorch's rule): every input element is in a window, and
neighbours overlap where P does not divide H.

    average  y = mean of the window          dL/dx = sum over the windows that hold it of g / count
    maximum  y = max of the window           dL/dx = sum of g over the windows that took it
    global   y = mean of the whole image     dL/dx = g / (H * W)

The maximum has the same order and NaN rules, and the same indices, as `max_pool2d`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from .max_pool import index_map, scatter
from .windows import Array, as_batch, check_grad, like_batch, no_warnings

OutputSize: TypeAlias = int | Sequence[int | None] | None


@no_warnings
def adaptive_avg_pool2d(x: Array, output_size: OutputSize) -> Array:
    """The mean of every window, (P, Q) of them.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    output_size : int or (P, Q); None stands for the input's size

    Returns
    -------
    array (N, C, P, Q) or (C, P, Q)

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (1, 2))
    array([[[1.5, 4. ]]])
    """
    images = as_batch(x)
    size = resolve(output_size, images.shape)
    y = np.zeros((*images.shape[:2], *size), dtype=images.dtype)
    for p, q, rows, cols in adaptive_windows(images.shape, size):
        y[:, :, p, q] = images[:, :, rows, cols].mean(axis=(2, 3))
    return like_batch(y, x)


@no_warnings
def adaptive_avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int]) -> Array:
    """dL/dx: every output position shares its gradient equally among its window.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    input_shape : (N, C, H, W)

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_avg_pool2d_backward(np.array([[[2.0, 4.0]]]), (1, 1, 1, 3))
    array([[[1., 3., 2.]]])
    """
    grads = as_batch(grad_output, "grad_output")
    check_grad(grads.shape[:2], input_shape[:2])
    grad_input = np.zeros(tuple(input_shape), dtype=grads.dtype)
    for p, q, rows, cols in adaptive_windows(input_shape, grads.shape[2:]):
        window = grad_input[:, :, rows, cols]
        window += grads[:, :, p, q, None, None] / (window.shape[2] * window.shape[3])
    return like_batch(grad_input, grad_output)


@no_warnings
def adaptive_max_pool2d(
    x: Array, output_size: OutputSize, *, return_indices: bool = False
) -> Array | tuple[Array, Array]:
    """The maximum of every window, (P, Q) of them.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    output_size : int or (P, Q); None stands for the input's size
    return_indices : bool

    Returns
    -------
    y : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array like y, into H * W, with return_indices

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (1, 2), return_indices=True)
    (array([[[2., 6.]]]), array([[[1, 2]]]))
    """
    images = as_batch(x)
    size = resolve(output_size, images.shape)
    y = np.zeros((*images.shape[:2], *size), dtype=images.dtype)
    indices = np.zeros(y.shape, dtype=np.int64)
    places = index_map(images.shape)[0, 0]
    for p, q, rows, cols in adaptive_windows(images.shape, size):
        window_places = places[rows, cols].ravel()
        window = images[:, :, rows, cols].reshape(*images.shape[:2], window_places.size)
        first = window.argmax(axis=2)  # the first NaN, or else the first maximum
        y[:, :, p, q] = np.take_along_axis(window, first[:, :, None], axis=2)[:, :, 0]
        indices[:, :, p, q] = window_places[first]
    if return_indices:
        return like_batch(y, x), like_batch(indices, x)
    return like_batch(y, x)


@no_warnings
def adaptive_max_pool2d_backward(
    grad_output: Array, indices: Array, input_shape: Sequence[int]
) -> Array:
    """dL/dx: every output position hands its gradient to the element it took.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array of the same shape, from `adaptive_max_pool2d`
    input_shape : (N, C, H, W)

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> adaptive_max_pool2d_backward(np.array([[[5.0]]]), np.array([[[1]]]), (1, 1, 1, 3))
    array([[[0., 5., 0.]]])
    """
    grads = as_batch(grad_output, "grad_output")
    return like_batch(scatter(grads, as_batch(indices, "indices"), input_shape), grad_output)


@no_warnings
def global_avg_pool2d(x: Array) -> Array:
    """The mean of each channel's image.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)

    Returns
    -------
    array (N, C, 1, 1) or (C, 1, 1)

    Examples
    --------
    >>> import numpy as np
    >>> global_avg_pool2d(np.array([[[1.0, 2.0, 6.0]]]))
    array([[[3.]]])
    """
    return np.asarray(as_batch(x).mean(axis=(2, 3), keepdims=True)).reshape(*np.shape(x)[:-2], 1, 1)


@no_warnings
def global_avg_pool2d_backward(grad_output: Array, input_shape: Sequence[int]) -> Array:
    """dL/dx = g / (H * W) everywhere.

    Parameters
    ----------
    grad_output : array (N, C, 1, 1) or (C, 1, 1)
    input_shape : (N, C, H, W)

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> global_avg_pool2d_backward(np.array([[[6.0]]]), (1, 1, 1, 3))
    array([[[2., 2., 2.]]])
    """
    grads = as_batch(grad_output, "grad_output")
    n, c, h, w = input_shape
    check_grad(grads.shape, (n, c, 1, 1))
    return like_batch(np.broadcast_to(grads / (h * w), (n, c, h, w)).copy(), grad_output)


def adaptive_windows(
    input_shape: Sequence[int], output_size: Sequence[int]
) -> Iterator[tuple[int, int, slice, slice]]:
    """(p, q, rows, columns) of every window."""
    h, w = input_shape[2:]
    for p, q in np.ndindex(*output_size):
        yield p, q, adaptive_range(p, h, output_size[0]), adaptive_range(q, w, output_size[1])


def adaptive_range(index: int, size: int, count: int) -> slice:
    """Window `index` of `count` over `size` elements."""
    return slice(index * size // count, -(-(index + 1) * size // count))


def resolve(output_size: OutputSize, input_shape: Sequence[int]) -> tuple[int, int]:
    """(P, Q) from an int, a pair, or None for the input's own size."""
    if output_size is None or isinstance(output_size, (int, np.integer)):
        output_size = (output_size, output_size)
    if len(output_size) != 2 or any(v is not None and v < 1 for v in output_size):
        raise ValueError(f"output_size={output_size!r}: wanted an int or (height, width), >= 1")
    h, w = (s if v is None else int(v) for v, s in zip(output_size, input_shape[2:], strict=True))
    return h, w
