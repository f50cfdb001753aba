"""Transposed convolution and its gradients: `conv2d`'s gradient run forwards.

    y[n, k, h(p, r), w(q, s)] += x[n, c, p, q] weight[c, k, r, s]   for every n, c, k, p, q, r, s
    h(p, r) = p * stride_h + r * dilation_h - top        w(q, s) likewise

then bias[k] is added. Every input element stamps the kernel, scaled by itself, onto the output;
what falls outside is cut off, so that padding makes the output smaller:

    H_out = (H - 1) * stride_h + (R - 1) * dilation_h + 1 - top - bottom + output_padding_h

output_padding adds rows and columns at the bottom and right that no stamp may reach but whose
shape a strided convolution needs; it must be less than the stride or the dilation. With g = dL/dy,
taken as 0 outside the output (a 0 that takes part in products, as in `conv2d`):

    dL/dx[n, c, p, q]      = sum over k, r, s of g[n, k, h(p, r), w(q, s)] weight[c, k, r, s]
    dL/dweight[c, k, r, s] = sum over n, p, q of x[n, c, p, q] g[n, k, h(p, r), w(q, s)]
    dL/dbias[k]            = sum of g[n, k] over n and the output

Shapes: x (N, C, H, W), weight (C, K // groups, R, S), y (N, K, H_out, W_out).
Source: M. Zeiler et al., "Deconvolutional Networks" (2010); Dumoulin and Visin (2016), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .channels import correlate_channels, mix_channels, transpose_groups
from .windows import (
    Array,
    Padding,
    Pair,
    as_batch,
    check_grad,
    explicit_padding,
    like_batch,
    no_warnings,
    pair,
)


@dataclass(frozen=True)
class StampAxis:
    """Where stamps fall along an axis of the uncut output, and what is cut off."""

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int
    output_padding: int

    @property
    def full_size(self) -> int:
        """Length of the output before padding is cut off."""
        covered = {i * self.stride + r * self.dilation for i in (0, self.size - 1)
                   for r in (0, self.kernel - 1)}  # fmt: skip
        return max(covered) + 1 + self.output_padding

    @property
    def kept(self) -> slice:
        """The output within the uncut one."""
        return slice(self.low, self.full_size - self.high)

    @property
    def count(self) -> int:
        """Length of the output."""
        return self.full_size - self.high - self.low

    def tap(self, index: int) -> slice:
        """Where tap `index` of every stamp falls in the uncut output."""
        first = index * self.dilation
        return slice(first, first + (self.size - 1) * self.stride + 1, self.stride)


@no_warnings
def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Stamp the kernel onto the output, once for each input element.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W)
    weight : array (C, K // groups, R, S)
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int, (height, width), ((top, bottom), (left, right)) or "valid"
        What is cut off the output.
    output_padding : int or (height, width)
        What is added at the bottom and right.
    groups : int

    Returns
    -------
    array (N, K, H_out, W_out), or (K, H_out, W_out) for one image

    Raises
    ------
    ValueError
        If shapes do not fit, the output would be empty, or padding is "same" (of which size a
        transposed convolution knows nothing).

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[1.0, 2.0]]]), np.ones((1, 1, 1, 3)), stride=2)
    array([[[1., 1., 3., 2., 2.]]])
    """
    images, weight = as_batch(x), np.asarray(weight)
    check_transposed(images.shape[1], weight.shape, groups)
    rows, cols = stamp_axes(images.shape, weight.shape, stride, padding, output_padding, dilation)
    filters = weight.shape[1] * groups
    full = np.zeros(
        (images.shape[0], filters, rows.full_size, cols.full_size),
        dtype=np.result_type(images, weight),
    )
    transposed = transpose_groups(weight, groups)  # (K, C // groups, R, S)
    for r, s in np.ndindex(weight.shape[2:]):
        full[:, :, rows.tap(r), cols.tap(s)] += mix_channels(transposed[:, :, r, s], images, groups)
    y = full[:, :, rows.kept, cols.kept]
    if bias is not None:
        y = y + np.asarray(bias)[None, :, None, None]
    return like_batch(y, x)


@no_warnings
def conv_transpose2d_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of `conv_transpose2d` by the formulas at the module's head.

    Parameters
    ----------
    grad_output : array (N, K, H_out, W_out) or (K, H_out, W_out)
    x, weight, stride, padding, output_padding, dilation, groups : as in `conv_transpose2d`
    need : which of "input", "weight", "bias" to compute

    Returns
    -------
    grad_input, grad_weight, grad_bias : arrays like x, weight and (K,); None where not needed

    Examples
    --------
    >>> import numpy as np
    >>> x, weight = np.array([[[1.0, 2.0]]]), np.ones((1, 1, 1, 3))
    >>> conv_transpose2d_backward(np.ones((1, 1, 5)), x, weight, stride=2, need=("input", "bias"))
    (array([[[3., 3.]]]), None, array([5.]))
    """
    images, weight = as_batch(x), np.asarray(weight)
    grads = as_batch(grad_output, "grad_output")
    check_transposed(images.shape[1], weight.shape, groups)
    rows, cols = stamp_axes(images.shape, weight.shape, stride, padding, output_padding, dilation)
    check_grad(grads.shape, (images.shape[0], weight.shape[1] * groups, rows.count, cols.count))
    full = np.zeros((*grads.shape[:2], rows.full_size, cols.full_size), dtype=grads.dtype)
    full[:, :, rows.kept, cols.kept] = grads
    grad_input = np.zeros(images.shape, dtype=np.result_type(grads, weight))
    grad_weight = np.zeros(weight.shape, dtype=np.result_type(grads, images))
    for r, s in np.ndindex(weight.shape[2:]):
        seen = full[:, :, rows.tap(r), cols.tap(s)]
        if "input" in need:
            grad_input += mix_channels(weight[:, :, r, s], seen, groups)
        if "weight" in need:
            grad_weight[:, :, r, s] = correlate_channels(images, seen, groups)
    return (
        like_batch(grad_input, x) if "input" in need else None,
        grad_weight if "weight" in need else None,
        grads.sum(axis=(0, 2, 3)) if "bias" in need else None,
    )


def stamp_axes(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    output_padding: Pair,
    dilation: Pair,
) -> tuple[StampAxis, StampAxis]:
    """The two axes (rows, columns) of a transposed convolution."""
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    extra, cut = pair(output_padding, "output_padding", 0), explicit_padding(padding)
    both = []
    for i in range(2):
        if extra[i] >= max(strides[i], dilations[i]):
            raise ValueError(
                f"output_padding={extra[i]} must be less than "
                f"stride {strides[i]} or dilation {dilations[i]}"
            )
        axis = StampAxis(
            input_shape[2 + i], weight_shape[2 + i], strides[i], dilations[i], *cut[i], extra[i]
        )
        if axis.size < 1 or axis.count < 1:
            raise ValueError(f"padding={padding!r} leaves nothing of {axis.full_size} outputs")
        both.append(axis)
    return both[0], both[1]


def check_transposed(channels: int, weight_shape: Sequence[int], groups: int) -> None:
    """Complain unless `channels` inputs fit a kernel (C, K // groups, R, S)."""
    if len(weight_shape) != 4 or groups < 1 or channels % groups or weight_shape[0] != channels:
        raise ValueError(
            f"weight has shape {tuple(weight_shape)}, groups={groups}, but x has {channels} "
            f"channels: wanted ({channels}, K // groups, R, S)"
        )
