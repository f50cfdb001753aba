"""Softmax and log-softmax (kernels: csrc/cpu/softmax.cpp, csrc/cuda/softmax.cu; formulas:
reference/activation.py)."""

from __future__ import annotations

from typing import Any

from .arrays import Array, take
from .elementwise import apply, apply_backward


def softmax(x: Any, axis: int = 1, *, out: Any = None) -> Any:
    """exp(x) / sum(exp(x)) along `axis`; nothing overflows.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    axis : int
    out : array of x's shape, optional

    Returns
    -------
    array like x
        A line that holds a NaN, +inf or nothing but -inf is NaN.

    Raises
    ------
    TypeError, ValueError
        If x has another dtype or no such axis, or `out` another shape or dtype or memory in common
        with x.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softmax(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """
    return _forward("softmax", x, axis, out)


def softmax_backward(grad_output: Any, output: Any, axis: int = 1, *, out: Any = None) -> Any:
    """The gradient of `softmax`: output * (grad_output - sum(grad_output * output)).

    Parameters
    ----------
    grad_output, output : arrays of one shape
        `output` is what `softmax` returned.
    axis : int
        As in `softmax`.
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ or there is no such axis.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.softmax_backward(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    array([[ 0.25, -0.25]])
    """
    return _backward("softmax_backward", grad_output, output, axis, out)


def log_softmax(x: Any, axis: int = 1, *, out: Any = None) -> Any:
    """x - log(sum(exp(x))) along `axis`; nothing overflows.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    axis : int
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.log_softmax(np.array([[0.0, -1000.0]]))
    array([[    0., -1000.]])
    """
    return _forward("log_softmax", x, axis, out)


def log_softmax_backward(grad_output: Any, output: Any, axis: int = 1, *, out: Any = None) -> Any:
    """The gradient of `log_softmax`: grad_output - exp(output) * sum(grad_output).

    Parameters
    ----------
    grad_output, output : arrays of one shape
        `output` is what `log_softmax` returned.
    axis : int
        As in `log_softmax`.
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        As `softmax_backward`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.log_softmax_backward(np.array([[1.0, 0.0]]), np.log(np.array([[0.5, 0.5]])))
    array([[ 0.5, -0.5]])
    """
    return _backward("log_softmax_backward", grad_output, output, axis, out)


def _axis_of(name: str, array: Array, axis: int) -> int:
    try:
        axis = int(axis.__index__())
    except (AttributeError, TypeError):
        raise TypeError(f"{name}: axis is {axis!r}; wanted an int") from None
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(
            f"{name}: axis={axis}, but x has {array.ndim} dimensions (shape {array.shape}): "
            f"{-array.ndim} <= axis < {array.ndim} is wanted"
        )
    return axis % array.ndim


def _forward(name: str, x: Any, axis: int, out: Any) -> Any:
    array = take(name, "x", x)
    return apply(name, x, array, out, _axis_of(name, array, axis))


def _backward(name: str, grad_output: Any, output: Any, axis: int, out: Any) -> Any:
    grads = take(name, "grad_output", grad_output)
    index = _axis_of(name, grads, axis)
    return apply_backward(name, grad_output, grads, output, out, index)
