"""The fully connected layer (kernels: csrc/cpu/linear*.cpp; formulas: reference/linear.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..cuda_kernels import forced_kernel
from ..precision import precision_index
from .activation import relu_backward
from .arguments import is_relu, take_need
from .arrays import Array, check_shape, give, take, take_like, take_out
from .devices import contiguous, cuda_core, kernels_for, new

_FORWARD, _GRAD_INPUT, _GRAD_WEIGHT = range(3)


def linear(
    x: Any, weight: Any, bias: Any = None, *, activation: str | None = None, out: Any = None
) -> Any:
    """x times the transposed weight, plus bias.

    Parameters
    ----------
    x : array (N, C) or (C,), float32 or float64, any strides
    weight : array (K, C)
    bias : array (K,), optional
    activation : None or "relu"
    out : array (N, K) or (K,), optional
        Where to write the result.

    Returns
    -------
    array (N, K) or (K,)
        Of x's family. The same bits for any N and any number of threads.

    Raises
    ------
    TypeError
        If dtypes differ or have no kernels.
    ValueError
        If shapes do not fit; the message has the arithmetic.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5]))
    array([[11.5]])
    """
    name = "linear"
    array = take(name, "x", x)
    kernel = _take_weight(name, weight, array)
    filters = kernel.shape[0]
    vector = None
    if bias is not None:
        vector = take_like(name, "bias", bias, array, "x")
        check_shape(name, "bias", vector, (filters,), "(K,) of the weight")
        vector = contiguous(vector)
    relu = is_relu(name, activation)
    shape = (*array.shape[:-1], filters)
    if out is None:
        result = new(shape, array.dtype, array, function=name)
    else:
        result = take_out(
            name, out, shape, array.dtype, {"x": array, "weight": kernel, "bias": vector}
        )
    _run(_FORWARD, _rows(array), kernel, _rows(result), vector, relu)
    return give(result, x) if out is None else out


def linear_backward(
    grad_output: Any,
    x: Any,
    weight: Any,
    *,
    activation: str | None = None,
    output: Any = None,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Any, Any, Any]:
    """All gradients of `linear`.

    Parameters
    ----------
    grad_output : array (N, K) or (K,)
    x : array (N, C) or (C,)
    weight : array (K, C)
    activation : None or "relu"
        As in the forward call; "relu" needs `output`.
    output : array of grad_output's shape
        What the forward call returned: where it is not positive, no gradient passes.
    need : sequence of "input", "weight", "bias"
        Which gradients to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        Arrays like x, weight and (K,); None where not needed.

    Raises
    ------
    TypeError, ValueError
        As `linear`.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])
    >>> fc.linear_backward(np.array([[2.0]]), x, weight)
    (array([[6., 8.]]), array([[2., 4.]]), array([2.]))
    """
    name = "linear_backward"
    need = take_need(name, need)
    array = take(name, "x", x)
    kernel = _take_weight(name, weight, array)
    grads = take_like(name, "grad_output", grad_output, array, "x")
    shape = (*array.shape[:-1], kernel.shape[0])
    check_shape(name, "grad_output", grads, shape, "linear's output shape here")
    if is_relu(name, activation):
        if output is None:
            raise ValueError(f'{name}: activation="relu" needs output, what linear returned')
        forward = take_like(name, "output", output, array, "x")
        check_shape(name, "output", forward, shape, "grad_output's shape")
        grads = relu_backward(grads, forward)
    grad_input = grad_weight = grad_bias = None
    rows = _rows(grads)
    if "input" in need:
        grad_input = _empty_like(array)
        _run(_GRAD_INPUT, _rows(grad_input), kernel, rows)
    if "weight" in need:
        grad_weight = _empty_like(kernel)
        _run(_GRAD_WEIGHT, _rows(array), grad_weight, rows)
    if "bias" in need:
        grad_bias = new(kernel.shape[:1], array.dtype, array)
        # A matrix (N, K) is one image of K channels, N high and 1 wide.
        kernels_for(array).conv2d_grad_bias(rows.T[None, :, :, None], grad_bias, False)
    wrapped = (None if g is None else give(g, x) for g in (grad_input, grad_weight, grad_bias))
    return tuple(wrapped)  # type: ignore[return-value]


def _run(
    direction: int, x: Array, weight: Array, y: Array, bias: Array | None = None, relu: bool = False
) -> None:
    if type(x) is np.ndarray:
        _core.linear(direction, x, weight, y, bias, relu, False)
    else:
        cuda_core.linear(
            direction, x, weight, y, bias, relu, False, precision_index(), forced_kernel()
        )


def _take_weight(function: str, weight: Any, x: Array) -> Array:
    kernel = take_like(function, "weight", weight, x, "x")
    if x.ndim not in (1, 2):
        raise ValueError(
            f"{function}: x has {x.ndim} dimensions (shape {x.shape}); wanted (N, C), or (C,) for "
            f"one vector: flatten it with x.reshape(len(x), -1)"
        )
    if kernel.ndim != 2:
        raise ValueError(
            f"{function}: weight has {kernel.ndim} dimensions (shape {kernel.shape}); wanted (K, C)"
        )
    if kernel.shape[1] != x.shape[-1]:
        raise ValueError(
            f"{function}: weight has {kernel.shape[1]} inputs (shape {kernel.shape}), but x has "
            f"{x.shape[-1]} features (shape {x.shape})"
        )
    return kernel


def _empty_like(array: Array) -> Array:
    """In the memory order of `array`, vector or matrix."""
    if array.ndim == 2 and abs(array.strides[0]) < abs(array.strides[1]):
        return new(array.shape[::-1], array.dtype, array).T
    return new(array.shape, array.dtype, array)


def _rows(array: Array) -> Array:
    """(N, C) as it is, (C,) as one row."""
    return array if array.ndim == 2 else array[None]
