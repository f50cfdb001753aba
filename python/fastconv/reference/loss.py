"""Cross-entropy of logits against class numbers.

With p = softmax(logits), C classes, t the target and e the label smoothing, one row's loss is

    L = -sum over c of q_c log p_c        q_c = (1 - e) [c = t] + e / C
    dL/dlogits_c = p_c - q_c              because the q_c sum to 1

`reduction`: "none" gives one loss a row, "sum" their sum, "mean" their mean (NaN for no rows, as
in PyTorch and NumPy). Source of label smoothing: C. Szegedy et al., "Rethinking the Inception
Architecture for Computer Vision" (2016), section 7. Shapes: logits (N, C), target (N,) of integers.
"""

from __future__ import annotations

import numpy as np

from .activation import log_softmax, softmax
from .windows import Array, no_warnings


@no_warnings
def cross_entropy(
    logits: Array, target: Array, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Array:
    """Minus the log of the probability that softmax gives to the target.

    Parameters
    ----------
    logits : array (N, C)
    target : integer array (N,), 0 <= target < C
    label_smoothing : float in [0, 1]
    reduction : "mean", "sum" or "none"

    Returns
    -------
    scalar of the logits' dtype, or array (N,) with reduction="none"

    Examples
    --------
    >>> import numpy as np
    >>> round(float(cross_entropy(np.zeros((1, 4)), np.array([2]))), 4)  # log 4
    1.3863
    """
    logits = np.asarray(logits)
    wanted = smoothed_target(logits, target, label_smoothing)
    log_probabilities = log_softmax(logits, axis=1)
    # A class of weight 0 costs nothing, even where its probability is 0 (0 * -inf).
    costs = np.where(wanted == 0, 0, -wanted * log_probabilities).sum(axis=1)
    check_reduction(reduction)
    if reduction == "none":
        return np.asarray(costs)
    total: Array = costs.sum()
    if reduction == "mean":
        total = total / logits.dtype.type(len(logits))
    return total


@no_warnings
def cross_entropy_backward(
    logits: Array,
    target: Array,
    *,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    grad_output: float | Array = 1.0,
) -> Array:
    """dL/dlogits = (softmax(logits) - q) * grad_output, divided by N for the mean.

    Parameters
    ----------
    logits, target, label_smoothing, reduction : as in `cross_entropy`
    grad_output : number, or array (N,) with reduction="none"

    Returns
    -------
    array (N, C)

    Examples
    --------
    >>> import numpy as np
    >>> cross_entropy_backward(np.zeros((1, 4)), np.array([2]))
    array([[ 0.25,  0.25, -0.75,  0.25]])
    """
    logits = np.asarray(logits)
    check_reduction(reduction)
    grad = softmax(logits, axis=1) - smoothed_target(logits, target, label_smoothing)
    scale = np.asarray(grad_output, dtype=logits.dtype)
    if reduction == "mean":
        scale = scale / logits.dtype.type(max(1, len(logits)))
    return np.asarray(grad * scale.reshape(-1, 1))


def smoothed_target(logits: Array, target: Array, label_smoothing: float) -> Array:
    """(N, C): what the probabilities should be, q of the module's head."""
    target = np.asarray(target)
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(f"logits {logits.shape}, target {target.shape}: wanted (N, C) and (N,)")
    n, classes = logits.shape
    if n and (target.min() < 0 or target.max() >= classes):
        raise ValueError(f"target from {target.min()} to {target.max()}: {classes} classes")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing}: wanted 0 <= label_smoothing <= 1")
    wanted = np.full((n, classes), label_smoothing / classes if classes else 0, dtype=logits.dtype)
    wanted[np.arange(n), target] += 1 - label_smoothing
    return wanted


def check_reduction(reduction: str) -> None:
    """Complain about an unknown reduction."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction={reduction!r}: wanted "mean", "sum" or "none"')
