"""The gradients of a convolution (kernels: csrc/cpu/conv2d*.cpp; formulas: reference/conv.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import is_relu, take_flag, take_need
from .arrays import (
    Array,
    as_images,
    check_shape,
    empty,
    empty_like_order,
    give,
    lie_alike,
    same_memory,
    take,
    take_like,
    take_out,
)
from .conv_problem import (
    AUTOMATIC,
    GRAD_INPUT,
    GRAD_WEIGHT,
    algorithm_index,
    run,
    shape4,
    sizes_of,
    take_weight,
)
from .devices import kernels_for, new
from .geometry import Padding, Pair


def conv2d_grad_input(
    grad_output: Any,
    weight: Any,
    input_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    residual: Any = None,
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    """The gradient of `conv2d` with respect to x.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
        dL/dy for the y that conv2d returned.
    weight : array (K, C // groups, R, S)
    input_shape : (N, C, H, W)
        x.shape, with N always.
    residual : array of the result's shape, optional
        Added to the gradient: the one that x has from elsewhere.
    stride, padding, dilation, groups, algorithm
        As `conv2d`'s.
    out : array of the result's shape, optional
        Written and returned; any strides; may be `residual` itself, of which an algorithm that
        cannot add as it writes (`naive`, `im2col`, `depthwise`) makes a copy first.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) where grad_output is (K, P, Q)
        In grad_output's memory order.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`, and if grad_output does not have conv2d's output shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> g, w = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)
    >>> float(fc.conv2d_grad_input(g, w, (1, 1, 3, 3))[0, 0, 1, 1])
    4.0
    """
    name = "conv2d_grad_input"
    array = take(name, "grad_output", grad_output)
    grads = as_images(name, "grad_output", array)
    kernel, _ = take_weight(name, weight, grads, "grad_output")
    sizes = shape4(name, "input_shape", input_shape)
    numbers = _numbers_of(name, grads, sizes, kernel.shape, stride, padding, dilation, groups)
    index = algorithm_index(name, algorithm)
    single = array.ndim == 3
    shape = sizes[1:] if single else sizes
    added = None
    if residual is not None:
        added = take_like(name, "residual", residual, grads, "grad_output")
        check_shape(name, "residual", added, shape, "the result's")
    if out is None:
        result = empty(sizes, grads.dtype, grads, kernel, function=name)
    else:
        inputs = {"grad_output": array, "weight": kernel}
        result = take_out(name, out, shape, grads.dtype, inputs, added)
        result = result[None] if single else result
    if added is not None and single:
        added = added[None]
    run_adding(name, result, kernel, grads, numbers, index, algorithm, added)
    if out is not None:
        return out
    return give(result[0] if single else result, grad_output)


def conv2d_grad_weight(
    grad_output: Any,
    x: Any,
    weight_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
    out: Any = None,
    accumulate: bool = False,
) -> Any:
    """The gradient of `conv2d` with respect to weight, summed over the batch.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x : array (N, C, H, W) or (C, H, W)
    weight_shape : (K, C // groups, R, S)
    stride, padding, dilation, groups, algorithm
        As `conv2d`'s.
    out : array of weight_shape, optional
    accumulate : bool
        Add to what `out` holds instead of overwriting it.

    Returns
    -------
    array (K, C // groups, R, S)
        C order unless `out` says otherwise.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`, and if grad_output does not have conv2d's output shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> g, x = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> float(fc.conv2d_grad_weight(g, x, (1, 1, 2, 2))[0, 0, 0, 0])
    4.0
    """
    name = "conv2d_grad_weight"
    accumulate = take_flag(name, "accumulate", accumulate)
    array = take(name, "x", x)
    images = as_images(name, "x", array)
    given = take_like(name, "grad_output", grad_output, images, "x")
    grads = as_images(name, "grad_output", given)
    kernel_shape = shape4(name, "weight_shape", weight_shape)
    numbers = _numbers_of(
        name, grads, images.shape, kernel_shape, stride, padding, dilation, groups
    )
    index = algorithm_index(name, algorithm)
    if out is None:
        if accumulate:
            raise ValueError(f"{name}: accumulate=True adds to out, but out is None")
        result = new(kernel_shape, images.dtype, images, function=name)
    else:
        inputs = {"x": array, "grad_output": given}
        result = take_out(name, out, kernel_shape, images.dtype, inputs)
    run(name, GRAD_WEIGHT, images, result, grads, numbers, index, algorithm,
         accumulate=accumulate)  # fmt: skip
    return give(result, x) if out is None else out


def conv2d_grad_bias(grad_output: Any, *, out: Any = None, accumulate: bool = False) -> Any:
    """The gradient of `conv2d` with respect to bias: grad_output summed over N, P and Q.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    out : array (K,), optional
    accumulate : bool
        Add to what `out` holds.

    Returns
    -------
    array (K,)
    """
    name = "conv2d_grad_bias"
    accumulate = take_flag(name, "accumulate", accumulate)
    given = take(name, "grad_output", grad_output)
    grads = as_images(name, "grad_output", given)
    if out is None:
        if accumulate:
            raise ValueError(f"{name}: accumulate=True adds to out, but out is None")
        result = new(grads.shape[1:2], grads.dtype, grads, function=name)
    else:
        result = take_out(name, out, grads.shape[1:2], grads.dtype, {"grad_output": given})
    kernels_for(grads).conv2d_grad_bias(grads, result, accumulate)
    return give(result, grad_output) if out is None else out


def conv2d_backward(
    grad_output: Any,
    x: Any,
    weight: Any,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    output: Any = None,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Any, Any, Any]:
    """All gradients of `conv2d`.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x : array (N, C, H, W) or (C, H, W)
    weight : array (K, C // groups, R, S)
    stride, padding, dilation, groups
        As `conv2d`'s.
    activation : None or "relu"
        As in the forward call; "relu" needs `output`.
    output : array of grad_output's shape
        What the forward call returned: where it is not positive, no gradient passes.
    need : sequence of "input", "weight", "bias"
        Which gradients to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        None where not needed. grad_input has x's memory order, grad_weight weight's. The gradient
        of a `residual` is grad_output after the activation's mask.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.
    """
    name = "conv2d_backward"
    need = take_need(name, need)
    array = take(name, "x", x)
    images = as_images(name, "x", array)
    kernel, _ = take_weight(name, weight, images)
    given = take_like(name, "grad_output", grad_output, array, "x")
    numbers = _numbers_of(
        name, as_images(name, "grad_output", given), images.shape, kernel.shape, stride, padding,
        dilation, groups,
    )  # fmt: skip
    if is_relu(name, activation):
        if output is None:
            raise ValueError(f'{name}: activation="relu" needs output, what conv2d returned')
        forward = take_like(name, "output", output, array, "x")
        check_shape(name, "output", forward, given.shape, "grad_output's shape")
        given = relu_mask(given, forward)
    grads = as_images(name, "grad_output", given)
    grad_input = grad_weight = grad_bias = None
    if "input" in need:
        result = empty_like_order(images.shape, images, function=name)
        run(name, GRAD_INPUT, result, kernel, grads, numbers, AUTOMATIC, "auto")
        grad_input = result[0] if array.ndim == 3 else result
    if "weight" in need:
        grad_weight = empty_like_order(kernel.shape, kernel, function=name)
        run(name, GRAD_WEIGHT, images, grad_weight, grads, numbers, AUTOMATIC, "auto")
    if "bias" in need:
        grad_bias = conv2d_grad_bias(grads)
    wrapped = (None if g is None else give(g, x) for g in (grad_input, grad_weight, grad_bias))
    return tuple(wrapped)  # type: ignore[return-value]


def _numbers_of(
    function: str,
    grads: Array,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> tuple[int, ...]:
    """The window's numbers for _core, with grad_output's shape checked against them."""
    output, numbers = sizes_of(
        function, input_shape, weight_shape, stride, padding, dilation, groups
    )
    check_shape(function, "grad_output", grads, output, "conv2d's output shape here")
    return numbers


def run_adding(
    function: str,
    result: Array,
    kernel: Array,
    grads: Array,
    numbers: tuple[int, ...],
    index: int,
    algorithm: str,
    residual: Array | None,
) -> None:
    """grad_input plus `residual`, in the same pass where both lie alike in memory."""
    here = type(result) is np.ndarray
    if residual is not None and not (here and lie_alike(result, residual)):
        gradient = result
        if same_memory(result, residual):
            gradient = empty_like_order(result.shape, result, function=function)
        run(function, GRAD_INPUT, gradient, kernel, grads, numbers, index, algorithm)
        kernels_for(result).add(gradient, residual, result)
        return
    run(function, GRAD_INPUT, result, kernel, grads, numbers, index, algorithm,
         residual=residual)  # fmt: skip


def relu_mask(grad_output: Array, output: Array) -> Array:
    from .activation import relu_backward

    masked: Array = relu_backward(grad_output, output)
    return masked
