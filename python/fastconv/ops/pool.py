"""Max and average pooling over sliding windows, and their gradients.

Semantics (docs/semantics.md, pooling): padding never wins a maximum, NaN does; the first maximum in
row-major order takes the gradient; `stride` defaults to `kernel_size`; windows follow the one
output-size formula of csrc/core/problem.h. The kernels are csrc/cpu/pool2d*.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arguments import LARGEST, take_flag
from .arrays import empty, give, take_images
from .conv_problem import shape4
from .geometry import Padding, Pair
from .pool_arguments import (
    AVERAGE,
    AVERAGE_BACKWARD,
    MAX,
    MAX_BACKWARD,
    check_gradient,
    gradient_result,
    new_indices,
    pool,
    take_indices,
    windows_over,
)


def max_pool2d(
    x: Any,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of every window.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64
    kernel_size, dilation : int or (height, width)
    stride : int or (height, width), kernel_size where None
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
        Less than the window's extent ``(kernel - 1) * dilation + 1``; it never wins.
    ceil_mode : bool
        Keep a last window that hangs over, if it begins within the input or the padding before it.
    return_indices : bool
        Also return where the maxima were (8 bytes an output element).

    Returns
    -------
    y : array (N, C, P, Q), or (C, P, Q) for one image
        In x's memory order. NaN where a window holds one; -inf where it holds no input element.
    indices : int64 array like y, with return_indices
        ``h * W + w`` of the first maximum in row-major order, as in PyTorch; -1 for no element. The
        first NaN of a window counts as its maximum.

    Raises
    ------
    ValueError, TypeError
        Names the argument, its value and what would be right.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.max_pool2d(np.array([[[1.0, 5.0], [7.0, 3.0]]]), 2, return_indices=True)
    (array([[[7.]]]), array([[[2]]]))
    """
    name = "max_pool2d"
    images, single = take_images(name, "x", x)
    shape, numbers = windows_over(
        name, images.shape, kernel_size, stride, padding, dilation, ceil_mode
    )
    y = empty(shape, images.dtype, images)
    wanted = take_flag(name, "return_indices", return_indices)
    indices = new_indices(name, shape, images) if wanted else None
    pool(MAX, images, y, indices, numbers)
    result = give(y[0] if single else y, x)
    if indices is None:
        return result
    return result, give(indices[0] if single else indices, x)


def max_pool2d_backward(
    grad_output: Any,
    indices: Any,
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    out: Any = None,
) -> Any:
    """dL/dx of `max_pool2d`: every output position hands its gradient to the element it took.

    Every input element gathers from the windows that hold it, in a fixed order: deterministic, the
    same bits for any number of threads and any batch.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array of the same shape, from `max_pool2d` with the same arguments
        -1 is ignored, and so is what lies outside of the image. An index in the image but not in
        its window, which max_pool2d never gives, is ignored or takes its gradient all the same.
    input_shape : (N, C, H, W)
    kernel_size, stride, padding, dilation, ceil_mode : as in `max_pool2d`
    out : array (N, C, H, W) or (C, H, W), optional
        Takes the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis, in grad_output's memory order

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.max_pool2d_backward(np.array([[[4.0]]]), np.array([[[2]]]), (1, 1, 2, 2), 2)
    array([[[0., 0.],
            [4., 0.]]])
    """
    name = "max_pool2d_backward"
    grads, single = take_images(name, "grad_output", grad_output)
    shape = shape4(name, "input_shape", input_shape)
    output, numbers = windows_over(name, shape, kernel_size, stride, padding, dilation, ceil_mode)
    check_gradient(name, grads, shape, output)
    places = take_indices(name, indices, grads.shape, "grad_output", single, grads)
    result = gradient_result(
        name, shape, grads, single, out, {"grad_output": grads, "indices": places}
    )
    pool(MAX_BACKWARD, result, grads, places, numbers)
    return out if out is not None else give(result[0] if single else result, grad_output)


def avg_pool2d(
    x: Any,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of every window.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64
    kernel_size : int or (height, width)
    stride : int or (height, width), kernel_size where None
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
        Less than the window's extent.
    ceil_mode : bool
        Keep a last window that hangs over, if it begins within the input or the padding before it.
    count_include_pad : bool
        Whether the divisor counts padding (what a window has beyond the padding is never counted).
    divisor_override : int, optional
        The divisor of every window.

    Returns
    -------
    array (N, C, P, Q), or (C, P, Q) for one image
        In x's memory order. Sums run in row-major order in blocks of about 256 terms; 0 where no
        element counts.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool2d(np.array([[[1.0, 5.0], [7.0, 3.0]]]), 2)
    array([[[4.]]])
    """
    name = "avg_pool2d"
    images, single = take_images(name, "x", x)
    shape, numbers = windows_over(name, images.shape, kernel_size, stride, padding, 1, ceil_mode)
    divisor = 0 if divisor_override is None else _divisor(name, divisor_override)
    include = take_flag(name, "count_include_pad", count_include_pad)
    y = empty(shape, images.dtype, images)
    pool(AVERAGE, images, y, None, numbers, include, divisor)
    return give(y[0] if single else y, x)


def avg_pool2d_backward(
    grad_output: Any,
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    out: Any = None,
) -> Any:
    """dL/dx of `avg_pool2d`: every output position shares its gradient equally among its window.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    input_shape : (N, C, H, W)
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override : as in
        `avg_pool2d`
    out : array (N, C, H, W) or (C, H, W), optional
        Takes the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis, in grad_output's memory order

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.avg_pool2d_backward(np.array([[[4.0]]]), (1, 1, 2, 2), 2)
    array([[[1., 1.],
            [1., 1.]]])
    """
    name = "avg_pool2d_backward"
    grads, single = take_images(name, "grad_output", grad_output)
    shape = shape4(name, "input_shape", input_shape)
    output, numbers = windows_over(name, shape, kernel_size, stride, padding, 1, ceil_mode)
    divisor = 0 if divisor_override is None else _divisor(name, divisor_override)
    include = take_flag(name, "count_include_pad", count_include_pad)
    check_gradient(name, grads, shape, output)
    result = gradient_result(name, shape, grads, single, out, {"grad_output": grads})
    pool(AVERAGE_BACKWARD, result, grads, None, numbers, include, divisor)
    return out if out is not None else give(result[0] if single else result, grad_output)


def pool2d_output_shape(
    input_shape: Sequence[int],
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> tuple[int, int, int, int]:
    """(N, C, P, Q) of `max_pool2d` and `avg_pool2d` over (N, C, H, W).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.pool2d_output_shape((1, 96, 55, 55), 3, stride=2)
    (1, 96, 27, 27)
    """
    name = "pool2d_output_shape"
    shape = shape4(name, "input_shape", input_shape)
    return windows_over(name, shape, kernel_size, stride, padding, dilation, ceil_mode).output


def _divisor(function: str, override: int) -> int:
    try:
        divisor = int(override.__index__())
    except (AttributeError, TypeError):
        raise TypeError(
            f"{function}: divisor_override is {override!r}; wanted an int or None"
        ) from None
    if divisor == 0 or abs(divisor) > LARGEST:
        raise ValueError(
            f"{function}: divisor_override is {divisor}; wanted another number than 0, at most "
            f"{LARGEST}, or None"
        )
    return divisor
