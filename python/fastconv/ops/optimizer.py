"""The optimiser's update of parameters, in place, in one pass over their arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .devices import FLOAT32, cuda_core


def sgd_update(
    parameter: Any,
    grad: Any,
    velocity: Any = None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    copy: Any = None,
) -> None:
    """One step of stochastic gradient descent with PyTorch's order of operations.

    g = grad + weight_decay p;  v = momentum v + g;  p = p - lr (g + momentum v if nesterov else v)

    Parameters
    ----------
    parameter : array
        float32 or float64, on a CUDA device float32; overwritten.
    grad : array of the same shape and dtype
        On a CUDA device of any floating dtype.
    velocity : array of the same shape and dtype, optional
        Overwritten; zeros before the first step. Needed where momentum is not 0.
    lr, momentum, weight_decay : float
    nesterov : bool
    copy : array of the same shape, optional
        On a CUDA device: gets the new parameter in its own dtype, what kernels of 16 bits read.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.ops.optimizer import sgd_update
    >>> p = np.array([1.0, 2.0], np.float32)
    >>> sgd_update(p, np.ones(2, np.float32), lr=0.5)
    >>> p
    array([0.5, 1.5], dtype=float32)
    """
    _check(parameter, grad, velocity)
    if type(parameter) is not np.ndarray:
        cuda_core.sgd_update(parameter, grad, velocity, lr, momentum, weight_decay, nesterov, copy)
        return
    velocities = None if velocity is None else [velocity]
    _core.sgd_update([parameter], [grad], velocities, lr, momentum, weight_decay, nesterov)


def sgd_update_all(
    parameters: Sequence[Any],
    grads: Sequence[Any],
    velocities: Sequence[Any] | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """`sgd_update` of each parameter in one call, whose work all threads share: NumPy arrays of one
    dtype, a parameter, its gradient and its velocity at the same place of each list.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv.ops.optimizer import sgd_update_all
    >>> p, q = np.zeros(2), np.ones(3)
    >>> sgd_update_all([p, q], [np.ones(2), np.ones(3)], lr=1.0)
    >>> p, q
    (array([-1., -1.]), array([0., 0., 0.]))
    """
    for index, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
        _check(parameter, grad, None if velocities is None else velocities[index])
    _core.sgd_update(parameters, grads, velocities, lr, momentum, weight_decay, nesterov)


def _check(parameter: Any, grad: Any, velocity: Any) -> None:
    on_host = type(parameter) is np.ndarray
    wanted = parameter.dtype if on_host else FLOAT32
    for name, array in (("parameter", parameter), ("grad", grad), ("velocity", velocity)):
        if array is None:
            continue
        any_dtype = name == "grad" and not on_host
        if array.shape != parameter.shape or not (any_dtype or array.dtype == wanted):
            raise ValueError(
                f"sgd_update: {name} is {array.shape} of {array.dtype}, but the parameter is "
                f"{parameter.shape} and {wanted} is wanted"
            )
