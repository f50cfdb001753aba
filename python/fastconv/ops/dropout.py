"""Dropout (kernels: csrc/cpu/tiles/dropout.cpp; the exact mask: reference/dropout.py)."""

from __future__ import annotations

import math
import operator
from typing import Any

from .. import _core
from .arguments import take_flag, take_number
from .arrays import give, take
from .devices import kernels_for
from .elementwise import result_for


def dropout(x: Any, p: float = 0.5, *, seed: int, training: bool = True, out: Any = None) -> Any:
    """Zero each element with probability p and multiply the others by 1 / (1 - p).

    Whether an element is kept depends on `seed` and its position in C order alone: the mask is the
    same for any memory order, device and number of threads (the exact rule is in
    `fastconv.reference.dropout`).

    Parameters
    ----------
    x : array of any shape and strides, float32 or float64
    p : float, 0 <= p <= 1
    seed : int, 0 <= seed < 2**64
        The same seed gives the same mask: draw a new one for each training step.
    training : bool
        If False, the result is a copy of x.
    out : array of x's shape, optional

    Returns
    -------
    array like x

    Raises
    ------
    TypeError, ValueError
        As `relu`, and if p or seed is out of range.

    Notes
    -----
    N. Srivastava et al., "Dropout" (2014); J. Salmon et al., "Parallel Random Numbers: As Easy as
    1, 2, 3" (2011).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.dropout(np.ones(6), 0.5, seed=5)
    array([2., 0., 2., 2., 0., 0.])
    """
    if take_flag("dropout", "training", training):
        return _masked("dropout", "x", x, p, seed, out)
    _check_draw("dropout", p, seed)
    array = take("dropout", "x", x)
    result = result_for("dropout", array, out, x=array)
    result[...] = array
    return give(result, x) if out is None else out


def dropout_backward(grad_output: Any, p: float, *, seed: int, out: Any = None) -> Any:
    """The gradient of `dropout`: its mask and factor applied to grad_output.

    Parameters
    ----------
    grad_output : array of x's shape
    p, seed
        As in `dropout`.
    out : array of that shape, optional

    Returns
    -------
    array like grad_output

    Raises
    ------
    TypeError, ValueError
        As `dropout`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.dropout_backward(np.ones(6), 0.5, seed=5)
    array([2., 0., 2., 2., 0., 0.])
    """
    return _masked("dropout_backward", "grad_output", grad_output, p, seed, out)


def _check_draw(name: str, p: float, seed: int) -> tuple[float, int]:
    p = take_number(name, "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p={p}, but a probability is wanted: 0 <= p <= 1")
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"{name}: seed={seed!r} is no integer") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"{name}: seed={number}, but 0 <= seed < 2**64 is wanted")
    return p, number


def _masked(name: str, argument: str, x: Any, p: float, seed: int, out: Any) -> Any:
    probability, number = _check_draw(name, p, seed)
    array = take(name, argument, x)
    result = result_for(name, array, out, **{argument: array})
    threshold = (math.floor(probability * 2.0**33) + 1) // 2  # exact in any rounding mode
    scale = _core.dropout_scale(probability)
    kernels_for(array).dropout(array, result, number, threshold, scale)
    return give(result, x) if out is None else out
