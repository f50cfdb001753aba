"""The optimiser's update of one parameter, in place, in one pass over its arrays."""

from __future__ import annotations

from typing import Any

from .. import _core


def sgd_update(
    parameter: Any,
    grad: Any,
    velocity: Any = None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of stochastic gradient descent with PyTorch's order of operations.

    g = grad + weight_decay p;  v = momentum v + g;  p = p - lr (g + momentum v if nesterov else v)

    Parameters
    ----------
    parameter : array
        float32 or float64; overwritten.
    grad : array of the same shape and dtype
    velocity : array of the same shape and dtype, optional
        Overwritten; zeros before the first step. Needed where momentum is not 0.
    lr, momentum, weight_decay : float
    nesterov : bool

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.ops.optimizer import sgd_update
    >>> p = np.array([1.0, 2.0], np.float32)
    >>> sgd_update(p, np.ones(2, np.float32), lr=0.5)
    >>> p
    array([0.5, 1.5], dtype=float32)
    """
    for name, array in (("grad", grad), ("velocity", velocity)):
        if array is None:
            continue
        if array.shape != parameter.shape or array.dtype != parameter.dtype:
            raise ValueError(
                f"sgd_update: {name} is {array.shape} of {array.dtype}, but the parameter is "
                f"{parameter.shape} of {parameter.dtype}"
            )
    _core.sgd_update(parameter, grad, velocity, lr, momentum, weight_decay, nesterov)
