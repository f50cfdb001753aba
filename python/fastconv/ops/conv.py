"""Forward convolution (kernels: csrc/cpu/conv2d*.cpp; formulas: reference/conv.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arguments import is_relu, take_integer
from .arrays import check_shape, empty, give, take, take_images, take_like, take_out
from .conv_problem import (
    ALGORITHMS,
    FORWARD,
    algorithm_index,
    run,
    shape4,
    sizes_of,
    take_bias,
    take_weight,
)
from .geometry import Padding, Pair, window_geometry
from .one_dimension import beside, named


def algorithms(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names that `algorithm=` of `function` takes, beside "auto".

    Examples
    --------
    >>> import fastconv as fc
    >>> "direct" in fc.algorithms(fc.conv2d)
    True
    """
    name = getattr(function, "__name__", "")
    if name not in (
        "conv2d",
        "conv1d",
        "conv2d_grad_input",
        "conv2d_grad_weight",
        "conv_transpose2d",
    ):
        raise ValueError(
            f"algorithms: {name or function!r} has one algorithm; conv2d, conv2d_grad_input, "
            f"conv2d_grad_weight and conv_transpose2d have several"
        )
    return tuple(ALGORITHMS)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    """Convolve images with a bank of filters (cross-correlation, as every CNN means it).

    Parameters
    ----------
    x : array (N, C, H, W) or (C, H, W), float32 or float64, any strides
    weight : array (K, C // groups, R, S), or a `PackedWeight`
    bias : array (K,), optional
    stride, dilation : int or (height, width)
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
    groups : int
        Filter k sees only the channels of its group, k // (K // groups).
    activation : None or "relu"
    residual : array of the result's shape, optional
        Added before the activation.
    algorithm : str
        "auto", which looks at one image, so that a batch gives the bits of its images, or a name
        of `algorithms(conv2d)`.
    out : array of the result's shape, optional
        Written and returned; any strides; may be `residual` itself.

    Returns
    -------
    array (N, K, P, Q), or (K, P, Q) for one image
        P = (H + top + bottom - (R - 1) * dilation - 1) // stride + 1. Channels last if x is.

    Raises
    ------
    ValueError
        If shapes do not fit, no window fits into the padded input, or the algorithm named cannot
        do the problem.
    TypeError
        If dtypes differ or have no kernels.

    Notes
    -----
    V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning" (2016).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> fc.conv2d(x, np.ones((1, 1, 2, 2), np.float32))
    array([[[[ 8., 12.],
             [20., 24.]]]], dtype=float32)
    """
    images, single = take_images("conv2d", "x", x)
    kernel, packed = take_weight("conv2d", weight, images)
    shape, numbers = sizes_of(
        "conv2d", images.shape, kernel.shape, stride, padding, dilation, groups
    )
    offset = None if bias is None else take_bias("conv2d", bias, images, kernel.shape[0])
    relu = activation is not None and is_relu("conv2d", activation)
    added = None
    if residual is not None:
        added = take_like("conv2d", "residual", residual, images, "x")
        check_shape("conv2d", "residual", added, shape[1:] if single else shape, "the result's")
    index = algorithm_index("conv2d", algorithm)
    if out is None:
        result = empty(shape, images.dtype, images, kernel, function="conv2d")
    else:
        inputs = {"x": images, "weight": kernel, "bias": offset}
        result = take_out(
            "conv2d", out, shape[1:] if single else shape, images.dtype, inputs, added
        )
        result = result[None] if single else result
    if single and added is not None:
        added = added[None]
    run("conv2d", FORWARD, images, kernel, result, numbers, index, algorithm,
         packed=packed, bias=offset, residual=added, relu=relu)  # fmt: skip
    if out is not None:
        return out
    y = result[0] if single else result
    return y if type(x) is np.ndarray else give(y, x)


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int = 1,
    padding: Any = 0,
    dilation: int = 1,
    groups: int = 1,
    activation: str | None = None,
    residual: Any = None,
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    """`conv2d` over (N, C, L) or (C, L): images of height 1.

    Parameters
    ----------
    x : array (N, C, L) or (C, L)
    weight : array (K, C // groups, S)
    padding : int, (left, right), "valid" or "same"
    bias, stride, dilation, groups, activation, residual, algorithm, out
        As `conv2d`'s, in one dimension.

    Returns
    -------
    array (N, K, Q) or (K, Q)

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> x = np.arange(4, dtype=np.float32).reshape(1, 4)
    >>> fc.conv1d(x, np.ones((1, 1, 2), np.float32))
    array([[1., 3., 5.]], dtype=float32)
    """
    array = take("conv1d", "x", x)
    kernel = take_like("conv1d", "weight", weight, array, "x")
    if array.ndim not in (2, 3):
        raise ValueError(f"conv1d: x has shape {array.shape}; wanted (N, C, L) or (C, L)")
    if kernel.ndim != 3:
        raise ValueError(f"conv1d: weight has shape {kernel.shape}; wanted (K, C // groups, S)")
    added = None if residual is None else _row("residual", residual, array.ndim)
    target = None if out is None else _row("out", out, array.ndim)
    if bias is not None:
        bias = take_bias("conv1d", bias, array, kernel.shape[0])
    with named("conv1d", "conv2d", padding):
        result = conv2d(
            array[..., None, :], kernel[:, :, None, :], bias,
            stride=(1, take_integer("conv1d", "stride", stride, 1)),
            padding=beside("conv1d", padding),
            dilation=(1, take_integer("conv1d", "dilation", dilation, 1)), groups=groups,
            activation=activation, residual=added, algorithm=algorithm, out=target,
        )  # fmt: skip
    return give(result[..., 0, :], x) if out is None else out


def conv2d_output_shape(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
) -> tuple[int, int, int, int]:
    """(N, K, P, Q) of `conv2d`: along each axis (N - F) / S + 1 in its general form,
    (in + padding - (kernel - 1) * dilation - 1) // stride + 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.conv2d_output_shape((1, 3, 227, 227), (96, 3, 11, 11), stride=4)
    (1, 96, 55, 55)
    """
    name = "conv2d_output_shape"
    n, _, h, w = shape4(name, "input_shape", input_shape)
    k, _, r, s = shape4(name, "weight_shape", weight_shape)
    geometry = window_geometry(name, (h, w), (r, s), stride, padding, dilation)
    return (n, k, *geometry.output)


def _row(name: str, value: Any, ndim: int) -> Any:
    """(N, K, Q) or (K, Q) as images of height 1."""
    array = take("conv1d", name, value)
    if array.ndim != ndim:
        raise ValueError(
            f"conv1d: {name} has shape {array.shape}, but the result has {ndim} dimensions, as x"
        )
    return array[..., None, :]
