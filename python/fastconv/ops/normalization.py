"""Batch normalization (kernels: csrc/cpu/batch_norm*.cpp, csrc/cuda/normalization.cu; formulas:
reference/normalization.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arguments import take_flag, take_number
from .arrays import Array, check_device, give, overlap, take, take_like, take_out
from .devices import FLOAT32, kernels_for, new
from .elementwise import empty_like, result_for, take_pair


def batch_norm(
    x: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    out: Any = None,
) -> tuple[Any, Any, Any]:
    """Give each channel mean 0 and variance 1 over the batch, then scale and shift it.

    Parameters
    ----------
    x : array (N, C, H, W), (C, H, W) or (N, C), any strides, float32 or float64
    weight, bias : array (C,), 1 and 0 where None
        Of x's dtype, as all arrays (C,) here; on a CUDA device float32, whatever x is.
    running_mean, running_var : array (C,)
        What evaluation normalizes with. Optional in training, which updates them in place, the
        variance by its unbiased estimate, as PyTorch.
    training : bool
    momentum : float
        Weight of the new statistics (PyTorch's meaning; ONNX and Keras weigh the old ones).
    eps : float
        Added to the variance.
    out : array of x's shape, optional

    Returns
    -------
    y : array like x
    mean, rstd : arrays (C,), what `batch_norm_backward` needs
        The batch's in training (0 and 1 / sqrt(eps) of an empty one), else the running ones;
        rstd = 1 / sqrt(variance + eps).

    Raises
    ------
    ValueError
        If shapes do not fit, eps is negative, in evaluation without running statistics, in training
        with one value per channel, whose variance says nothing, and with running statistics that
        overlap one another or what is read.
    TypeError
        If dtypes differ or have no kernels.

    Notes
    -----
    S. Ioffe, C. Szegedy, "Batch Normalization" (2015), algorithm 1. Statistics are summed in blocks
    and joined in float64, in an order that depends on shape and strides alone.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, mean, rstd = fc.batch_norm(np.array([[1.0], [3.0]]), training=True, eps=0.0)
    >>> y.tolist(), mean.tolist(), rstd.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0])
    """
    running = (running_mean, running_var)
    return _forward("batch_norm", x, weight, bias, running, training, momentum, eps, out)


def batch_norm_relu(
    x: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, Any, Any]:
    """`relu(batch_norm(x, ...))` in the same passes over memory."""
    running = (running_mean, running_var)
    name = "batch_norm"
    return _forward(name, x, weight, bias, running, training, momentum, eps, None, relu=True)


def batch_norm_add_relu(
    x: Any,
    residual: Any,
    *,
    weight: Any = None,
    bias: Any = None,
    running_mean: Any = None,
    running_var: Any = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, Any, Any]:
    """`relu(batch_norm(x, ...) + residual)`, its bits, in the passes of batch norm and one over the
    residual; NumPy arrays of one shape and dtype only."""
    running = (running_mean, running_var)
    name, added = "batch_norm", {"relu": True, "residual": residual}
    return _forward(name, x, weight, bias, running, training, momentum, eps, None, **added)


def _forward(
    name: str,
    x: Any,
    weight: Any,
    bias: Any,
    running: tuple[Any, Any],
    training: bool,
    momentum: float,
    eps: float,
    out: Any,
    **options: Any,
) -> tuple[Any, Any, Any]:
    training = take_flag(name, "training", training)
    array = take(name, "x", x)
    axis = channel_axis(name, array)
    channels = array.shape[axis]
    scale = _take_vector(name, "weight", weight, array, channels)
    shift = _take_vector(name, "bias", bias, array, channels)
    means = _take_vector(name, "running_mean", running[0], array, channels)
    variances = _take_vector(name, "running_var", running[1], array, channels)
    _check_statistics(name, array, channels, training, means, variances)
    if training:
        _check_updated(name, means, variances, array, scale, shift)
    epsilon = take_number(name, "eps", eps)
    if epsilon < 0:
        raise ValueError(f"{name}: eps is {eps}; wanted 0 or more, since a root is taken")
    if out is None:
        result = empty_like(array, function=name)
    else:
        inputs = {"x": array, "weight": scale, "bias": shift}
        inputs |= {"running_mean": means, "running_var": variances}
        result = take_out(name, out, array.shape, array.dtype, inputs)
    statistics = array.dtype if type(array) is np.ndarray else FLOAT32
    mean, rstd = new((channels,), statistics, array), new((channels,), statistics, array)
    kernels_for(array).batch_norm(
        array, result, mean, rstd, scale, shift, means, variances,
        axis, training, take_number(name, "momentum", momentum), epsilon,
        **options,
    )  # fmt: skip
    return (give(result, x) if out is None else out), give(mean, x), give(rstd, x)


def batch_norm_backward(
    grad_output: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    *,
    weight: Any = None,
    training: bool,
    out: Any = None,
) -> tuple[Any, Any, Any]:
    """The gradients of `batch_norm` with respect to x, weight and bias.

    Parameters
    ----------
    grad_output, x : arrays (N, C, H, W), (C, H, W) or (N, C)
    mean, rstd : arrays (C,), what `batch_norm` returned
    weight : array (C,), 1 where None
    training : bool
        As in `batch_norm`. In training mean and rstd depend on x too.
    out : array of x's shape, optional
        For grad_input.

    Returns
    -------
    grad_input : array like x
    grad_weight, grad_bias : arrays (C,)

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.array([[1.0], [3.0]])
    >>> dx, dw, db = fc.batch_norm_backward(
    ...     x, x, np.array([2.0]), np.array([1.0]), training=False)
    >>> dx.tolist(), dw.tolist(), db.tolist()
    ([[1.0], [3.0]], [2.0], [4.0])
    """
    training = take_flag("batch_norm_backward", "training", training)
    return _backward(grad_output, x, mean, rstd, weight, training, out)


def batch_norm_relu_backward(
    grad_output: Any, x: Any, mean: Any, rstd: Any, *, weight: Any = None, bias: Any = None
) -> tuple[Any, Any, Any]:
    """The gradients of `batch_norm_relu` in training: those of `relu_backward` and
    `batch_norm_backward`, without the output of either and in the passes of the second; NumPy
    arrays only."""
    return _backward(grad_output, x, mean, rstd, weight, True, None, relu=True, bias=bias)


def batch_norm_add_relu_backward(
    grad_output: Any, output: Any, x: Any, mean: Any, rstd: Any, *, weight: Any = None
) -> tuple[Any, Any, Any, Any]:
    """The gradients of `batch_norm_add_relu` in training with respect to x, residual, weight and
    bias: those of `relu_backward`, which is the residual's, and of `batch_norm_backward`, one pass
    over memory less."""
    grads = take("batch_norm_backward", "grad_output", grad_output)
    masked = {"relu": True, "output": output, "grad_residual": empty_like(grads)}
    grad_x, *others = _backward(grads, x, mean, rstd, weight, True, None, **masked)
    return grad_x, give(masked["grad_residual"], grad_output), others[0], others[1]


def _backward(
    grad_output: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    training: bool,
    out: Any,
    **options: Any,
) -> tuple[Any, Any, Any]:
    name = "batch_norm_backward"
    array = take(name, "x", x)
    axis = channel_axis(name, array)
    grads = take_pair(name, "grad_output", grad_output, array, "x", "x's shape")
    channels = array.shape[axis]
    means = _need_vector(name, "mean", mean, array, channels)
    rstds = _need_vector(name, "rstd", rstd, array, channels)
    scale = _take_vector(name, "weight", weight, array, channels)
    result = result_for(
        name, array, out, grad_output=grads, x=array, mean=means, rstd=rstds, weight=scale
    )
    vectors = array.dtype if type(array) is np.ndarray else FLOAT32
    grad_weight, grad_bias = new((channels,), vectors, array), new((channels,), vectors, array)
    kernels_for(array).batch_norm_backward(
        grads, array, means, rstds, scale, result, grad_weight, grad_bias, axis, training, **options
    )
    grad_input = give(result, x) if out is None else out
    return grad_input, give(grad_weight, x), give(grad_bias, x)


def channel_axis(name: str, array: Array) -> int:
    """Where the channels of (N, C, H, W), (C, H, W) or (N, C) are."""
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{name}: x has {array.ndim} dimensions (shape {array.shape}); "
            f"wanted (N, C, H, W), (C, H, W) or (N, C)"
        )
    return 0 if array.ndim == 3 else 1


def _take_vector(name: str, argument: str, value: Any, x: Array, channels: int) -> Array | None:
    return None if value is None else _need_vector(name, argument, value, x, channels)


def _need_vector(name: str, argument: str, value: Any, x: Array, channels: int) -> Array:
    if type(x) is np.ndarray:
        array = take_like(name, argument, value, x, "x")
    else:
        array = take(name, argument, value)
        check_device(name, argument, array, "x", x)
        if array.dtype != FLOAT32:
            raise TypeError(
                f"{name}: {argument} has dtype {array.dtype}, but on a CUDA device what is (C,) is "
                f"float32, also beside x of {x.dtype}"
            )
    if array.shape != (channels,):
        raise ValueError(
            f"{name}: {argument} has shape {array.shape}, but x with shape {x.shape} has "
            f"{channels} channels: ({channels},) is wanted"
        )
    return array


def _check_statistics(
    name: str, x: Array, channels: int, training: bool, mean: Array | None, var: Array | None
) -> None:
    given = (("running_mean", mean), ("running_var", var))
    if not training:
        for argument, running in given:
            if running is None:
                raise ValueError(
                    f"{name}: training=False normalizes with running_mean and running_var, but "
                    f"{argument} is None"
                )
        return
    if x.size == channels > 0:
        raise ValueError(
            f"{name}: training needs more than one value per channel, but x has shape {x.shape}: "
            f"use training=False or a larger batch"
        )
    for argument, running in given:
        if running is not None and not running.flags.writeable:
            raise ValueError(f"{name}: {argument} is read-only, but training updates it in place")


def _check_updated(
    name: str,
    mean: Array | None,
    var: Array | None,
    x: Array,
    weight: Array | None,
    bias: Array | None,
) -> None:
    """Running statistics are written beside the result: they lie apart from all other arrays."""
    updated = {"running_mean": mean, "running_var": var}
    for argument, running in updated.items():
        if running is not None and running.size > 1 and running.strides[0] == 0:
            raise ValueError(
                f"{name}: {argument} has a stride of 0 (a broadcast array): its elements overlap, "
                f"but training updates it in place"
            )
    # By where they begin and end; looking at each pair takes 3 us, on a device 14.
    if kernels_for(x).lie_apart(mean, var, x, weight, bias):
        return
    others = {"x": x, "weight": weight, "bias": bias}
    for argument, running in updated.items():
        for other, array in others.items():
            if running is not None and array is not None and overlap(running, array):
                raise ValueError(
                    f"{name}: {argument} overlaps {other} in memory, but training updates it in "
                    f"place; pass an array of its own"
                )
        others[argument] = running
