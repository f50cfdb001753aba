"""The fully connected layer.

    y[n, k] = bias[k] + sum over c of x[n, c] weight[k, c]

    dL/dx[n, c]      = sum over k of g[n, k] weight[k, c]          g = dL/dy
    dL/dweight[k, c] = sum over n of g[n, k] x[n, c]
    dL/dbias[k]      = sum over n of g[n, k]

x is (N, C), or (C,) for one vector; weight is (K, C). Computed in the arguments' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .activation import activate, activation_backward
from .windows import Array, no_warnings


@no_warnings
def linear(
    x: Array, weight: Array, bias: Array | None = None, *, activation: str | None = None
) -> Array:
    """x times the transposed weight, plus bias.

    Parameters
    ----------
    x : array (N, C) or (C,)
    weight : array (K, C)
    bias : array (K,), optional
    activation : None or "relu"

    Returns
    -------
    array (N, K) or (K,)

    Examples
    --------
    >>> import numpy as np
    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5]))
    array([[11.5]])
    """
    x, weight = np.asarray(x), np.asarray(weight)
    if weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x has shape {x.shape}, weight {weight.shape}: wanted (N, C) and (K, C)")
    y = x @ weight.T
    if bias is not None:
        y = y + bias
    return activate(np.asarray(y), activation)


@no_warnings
def linear_backward(
    grad_output: Array,
    x: Array,
    weight: Array,
    *,
    activation: str | None = None,
    output: Array | None = None,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Array | None, Array | None, Array | None]:
    """All gradients of `linear`; first undoes the activation with the stored `output`.

    Parameters
    ----------
    grad_output : array (N, K) or (K,)
    x, weight, activation : as in `linear`
    output : array, what `linear` returned; needed with an activation
    need : which of "input", "weight", "bias" to compute

    Returns
    -------
    grad_input, grad_weight, grad_bias : arrays like x, weight and (K,); None where not needed

    Examples
    --------
    >>> import numpy as np
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> linear_backward(np.array([[2.0]]), x, weight)
    (array([[6., 8.]]), array([[2., 4.]]), array([2.]))
    """
    grad = activation_backward(np.asarray(grad_output), activation, output)
    vectors, grads = np.atleast_2d(x), np.atleast_2d(grad)
    grad_input = grad @ np.asarray(weight) if "input" in need else None
    grad_weight = grads.T @ vectors if "weight" in need else None
    grad_bias = grads.sum(axis=0) if "bias" in need else None
    return grad_input, grad_weight, grad_bias
