"""Cross-entropy (kernels: csrc/cpu/cross_entropy.cpp, csrc/cuda/softmax.cu; formulas:
reference/loss.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .arguments import take_number
from .arrays import Array, check_device, give, take, take_int64
from .devices import FLOAT32, contiguous, cuda_core, new
from .elementwise import result_for
from .families import import_any

REDUCTIONS = ("mean", "sum", "none")


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
    array () like logits, a scalar of NumPy's for its arrays, or (N,) with reduction="none"
        Of the logits' dtype. The mean of no rows is NaN, as in PyTorch and NumPy. Rows are added in
        their order, in float64. For logits on a CUDA device it is there, too, and float32: nothing
        waits for it.

    Raises
    ------
    ValueError
        If shapes do not fit, a target is out of range (its index and value are named), or
        label_smoothing or reduction is unknown. On a CUDA device, where looking at the targets
        would mean waiting for them, one that is out of range makes its loss NaN instead.
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
    if type(array) is not np.ndarray:
        return give(_on_device(array, classes, float(label_smoothing), reduction), logits)
    losses = np.empty(len(array), array.dtype) if reduction == "none" else None
    total = _core.cross_entropy(array, classes, float(label_smoothing), reduction == "mean", losses)
    if losses is not None:
        return give(losses, logits)
    if isinstance(logits, np.ndarray):
        return array.dtype.type(total)
    return give(np.array(total, array.dtype), logits)


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
        On a CUDA device an array is float32, there, too.
    out : array (N, C), optional

    Returns
    -------
    array (N, C) like logits

    Raises
    ------
    ValueError, TypeError
        As `cross_entropy`, and if grad_output has another shape or is a tensor that requires grad.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.cross_entropy_backward(np.zeros((1, 4)), np.array([2]))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    name = "cross_entropy_backward"
    array, classes = _take_problem(name, logits, target, label_smoothing, reduction)
    result = result_for(name, array, out, logits=array)
    if type(array) is not np.ndarray:
        scale, factors = _device_scales(name, array, grad_output, reduction)
        cuda_core.cross_entropy_backward(
            array, classes, float(label_smoothing), scale, factors, result
        )
        return give(result, logits) if out is None else out
    if hasattr(grad_output, "__dlpack__"):
        factors = import_any(name, "grad_output", grad_output)
        check_device(name, "grad_output", factors, "logits", array)
        grad_output = factors
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
    mean = reduction == "mean"
    _core.cross_entropy_backward(array, classes, float(label_smoothing), mean, scales, result)
    return give(result, logits) if out is None else out


def _on_device(logits: Array, target: Array, label_smoothing: float, reduction: str) -> Array:
    """The loss as an array beside `logits`, nothing read back."""
    rows = logits.shape[0]
    if reduction == "none":
        losses = new((rows,), FLOAT32, logits)
        cuda_core.cross_entropy(logits, target, label_smoothing, losses, None, 1.0)
        return losses
    total = new((), FLOAT32, logits)
    if rows == 0:
        total.fill(float("nan") if reduction == "mean" else 0.0)
        return total
    scale = 1.0 / rows if reduction == "mean" else 1.0
    cuda_core.cross_entropy(logits, target, label_smoothing, None, total, scale)
    return total


def _device_scales(
    name: str, logits: Array, grad_output: Any, reduction: str
) -> tuple[float, Array | None]:
    """A factor of all rows, and one a row where grad_output is an array."""
    rows = logits.shape[0]
    mean = 1.0 / max(rows, 1) if reduction == "mean" else 1.0
    if isinstance(grad_output, int | float | np.number):
        return mean * float(grad_output), None
    factors = take(name, "grad_output", grad_output)
    check_device(name, "grad_output", factors, "logits", logits)
    if factors.dtype != FLOAT32:
        raise TypeError(f"{name}: grad_output has dtype {factors.dtype}; wanted float32")
    if factors.shape != () and (reduction != "none" or factors.shape != (rows,)):
        wanted = f"() or ({rows},)" if reduction == "none" else "()"
        raise ValueError(
            f"{name}: grad_output has shape {factors.shape}, but with reduction={reduction!r} "
            f"{wanted} is wanted"
        )
    if factors.shape == (rows,) and factors.flags.c_contiguous:
        return mean, factors
    spread = new((rows,), FLOAT32, logits)
    spread[...] = factors
    return mean, spread


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
    if type(array) is np.ndarray:
        classes = _take_classes(name, target)
    else:
        classes = _take_device_classes(name, target, array)
    if classes.shape != array.shape[:1]:
        raise ValueError(
            f"{name}: target has shape {classes.shape}, but logits {array.shape} have "
            f"{array.shape[0]} rows: ({array.shape[0]},) is wanted"
        )
    return array, classes


def _take_classes(name: str, target: Any) -> Array:
    """`target` as int64; only narrower integers are converted, a copy of (N,)."""
    array = target if isinstance(target, np.ndarray) else import_any(name, "target", target)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name}: target has dtype {array.dtype}; class numbers are integers: convert it with "
            f"target.astype(numpy.int64)"
        )
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        row = int(np.argmax(array >= 2**63))
        raise ValueError(f"{name}: target[{row}] is {array[row]}, no class number")
    return array.astype(np.int64, copy=False)


def _take_device_classes(name: str, target: Any, logits: Array) -> Array:
    """`target` as int64 on the logits' device, without gaps."""
    if isinstance(target, np.ndarray | list | tuple):
        raise ValueError(
            f"{name}: target is on the CPU, but logits are on a CUDA device: pass "
            f"fc.cuda.asarray(target), int64"
        )
    classes = take_int64(name, "target", target)
    check_device(name, "target", classes, "logits", logits)
    return contiguous(classes)
