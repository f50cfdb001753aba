"""Adaptive and global pooling: the output's size is given, the windows follow.

Along an axis of size H with P outputs, window p covers the input from floor(p * H / P) to
ceil((p + 1) * H / P), its end excluded (PyTorch's rule). The kernels are csrc/cpu/pool2d*.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arguments import take_flag
from .arrays import check_shape, empty, give, take_images
from .conv_problem import shape4
from .pool_arguments import (
    AVERAGE,
    AVERAGE_BACKWARD,
    MAX,
    MAX_BACKWARD,
    adaptive_size,
    gradient_result,
    new_indices,
    pool,
    take_indices,
)

OutputSize = int | Sequence[int | None] | None


def adaptive_avg_pool2d(x: Any, output_size: OutputSize) -> Any:
    """The mean over windows that cut each image into output_size parts.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64
    output_size : int or (height, width)
        None, alone or for one of the two, keeps the input's size.

    Returns
    -------
    array (N, C, P, Q), or (C, P, Q) for one image, in x's memory order

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_avg_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (1, 2))
    array([[[1.5, 4. ]]])
    """
    return _average("adaptive_avg_pool2d", x, output_size)


def adaptive_avg_pool2d_backward(
    grad_output: Any, input_shape: Sequence[int], *, out: Any = None
) -> Any:
    """dL/dx of `adaptive_avg_pool2d`: every window shares its gradient equally.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    input_shape : (N, C, H, W)
    out : array (N, C, H, W) or (C, H, W), optional
        Takes the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis, in grad_output's memory order

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_avg_pool2d_backward(np.array([[[6.0]]]), (1, 1, 1, 3))
    array([[[2., 2., 2.]]])
    """
    return _average_backward("adaptive_avg_pool2d_backward", grad_output, input_shape, out)


def adaptive_max_pool2d(x: Any, output_size: OutputSize, *, return_indices: bool = False) -> Any:
    """The maximum over windows that cut each image into output_size parts.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64
    output_size : int or (height, width)
        None, alone or for one of the two, keeps the input's size.
    return_indices : bool

    Returns
    -------
    y : array (N, C, P, Q), or (C, P, Q) for one image, in x's memory order
    indices : int64 array like y, with return_indices
        As `max_pool2d`'s.

    Raises
    ------
    ValueError, TypeError

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_max_pool2d(np.array([[[1.0, 2.0, 6.0]]]), (1, 2))
    array([[[2., 6.]]])
    """
    name = "adaptive_max_pool2d"
    images, single = take_images(name, "x", x)
    n, c, h, w = images.shape
    shape = (n, c, *adaptive_size(name, output_size, (h, w)))
    y = empty(shape, images.dtype, images)
    wanted = take_flag(name, "return_indices", return_indices)
    indices = new_indices(name, shape, images) if wanted else None
    pool(MAX, images, y, indices, ())
    result = give(y[0] if single else y, x)
    if indices is None:
        return result
    return result, give(indices[0] if single else indices, x)


def adaptive_max_pool2d_backward(
    grad_output: Any, indices: Any, input_shape: Sequence[int], *, out: Any = None
) -> Any:
    """dL/dx of `adaptive_max_pool2d`: every position hands its gradient to the element it took.

    Parameters
    ----------
    grad_output : array (N, C, P, Q) or (C, P, Q)
    indices : int64 array of the same shape, from `adaptive_max_pool2d`
    input_shape : (N, C, H, W)
    out : array (N, C, H, W) or (C, H, W), optional
        Takes the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis, in grad_output's memory order

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_max_pool2d_backward(np.array([[[5.0]]]), np.array([[[1]]]), (1, 1, 1, 3))
    array([[[0., 5., 0.]]])
    """
    name = "adaptive_max_pool2d_backward"
    grads, single = take_images(name, "grad_output", grad_output)
    shape = _input_shape(name, grads, input_shape)
    places = take_indices(name, indices, grads.shape, "grad_output", single, grads)
    inputs = {"grad_output": grads, "indices": places}
    result = gradient_result(name, shape, grads, single, out, inputs)
    pool(MAX_BACKWARD, result, grads, places, ())
    return out if out is not None else give(result[0] if single else result, grad_output)


def global_avg_pool2d(x: Any) -> Any:
    """The mean of each channel's image.

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64

    Returns
    -------
    array (N, C, 1, 1) or (C, 1, 1)
        Summed in blocks of about 256 terms, in an order that the shape alone decides.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.global_avg_pool2d(np.array([[[1.0, 2.0, 6.0]]]))
    array([[[3.]]])
    """
    return _average("global_avg_pool2d", x, 1)


def global_avg_pool2d_backward(
    grad_output: Any, input_shape: Sequence[int], *, out: Any = None
) -> Any:
    """dL/dx of `global_avg_pool2d`: g / (H * W) everywhere.

    Parameters
    ----------
    grad_output : array (N, C, 1, 1) or (C, 1, 1)
    input_shape : (N, C, H, W)
    out : array (N, C, H, W) or (C, H, W), optional
        Takes the result.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) if grad_output has no batch axis
        Channels last if grad_output's strides say so, as those of what `global_avg_pool2d` returns.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.global_avg_pool2d_backward(np.array([[[6.0]]]), (1, 1, 1, 3))
    array([[[2., 2., 2.]]])
    """
    name = "global_avg_pool2d_backward"
    grads, _ = take_images(name, "grad_output", grad_output)
    shape = _input_shape(name, grads, input_shape)
    check_shape(name, "grad_output", grads, (*shape[:2], 1, 1), "the output's shape")
    return _average_backward(name, grad_output, input_shape, out)


def _average(function: str, x: Any, output_size: OutputSize) -> Any:
    images, single = take_images(function, "x", x)
    n, c, h, w = images.shape
    shape = (n, c, *adaptive_size(function, output_size, (h, w)))
    y = empty(shape, images.dtype, images)
    pool(AVERAGE, images, y, None, ())
    return give(y[0] if single else y, x)


def _average_backward(function: str, grad_output: Any, input_shape: Sequence[int], out: Any) -> Any:
    grads, single = take_images(function, "grad_output", grad_output)
    shape = _input_shape(function, grads, input_shape)
    result = gradient_result(function, shape, grads, single, out, {"grad_output": grads})
    pool(AVERAGE_BACKWARD, result, grads, None, ())
    return out if out is not None else give(result[0] if single else result, grad_output)


def _input_shape(
    function: str, grads: Any, input_shape: Sequence[int]
) -> tuple[int, int, int, int]:
    shape = shape4(function, "input_shape", input_shape)
    if grads.shape[:2] != shape[:2] or min(*grads.shape[2:], *shape[2:]) < 1:
        raise ValueError(
            f"{function}: grad_output has shape {grads.shape}, which no pooling of input_shape "
            f"{shape} gives; N and C must agree and every image have an element"
        )
    return shape
