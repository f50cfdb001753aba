"""Max unpooling and its gradient (csrc/cpu/pool2d_unpool.cpp)."""

from __future__ import annotations

from typing import Any

from .arrays import empty, give, take_images, take_int64
from .devices import kernels_for
from .geometry import Pair, pair
from .pool_arguments import take_indices


def max_unpool2d(x: Any, indices: Any, *, output_size: Pair) -> Any:
    """Put the maxima back where `max_pool2d` found them, 0 elsewhere.

    Parameters
    ----------
    x : array (N, C, P, Q) or (C, P, Q), float32 or float64
    indices : int64 array of the same shape, into H * W; -1 is ignored
    output_size : int or (H, W)

    Returns
    -------
    array (N, C, H, W) or (C, H, W), in x's memory order
        Where an index comes twice the last one in row-major order stays (indices of overlapping
        windows repeat, with equal values).

    Raises
    ------
    ValueError, TypeError
        Also for an index outside the image; on a CUDA device such an index is skipped.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.max_unpool2d(np.array([[[7.0]]]), np.array([[[2]]]), output_size=(2, 2))
    array([[[0., 0.],
            [7., 0.]]])
    """
    name = "max_unpool2d"
    values, single = take_images(name, "x", x)
    places = take_indices(name, indices, values.shape, "x", single, values)
    size = pair(name, "output_size", output_size, 0)
    y = empty((*values.shape[:2], *size), values.dtype, values)
    _move(name, False, values, y, places)
    return give(y[0] if single else y, x)


def max_unpool2d_backward(grad_output: Any, indices: Any) -> Any:
    """dL/dx of `max_unpool2d`: the gradient at the place each value went to; 0 for index -1.

    Parameters
    ----------
    grad_output : array (N, C, H, W) or (C, H, W)
    indices : int64 array (N, C, P, Q) or (C, P, Q)

    Returns
    -------
    array like indices, in grad_output's memory order

    Raises
    ------
    ValueError, TypeError
        Also for an index outside the image; on a CUDA device such an index is skipped.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.max_unpool2d_backward(np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[[2]]]))
    array([[[3.]]])
    """
    name = "max_unpool2d_backward"
    grads, single = take_images(name, "grad_output", grad_output)
    plane = take_int64(name, "indices", indices).shape[-2:]
    wanted = (*grads.shape[:2], *plane)
    places = take_indices(name, indices, wanted, "grad_output, the plane apart,", single, grads)
    grad_input = empty(wanted, grads.dtype, grads)
    _move(name, True, grad_input, grads, places)
    return give(grad_input[0] if single else grad_input, grad_output)


def _move(function: str, backward: bool, x: Any, y: Any, indices: Any) -> None:
    outside = kernels_for(x).unpool2d(backward, x, y, indices)
    if outside not in (-1, None):  # on a CUDA device nobody waits for the answer
        h, w = y.shape[2:]
        raise ValueError(
            f"{function}: indices has {outside}; wanted -1 or 0 .. {h * w - 1}, a place in an "
            f"image of {h} x {w}"
        )
