"""Local response normalization (kernels: csrc/cpu/response_norm.cpp, csrc/cuda/normalization.cu;
formulas: reference/local_response_norm.py)."""

from __future__ import annotations

from typing import Any

from .arguments import take_integer, take_number
from .arrays import give, take
from .devices import kernels_for
from .elementwise import apply, result_for, take_pair
from .normalization import channel_axis


def local_response_norm(
    x: Any,
    size: int,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    out: Any = None,
) -> Any:
    """Divide each element by a power of the mean square of its neighbours in other channels.

    y[c] = x[c] * (k + alpha / size * sum(x[j] ** 2)) ** -beta, over the channels j from
    c - size // 2 to c + (size - 1) // 2 that exist.

    Parameters
    ----------
    x : array (N, C, H, W), (C, H, W) or (N, C), any strides, float32 or float64
    size : int, number of neighbouring channels
    alpha : float
        Divided by size, as in PyTorch and Caffe. AlexNet's paper does not divide: its 1e-4 is 5e-4
        here.
    beta, k : float
        beta of 0.75, 0.5 and 1 are fast; others go through pow.
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    ValueError, TypeError
        If size < 1, or shapes or dtypes do not fit.

    Notes
    -----
    A. Krizhevsky et al., "ImageNet Classification with Deep CNNs" (2012), section 3.3.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.local_response_norm(np.array([[1.0, 2.0]]), 2, alpha=2.0, beta=1.0)
    array([[0.5       , 0.33333333]])
    """
    name = "local_response_norm"
    array = take(name, "x", x)
    axis = channel_axis(name, array)
    window = take_integer(name, "size", size, 1)
    return apply(name, x, array, out, axis, window, *_take_numbers(name, alpha, beta, k))


def local_response_norm_backward(
    grad_output: Any,
    x: Any,
    size: int,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    out: Any = None,
) -> Any:
    """The gradient of `local_response_norm` with respect to x.

    Parameters
    ----------
    grad_output, x : arrays (N, C, H, W), (C, H, W) or (N, C)
    size, alpha, beta, k
        As in `local_response_norm`.
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    ValueError, TypeError
        As `local_response_norm`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0]])
    >>> fc.local_response_norm_backward(np.ones((1, 1)), x, 1, alpha=1.0, beta=1.0)
    array([[0.]])
    """
    name = "local_response_norm_backward"
    array = take(name, "x", x)
    axis = channel_axis(name, array)
    grads = take_pair(name, "grad_output", grad_output, array, "x", "x's shape")
    window = take_integer(name, "size", size, 1)
    result = result_for(name, array, out, grad_output=grads, x=array)
    numbers = _take_numbers(name, alpha, beta, k)
    kernels_for(array).local_response_norm_backward(grads, array, result, axis, window, *numbers)
    return give(result, x) if out is None else out


def _take_numbers(name: str, alpha: float, beta: float, k: float) -> tuple[float, ...]:
    given = (("alpha", alpha), ("beta", beta), ("k", k))
    return tuple(take_number(name, argument, value) for argument, value in given)
