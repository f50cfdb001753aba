"""Average pooling and its gradient.

    y[n, c, p, q] = (sum over r, s of x[n, c, p * stride_h + r - top, q * stride_w + s - left])
                    / divisor[p, q]                          x is 0 outside the input
    dL/dx[n, c, i, j] = sum of g[n, c, p, q] / divisor[p, q] over the windows p, q that hold i, j

The divisor is `divisor_override` if given; else the number of elements of the window inside the
input, with count_include_pad those inside the padded input: a window that hangs over the padding's
end (ceil_mode) counts only what is within, as in PyTorch and ONNX since operator set 19. A window
without a countable element gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .max_pool import pool_axes
from .windows import (
    Array,
    Axis,
    Padding,
    Pair,
    as_batch,
    check_grad,
    like_batch,
    no_warnings,
    pad,
    pair,
)


@no_warnings
def avg_pool2d(
    x: Array,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """The mean of every window.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    kernel_size : int or (height, width)
    stride : int or (height, width), kernel_size where None
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
    ceil_mode : bool
        Keep a last window that hangs over, if it begins within the input or the padding before it.
    count_include_pad : bool
        Whether the divisor counts padding.
    divisor_override : int, optional

    Returns
    -------
    array (N, C, P, Q), or (C, P, Q) for one image

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d(np.array([[[1.0, 5.0], [7.0, 3.0]]]), 2)
    array([[[4.]]])
    """
    images = as_batch(x)
    kernel = pair(kernel_size, "kernel_size")
    rows, cols = pool_axes(images.shape, kernel, stride, padding, 1, ceil_mode)
    padded = pad(images, rows, cols)
    total = np.zeros((*images.shape[:2], rows.count, cols.count), dtype=images.dtype)
    for r, s in np.ndindex(kernel):
        total += padded[:, :, rows.tap(r), cols.tap(s)]
    divisor = divisors(rows, cols, count_include_pad, divisor_override)
    return like_batch(total / divisor.astype(images.dtype), x)


@no_warnings
def avg_pool2d_backward(
    grad_output: Array,
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Array:
    """dL/dx: every output position shares its gradient equally among its window.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    input_shape : (N, C, H, W)
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override : as in
        `avg_pool2d`

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis

    Examples
    --------
    >>> import numpy as np
    >>> avg_pool2d_backward(np.array([[[4.0]]]), (1, 1, 2, 2), 2)
    array([[[1., 1.],
            [1., 1.]]])
    """
    grads = as_batch(grad_output, "grad_output")
    kernel = pair(kernel_size, "kernel_size")
    rows, cols = pool_axes(input_shape, kernel, stride, padding, 1, ceil_mode)
    check_grad(grads.shape, (*input_shape[:2], rows.count, cols.count))
    divisor = divisors(rows, cols, count_include_pad, divisor_override)
    shares = grads / divisor.astype(grads.dtype)
    padded = np.zeros((*grads.shape[:2], rows.padded_size, cols.padded_size), dtype=grads.dtype)
    for r, s in np.ndindex(kernel):
        padded[:, :, rows.tap(r), cols.tap(s)] += shares
    return like_batch(padded[:, :, rows.inside, cols.inside], grad_output)


def divisors(rows: Axis, cols: Axis, count_include_pad: bool, override: int | None) -> Array:
    """(P, Q) array of what each window's sum is divided by, never 0."""
    if override is not None:
        if override == 0:
            raise ValueError("divisor_override=0: wanted a number other than 0")
        return np.full((rows.count, cols.count), float(override))
    counts = np.outer(countable(rows, count_include_pad), countable(cols, count_include_pad))
    return np.asarray(np.maximum(counts, 1))  # a window that holds nothing has sum 0: 0 / 1


def countable(axis: Axis, count_include_pad: bool) -> Array:
    """How many taps of each window fall on the input, or on the padded input."""
    one_if_counted = np.zeros(axis.padded_size, dtype=np.int64)
    one_if_counted[axis.inside] = 1
    if count_include_pad:
        one_if_counted[: axis.low + axis.size + axis.high] = 1
    counts: Array = np.sum([one_if_counted[axis.tap(r)] for r in range(axis.kernel)], axis=0)
    return counts
