"""Softmax, log-softmax and cross-entropy (kernels: csrc/cpu/{softmax,cross_entropy}.cpp; formulas:
reference/activation.py, reference/loss.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from .arguments import take_number
from .arrays import Array, _import, give, take
from .elementwise import result_for, take_pair

REDUCTIONS = ("mean", "sum", "none")


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
    return _forward("softmax", _core.softmax, x, axis, out)


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
    kernel = _core.softmax_backward
    return _backward("softmax_backward", kernel, grad_output, output, axis, out)


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
    return _forward("log_softmax", _core.log_softmax, x, axis, out)


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
    kernel = _core.log_softmax_backward
    return _backward("log_softmax_backward", kernel, grad_output, output, axis, out)


def cross_entropy(
    logits: Any, target: Any, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Any:
    """Minus the log of the probability that softmax gives to the target.

    Parameters
    ----------
    logits : array (N, C), float32 or float64, any strides
    target : array (N,) of integers, 0 <= target < C
    label_smoothing : float, 0 <= label_smoothing <= 1
        Takes this much off the target's weight and spreads it evenly over all classes.
    reduction : "mean", "sum" or "none"

    Returns
    -------
    NumPy scalar of the logits' dtype, or array (N,) like logits with reduction="none"
        The mean of no rows is NaN, as in PyTorch and NumPy. Rows are added in their order, in
        float64.

    Raises
    ------
    ValueError
        If shapes do not fit, a target is out of range (its index and value are named), or
        label_smoothing or reduction is unknown.
    TypeError
        If logits have no kernels or target is not of integers.

    Notes
    -----
    C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016), section 7
    for label smoothing.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> round(float(fc.cross_entropy(np.zeros((1, 4)), np.array([2]))), 4)  # log 4
    1.3863
    """
    name = "cross_entropy"
    array, classes = _take_problem(name, logits, target, label_smoothing, reduction)
    losses = np.empty(len(array), array.dtype) if reduction == "none" else None
    total = _core.cross_entropy(array, classes, float(label_smoothing), losses)
    if losses is not None:
        return give(losses, logits)
    if reduction == "mean":
        total = total / len(array) if len(array) else float("nan")
    return array.dtype.type(total)


def cross_entropy_backward(
    logits: Any,
    target: Any,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    grad_output: Any = 1.0,
    out: Any = None,
) -> Any:
    """The gradient of `cross_entropy`: (softmax(logits) - wanted) * grad_output, / N for the mean.

    Parameters
    ----------
    logits, target, label_smoothing, reduction
        As in `cross_entropy`.
    grad_output : number, or array (N,) with reduction="none"
    out : array (N, C), optional

    Returns
    -------
    array (N, C) like logits

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`, and if grad_output has another shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.cross_entropy_backward(np.zeros((1, 4)), np.array([2]))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    name = "cross_entropy_backward"
    array, classes = _take_problem(name, logits, target, label_smoothing, reduction)
    result = result_for(name, array, out, logits=array)
    try:
        scales = np.asarray(grad_output, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: grad_output is {grad_output!r}; wanted a number or an array of them"
        ) from None
    if scales.size != 1 and (reduction != "none" or scales.size != len(array)):
        wanted = f"a number or ({len(array)},)" if reduction == "none" else "a number"
        raise ValueError(
            f"{name}: grad_output has shape {np.shape(grad_output)}, but with "
            f"reduction={reduction!r} {wanted} is wanted"
        )
    if reduction == "mean":
        scales = scales / max(len(array), 1)
    _core.cross_entropy_backward(array, classes, float(label_smoothing), scales, result)
    return give(result, logits) if out is None else out


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


def _forward(name: str, kernel: Callable[..., None], x: Any, axis: int, out: Any) -> Any:
    array = take(name, "x", x)
    index = _axis_of(name, array, axis)
    result = result_for(name, array, out, x=array)
    kernel(array, result, index)
    return give(result, x) if out is None else out


def _backward(
    name: str, kernel: Callable[..., None], grad_output: Any, output: Any, axis: int, out: Any
) -> Any:
    grads = take(name, "grad_output", grad_output)
    stored = take_pair(name, "output", output, grads, "grad_output", "grad_output's shape")
    index = _axis_of(name, grads, axis)
    result = result_for(name, grads, out, grad_output=grads, output=stored)
    kernel(grads, stored, result, index)
    return give(result, grad_output) if out is None else out


def _take_problem(
    name: str, logits: Any, target: Any, label_smoothing: float, reduction: str
) -> tuple[Array, Array]:
    array = take(name, "logits", logits)
    if array.ndim != 2:
        raise ValueError(f"{name}: logits have shape {array.shape}; wanted (N, C)")
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f'{name}: reduction={reduction!r}; wanted "mean", "sum" or "none"')
    if not 0 <= take_number(name, "label_smoothing", label_smoothing) <= 1:
        raise ValueError(
            f"{name}: label_smoothing={label_smoothing}; wanted 0 <= label_smoothing <= 1"
        )
    classes = _take_classes(name, target)
    if classes.shape != array.shape[:1]:
        raise ValueError(
            f"{name}: target has shape {classes.shape}, but logits {array.shape} have "
            f"{array.shape[0]} rows: ({array.shape[0]},) is wanted"
        )
    return array, classes


def _take_classes(name: str, target: Any) -> Array:
    """`target` as int64; only narrower integers are converted, a copy of (N,)."""
    array = target if isinstance(target, np.ndarray) else _import(name, "target", target)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: target has dtype {array.dtype}; class numbers are integers: convert it with "
            f"target.astype(numpy.int64)"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        row = int(np.argmax(array >= 2**63))
        raise ValueError(f"{name}: target[{row}] is {array[row]}, no class number")
    return array.astype(np.int64, copy=False)
