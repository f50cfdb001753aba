"""Transposed convolution and its gradients (formulas: reference/conv_transpose.py).

No kernels of its own: with x in the place of conv2d's grad_output, the forward direction is
conv2d's grad_input plus a bias; its gradients are conv2d's forward and grad_weight with the
images swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arguments import take_groups, take_need
from .arrays import (
    Array,
    as_images,
    check_shape,
    empty,
    empty_like_order,
    give,
    take,
    take_like,
    take_out,
)
from .conv_gradients import conv2d_grad_bias
from .conv_problem import (
    AUTOMATIC,
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    PackedWeight,
    Sizes,
    algorithm_index,
    run,
    take_bias,
)
from .geometry import Geometry, Padding, Pair, paddings, pair


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    """Transposed convolution: every element of x stamps the kernel, times itself, onto the result.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64, any strides
    weight : array (C, K // groups, R, S)
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int, (height, width), ((top, bottom), (left, right)) or "valid"
        What is cut off the result.
    output_padding : int or (height, width)
        Rows and columns added at the bottom and right; less than the stride or the dilation.
    groups : int
    algorithm : str
        "auto" or a name of `algorithms(conv_transpose2d)`.
    out : array of the result's shape, optional
        Written and returned; any strides.

    Returns
    -------
    array (N, K, H_out, W_out), or (K, H_out, W_out) for one image
        H_out = (H - 1) * stride + (R - 1) * dilation + 1 - top - bottom + output_padding. Channels
        last if x is.

    Raises
    ------
    ValueError
        If shapes do not fit, nothing is left of the result, or the algorithm named cannot do the
        problem.
    TypeError
        If dtypes differ or have no kernels.

    Notes
    -----
    M. Zeiler et al., "Deconvolutional Networks" (2010); Dumoulin and Visin (2016), section 4.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[[1.0, 2.0]]], np.float32)
    >>> fc.conv_transpose2d(x, np.ones((1, 1, 1, 3), np.float32), stride=2)
    array([[[1., 1., 3., 2., 2.]]], dtype=float32)
    """
    name = "conv_transpose2d"
    array = take(name, "x", x)
    images = as_images(name, "x", array)
    kernel = _take_kernel(name, weight, images)
    shape, numbers = sizes_of_transpose(
        name, images.shape, kernel.shape, stride, padding, dilation, groups, output_padding
    )
    offset = None if bias is None else take_bias(name, bias, images, shape[1])
    index = algorithm_index(name, algorithm)
    single = array.ndim == 3
    if out is None:
        result = empty(shape, images.dtype, images, kernel, function=name)
    else:
        inputs = {"x": array, "weight": kernel, "bias": offset}
        result = take_out(name, out, shape[1:] if single else shape, images.dtype, inputs)
        result = result[None] if single else result
    run(name, GRAD_INPUT, result, kernel, images, numbers, index, algorithm, bias=offset)
    if out is not None:
        return out
    return give(result[0] if single else result, x)


def conv_transpose2d_backward(
    grad_output: Any,
    x: Any,
    weight: Any,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Any, Any, Any]:
    """All gradients of `conv_transpose2d`.

    Parameters
    ----------
    grad_output : array (N, K, H_out, W_out) or (K, H_out, W_out)
    x : array (N, C, H, W) or (C, H, W)
    weight : array (C, K // groups, R, S)
    stride, padding, output_padding, dilation, groups
        As `conv_transpose2d`'s.
    need : sequence of "input", "weight", "bias"
        Which gradients to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        None where not needed. grad_input has x's memory order, grad_weight weight's.

    Raises
    ------
    ValueError, TypeError
        As `conv_transpose2d`, and if grad_output does not have its result's shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, weight = np.array([[[1.0, 2.0]]]), np.ones((1, 1, 1, 3))
    >>> g = fc.conv_transpose2d_backward(np.ones((1, 1, 5)), x, weight, stride=2, need=("input",))
    >>> g[0]
    array([[[3., 3.]]])
    """
    name = "conv_transpose2d_backward"
    need = take_need(name, need)
    array = take(name, "x", x)
    images = as_images(name, "x", array)
    kernel = _take_kernel(name, weight, images)
    given = take_like(name, "grad_output", grad_output, images, "x")
    grads = as_images(name, "grad_output", given)
    wanted, numbers = sizes_of_transpose(
        name, images.shape, kernel.shape, stride, padding, dilation, groups, output_padding
    )
    check_shape(name, "grad_output", grads, wanted, "conv_transpose2d's output shape here")

    grad_input = grad_weight = grad_bias = None
    if "input" in need:
        result = empty_like_order(images.shape, images, function=name)
        run(name, FORWARD, grads, kernel, result, numbers, AUTOMATIC, "auto")
        grad_input = give(result[0] if array.ndim == 3 else result, x)
    if "weight" in need:
        result = empty_like_order(kernel.shape, kernel, function=name)
        run(name, GRAD_WEIGHT, grads, result, images, numbers, AUTOMATIC, "auto")
        grad_weight = give(result, x)
    if "bias" in need:
        grad_bias = give(conv2d_grad_bias(grads), x)
    return grad_input, grad_weight, grad_bias


def _take_kernel(function: str, weight: Any, x: Array) -> Array:
    if type(weight) is PackedWeight:
        weight = weight.weight
    return take_like(function, "weight", weight, x, "x")


def sizes_of_transpose(
    function: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    output_padding: Pair,
) -> Sizes:
    """The result's shape, checked, and the numbers of the convolution whose grad_input this is."""
    groups = take_groups(function, groups)
    _check_kernel(function, weight_shape, x_shape, groups)
    geometry, size = _geometry(
        function, x_shape, weight_shape, stride, padding, output_padding, dilation
    )
    return Sizes((x_shape[0], weight_shape[1] * groups, *size), geometry.numbers(groups))


def _check_kernel(function: str, shape: Sequence[int], x_shape: Sequence[int], groups: int) -> None:
    if len(shape) != 4:
        raise ValueError(
            f"{function}: weight has {len(shape)} dimensions (shape {tuple(shape)}); "
            f"wanted (C, K // groups, R, S)"
        )
    if shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{function}: weight has shape {tuple(shape)}: a kernel without taps")
    if shape[0] != x_shape[1]:
        raise ValueError(
            f"{function}: weight has {shape[0]} input channels (shape {tuple(shape)}), but "
            f"x has {x_shape[1]} channels (shape {tuple(x_shape)})"
        )
    if x_shape[1] % groups:
        raise ValueError(
            f"{function}: x has {x_shape[1]} channels, which {groups} groups do not divide"
        )


def _geometry(
    function: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    output_padding: Pair,
    dilation: Pair,
) -> tuple[Geometry, tuple[int, int]]:
    """The convolution whose grad_input this is, and the (height, width) of the result."""
    strides = pair(function, "stride", stride, 1)
    dilations = pair(function, "dilation", dilation, 1)
    extras = pair(function, "output_padding", output_padding, 0)
    if isinstance(padding, str) and padding == "same":
        raise ValueError(
            f'{function}: padding is "same", which does not say how large a transposed '
            f'convolution\'s result is; give numbers or "valid"'
        )
    size = (x_shape[2], x_shape[3])
    kernel = (weight_shape[2], weight_shape[3])
    cut = list(paddings(function, padding, size, kernel, strides, dilations))
    result = []
    for a, axis in enumerate(("height", "width")):
        low, high, extra, n = cut[2 * a], cut[2 * a + 1], extras[a], size[a]
        if extra >= max(strides[a], dilations[a]):
            raise ValueError(
                f"{function}: output_padding is {extra} along the {axis}; it must be less than "
                f"the stride {strides[a]} or the dilation {dilations[a]}"
            )
        full = (n - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra
        if n < 1:
            raise ValueError(
                f"{function}: x has shape {tuple(x_shape)}: nothing along the {axis} to be spread"
            )
        if full - low - high < 1:
            raise ValueError(
                f"{function}: nothing is left along the {axis}: ({n} - 1) * {strides[a]} + "
                f"({kernel[a]} - 1) * {dilations[a]} + 1 + output_padding {extra} - padding "
                f"{low} - {high} = {full - low - high}"
            )
        # The convolution back must have n outputs: output_padding of a whole stride or more is
        # input that it leaves out, negative padding.
        cut[2 * a + 1] -= extra // strides[a] * strides[a]
        result.append(full - low - high)
    geometry = Geometry(strides, (cut[0], cut[1], cut[2], cut[3]), dilations, size)
    return geometry, (result[0], result[1])
