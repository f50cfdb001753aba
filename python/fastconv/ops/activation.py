"""Element-wise activations (kernels: csrc/cpu/tiles/elementwise.cpp; formulas:
reference/activation.py)."""

from __future__ import annotations

from typing import Any

from .arguments import take_number
from .arrays import take
from .elementwise import apply, apply_backward


def relu(x: Any, *, out: Any = None) -> Any:
    """max(x, 0), element by element; NaN stays NaN.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        If x has another dtype, or `out` another shape or dtype or memory in common with x.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return _apply("relu", x, 0.0, out)


def relu_backward(grad_output: Any, output: Any, *, out: Any = None) -> Any:
    """The gradient of `relu`: 0 where output <= 0, else grad_output.

    Parameters
    ----------
    grad_output, output : arrays of one shape
        `output` is what `relu` returned.
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0]))
    array([0., 5.])
    """
    return _apply_backward("relu_backward", grad_output, output, 0.0, out)


def leaky_relu(x: Any, negative_slope: float = 0.01, *, out: Any = None) -> Any:
    """x where x > 0, else negative_slope * x.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    negative_slope : float
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `relu`.

    Notes
    -----
    A. Maas, A. Hannun, A. Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic Models"
    (2013).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    slope = take_number("leaky_relu", "negative_slope", negative_slope)
    return _apply("leaky_relu", x, slope, out)


def leaky_relu_backward(
    grad_output: Any, output: Any, negative_slope: float = 0.01, *, out: Any = None
) -> Any:
    """The gradient of `leaky_relu`: negative_slope * grad_output where output <= 0.

    Parameters
    ----------
    grad_output, output : arrays of one shape
    negative_slope : float, at least 0
        With a negative slope the output would hide x's sign.
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ, or negative_slope < 0.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.leaky_relu_backward(np.array([4.0, 4.0]), np.array([-0.5, 2.0]), 0.5)
    array([2., 4.])
    """
    name = "leaky_relu_backward"
    slope = take_number(name, "negative_slope", negative_slope)
    if not slope >= 0:
        raise ValueError(
            f"{name}: negative_slope={negative_slope}, but it must be at least 0: below 0 the "
            f"output hides the sign of x"
        )
    return _apply_backward(name, grad_output, output, slope, out)


def sigmoid(x: Any, *, out: Any = None) -> Any:
    """1 / (1 + exp(-x)), within 3 ulp over the whole range.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `relu`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.sigmoid(np.array([-1000.0, 0.0]))
    array([0. , 0.5])
    """
    return _apply("sigmoid", x, 0.0, out)


def sigmoid_backward(grad_output: Any, output: Any, *, out: Any = None) -> Any:
    """The gradient of `sigmoid`: grad_output * output * (1 - output).

    Parameters
    ----------
    grad_output, output : arrays of one shape
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.sigmoid_backward(np.array([1.0]), np.array([0.5]))
    array([0.25])
    """
    return _apply_backward("sigmoid_backward", grad_output, output, 0.0, out)


def tanh(x: Any, *, out: Any = None) -> Any:
    """The hyperbolic tangent, within 4 ulp over the whole range, small x included.

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `relu`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.tanh(np.array([0.0, 100.0]))
    array([0., 1.])
    """
    return _apply("tanh", x, 0.0, out)


def tanh_backward(grad_output: Any, output: Any, *, out: Any = None) -> Any:
    """The gradient of `tanh`: grad_output * (1 - output ** 2).

    Parameters
    ----------
    grad_output, output : arrays of one shape
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.tanh_backward(np.array([1.0]), np.array([0.5]))
    array([0.75])
    """
    return _apply_backward("tanh_backward", grad_output, output, 0.0, out)


def _apply(name: str, x: Any, parameter: float, out: Any) -> Any:
    return apply(name, x, take(name, "x", x), out, parameter)


def _apply_backward(name: str, grad_output: Any, output: Any, parameter: float, out: Any) -> Any:
    grads = take(name, "grad_output", grad_output)
    return apply_backward(name, grad_output, grads, output, out, parameter)
