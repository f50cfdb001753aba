"""Convolution and its gradients (kernels: csrc/cpu/conv2d*.cpp; formulas: reference/conv.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _core
from .arrays import (
    Array,
    as_images,
    check_shape,
    empty,
    empty_like_order,
    give,
    take,
    take_like,
    take_out,
)
from .geometry import Geometry, Padding, Pair, window_geometry

_FORWARD, _GRAD_INPUT, _GRAD_WEIGHT = range(3)
_ALGORITHMS = {name: index for index, name in enumerate(_core.conv2d_algorithms)}


class PackedWeight:
    """A convolution's kernel, packed once as the register tiles read it; see `pack_weight`.

    Holds its own read-only copy of the weight, for algorithms that read it unpacked.
    """

    def __init__(self, weight: Array, groups: int) -> None:
        self.weight = weight.copy(order="K")
        self.weight.flags.writeable = False
        self.groups = groups
        self.isa = _core.current_isa()
        self.packed = _core.conv2d_pack(self.weight, groups)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.weight.dtype

    def __repr__(self) -> str:
        return f"PackedWeight(shape={self.shape}, dtype={self.dtype}, isa={self.isa!r})"


def pack_weight(weight: Any, *, groups: int = 1) -> PackedWeight:
    """Pack a kernel for many forward convolutions; the result is accepted wherever `weight` is.

    Parameters
    ----------
    weight : array (K, C // groups, R, S)
    groups : int
        As in the convolutions it will be used for.

    Returns
    -------
    PackedWeight
        A snapshot: later changes of `weight` do not reach it.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> packed = fc.pack_weight(np.ones((8, 3, 3, 3), np.float32))
    >>> float(fc.conv2d(np.ones((1, 3, 5, 5), np.float32), packed)[0, 0, 0, 0])
    27.0
    """
    array = take("pack_weight", "weight", weight)
    _check_weight("pack_weight", array)
    if groups < 1 or array.shape[0] % groups:
        raise ValueError(
            f"pack_weight: {array.shape[0]} filters cannot be cut into groups={groups}"
        )
    return PackedWeight(array, groups)


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
    return tuple(_ALGORITHMS)


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
        "auto" or a name of `algorithms(conv2d)`.
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
    array = take("conv2d", "x", x)
    images = as_images("conv2d", "x", array)
    kernel, packed = _take_weight("conv2d", weight, images, groups)
    _check_channels("conv2d", images.shape, kernel.shape, groups)
    geometry = window_geometry(
        "conv2d", images.shape[2:], kernel.shape[2:], stride, padding, dilation
    )
    shape = (images.shape[0], kernel.shape[0], *geometry.output)
    offset = None if bias is None else _take_bias("conv2d", bias, images, kernel.shape[0])
    relu = _is_relu("conv2d", activation)
    single = array.ndim == 3
    added = None
    if residual is not None:
        added = take_like("conv2d", "residual", residual, images, "x")
        check_shape("conv2d", "residual", added, shape[1:] if single else shape, "the result's")
    index = _algorithm_index("conv2d", algorithm)
    if out is None:
        result = empty(shape, images.dtype, images, kernel)
    else:
        inputs = {"x": array, "weight": kernel, "bias": offset}
        result = take_out(
            "conv2d", out, shape[1:] if single else shape, images.dtype, inputs, added
        )
        result = result[None] if single else result
    if single and added is not None:
        added = added[None]
    _run("conv2d", _FORWARD, images, kernel, result, geometry, groups, index, algorithm,
         packed=packed, bias=offset, residual=added, relu=relu)  # fmt: skip
    if out is not None:
        return out
    return give(result[0] if single else result, x)


def conv2d_grad_input(
    grad_output: Any,
    weight: Any,
    input_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
    out: Any = None,
) -> Any:
    """The gradient of `conv2d` with respect to x.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
        dL/dy for the y that conv2d returned.
    weight : array (K, C // groups, R, S)
    input_shape : (N, C, H, W)
        x.shape, with N always.
    stride, padding, dilation, groups, algorithm, out
        As `conv2d`'s.

    Returns
    -------
    array (N, C, H, W), or (C, H, W) where grad_output is (K, P, Q)
        In grad_output's memory order.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`, and if grad_output does not have conv2d's output shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> g, w = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 2, 2), np.float32)
    >>> float(fc.conv2d_grad_input(g, w, (1, 1, 3, 3))[0, 0, 1, 1])
    4.0
    """
    name = "conv2d_grad_input"
    array = take(name, "grad_output", grad_output)
    grads = as_images(name, "grad_output", array)
    kernel, _ = _take_weight(name, weight, grads, groups, "grad_output")
    sizes = shape4(name, "input_shape", input_shape)
    geometry = _backward_geometry(
        name, grads, sizes, kernel.shape, stride, padding, dilation, groups
    )
    index = _algorithm_index(name, algorithm)
    single = array.ndim == 3
    if out is None:
        result = empty(sizes, grads.dtype, grads, kernel)
    else:
        inputs = {"grad_output": array, "weight": kernel}
        result = take_out(name, out, sizes[1:] if single else sizes, grads.dtype, inputs)
        result = result[None] if single else result
    _run(name, _GRAD_INPUT, result, kernel, grads, geometry, groups, index, algorithm)
    if out is not None:
        return out
    return give(result[0] if single else result, grad_output)


def conv2d_grad_weight(
    grad_output: Any,
    x: Any,
    weight_shape: Sequence[int],
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    algorithm: str = "auto",
    out: Any = None,
    accumulate: bool = False,
) -> Any:
    """The gradient of `conv2d` with respect to weight, summed over the batch.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x : array (N, C, H, W) or (C, H, W)
    weight_shape : (K, C // groups, R, S)
    stride, padding, dilation, groups, algorithm
        As `conv2d`'s.
    out : array of weight_shape, optional
    accumulate : bool
        Add to what `out` holds instead of overwriting it.

    Returns
    -------
    array (K, C // groups, R, S)
        C order unless `out` says otherwise.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`, and if grad_output does not have conv2d's output shape.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> g, x = np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 3, 3), np.float32)
    >>> float(fc.conv2d_grad_weight(g, x, (1, 1, 2, 2))[0, 0, 0, 0])
    4.0
    """
    name = "conv2d_grad_weight"
    array = take(name, "x", x)
    images = as_images(name, "x", array)
    given = take_like(name, "grad_output", grad_output, images, "x")
    grads = as_images(name, "grad_output", given)
    kernel_shape = shape4(name, "weight_shape", weight_shape)
    geometry = _backward_geometry(
        name, grads, images.shape, kernel_shape, stride, padding, dilation, groups
    )
    index = _algorithm_index(name, algorithm)
    if out is None:
        if accumulate:
            raise ValueError(f"{name}: accumulate=True adds to out, but out is None")
        result = np.empty(kernel_shape, images.dtype)
    else:
        inputs = {"x": array, "grad_output": given}
        result = take_out(name, out, kernel_shape, images.dtype, inputs)
    _run(name, _GRAD_WEIGHT, images, result, grads, geometry, groups, index, algorithm,
         accumulate=accumulate)  # fmt: skip
    return give(result, x) if out is None else out


def conv2d_grad_bias(grad_output: Any, *, out: Any = None, accumulate: bool = False) -> Any:
    """The gradient of `conv2d` with respect to bias: grad_output summed over N, P and Q.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    out : array (K,), optional
    accumulate : bool
        Add to what `out` holds.

    Returns
    -------
    array (K,)
    """
    name = "conv2d_grad_bias"
    given = take(name, "grad_output", grad_output)
    grads = as_images(name, "grad_output", given)
    if out is None:
        if accumulate:
            raise ValueError(f"{name}: accumulate=True adds to out, but out is None")
        result = np.empty(grads.shape[1], grads.dtype)
    else:
        result = take_out(name, out, grads.shape[1:2], grads.dtype, {"grad_output": given})
    _core.conv2d_grad_bias(grads, result, accumulate)
    return give(result, grad_output) if out is None else out


def conv2d_backward(
    grad_output: Any,
    x: Any,
    weight: Any,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: str | None = None,
    output: Any = None,
    need: Sequence[str] = ("input", "weight", "bias"),
) -> tuple[Any, Any, Any]:
    """All gradients of `conv2d`.

    Parameters
    ----------
    grad_output : array (N, K, P, Q) or (K, P, Q)
    x : array (N, C, H, W) or (C, H, W)
    weight : array (K, C // groups, R, S)
    stride, padding, dilation, groups
        As `conv2d`'s.
    activation : None or "relu"
        As in the forward call; "relu" needs `output`.
    output : array of grad_output's shape
        What the forward call returned: where it is not positive, no gradient passes.
    need : sequence of "input", "weight", "bias"
        Which gradients to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        None where not needed. grad_input has x's memory order, grad_weight weight's. The gradient
        of a `residual` is grad_output after the activation's mask.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`.
    """
    name = "conv2d_backward"
    unknown = set(need) - {"input", "weight", "bias"}
    if unknown:
        raise ValueError(
            f'{name}: need has {sorted(unknown)}; the names are "input", "weight", "bias"'
        )
    array = take(name, "x", x)
    kernel, _ = _take_weight(name, weight, as_images(name, "x", array), groups)
    given = take_like(name, "grad_output", grad_output, array, "x")
    if _is_relu(name, activation):
        if output is None:
            raise ValueError(f'{name}: activation="relu" needs output, what conv2d returned')
        forward = take_like(name, "output", output, array, "x")
        check_shape(name, "output", forward, given.shape, "grad_output's shape")
        given = _relu_mask(given, forward)
    problem: dict[str, Any] = {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
    }  # fmt: skip
    grad_input = grad_weight = grad_bias = None
    if "input" in need:
        shape = as_images(name, "x", array).shape
        single = array.ndim == 3
        grad_input = empty_like_order(shape, array[None] if single else array)
        grad_input = grad_input[0] if single else grad_input
        conv2d_grad_input(given, kernel, shape, out=grad_input, **problem)
    if "weight" in need:
        grad_weight = empty_like_order(kernel.shape, kernel)
        conv2d_grad_weight(given, array, kernel.shape, out=grad_weight, **problem)
    if "bias" in need:
        grad_bias = conv2d_grad_bias(given)
    wrapped = (None if g is None else give(g, x) for g in (grad_input, grad_weight, grad_bias))
    return tuple(wrapped)  # type: ignore[return-value]


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
    added = None if residual is None else take("conv1d", "residual", residual)[..., None, :]
    target = None if out is None else take("conv1d", "out", out)[..., None, :]
    result = conv2d(
        array[..., None, :], kernel[:, :, None, :], bias, stride=(1, stride),
        padding=beside(padding), dilation=(1, dilation), groups=groups, activation=activation,
        residual=added, algorithm=algorithm, out=target,
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


# ---- what the functions above share --------------------------------------------------------------


def shape4(function: str, name: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    try:
        sizes = tuple(int(size.__index__()) for size in shape)
    except (TypeError, AttributeError):
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 0:
        raise ValueError(f"{function}: {name} is {shape!r}; wanted four sizes of 0 or more")
    return sizes


def beside(padding: Any) -> Any:
    """Padding along L as padding along W, none along H."""
    if isinstance(padding, str):
        return padding
    if hasattr(padding, "__index__"):
        return (0, 0), (padding, padding)
    ends = tuple(padding)
    return (0, 0), ends if len(ends) == 2 else (ends[0], ends[0])


def _take_weight(
    function: str, weight: Any, x: Array, groups: int, beside_name: str = "x"
) -> tuple[Array, Array | None]:
    """The kernel as an array, and its packed form if that fits this call."""
    packed = None
    if type(weight) is PackedWeight:
        if weight.groups == groups and weight.isa == _core.current_isa():
            packed = weight.packed
        weight = weight.weight
    kernel = take_like(function, "weight", weight, x, beside_name)
    _check_weight(function, kernel)
    return kernel, packed


def _check_weight(function: str, kernel: Array) -> None:
    if kernel.ndim != 4:
        raise ValueError(
            f"{function}: weight has {kernel.ndim} dimensions (shape {kernel.shape}); "
            f"wanted (K, C // groups, R, S)"
        )
    if kernel.shape[2] < 1 or kernel.shape[3] < 1:
        raise ValueError(f"{function}: weight has shape {kernel.shape}: a kernel without taps")


def _check_channels(
    function: str, x_shape: Sequence[int], weight_shape: Sequence[int], groups: int
) -> None:
    channels, filters = x_shape[1], weight_shape[0]
    if type(groups) is not int and not hasattr(groups, "__index__"):
        raise TypeError(f"{function}: groups is {groups!r}; wanted an int")
    if groups < 1:
        raise ValueError(f"{function}: groups is {groups}; wanted at least 1")
    if weight_shape[1] * groups != channels:
        plural = "group" if groups == 1 else "groups"
        raise ValueError(
            f"{function}: weight has {weight_shape[1]} input channels x {groups} {plural}, but x "
            f"has {channels} channels (shape {tuple(x_shape)})"
        )
    if filters % groups:
        raise ValueError(
            f"{function}: weight has {filters} filters, which {groups} groups do not divide"
        )


def _take_bias(function: str, bias: Any, x: Array, filters: int) -> Array:
    vector = take_like(function, "bias", bias, x, "x")
    check_shape(function, "bias", vector, (filters,), "(K,) of the weight")
    return vector if vector.flags.c_contiguous else np.ascontiguousarray(vector)


def _is_relu(function: str, activation: str | None) -> bool:
    if activation is None:
        return False
    if activation != "relu":
        raise ValueError(f'{function}: activation is {activation!r}; wanted None or "relu"')
    return True


def _algorithm_index(function: str, algorithm: str) -> int:
    if algorithm == "auto":
        return -1
    try:
        return _ALGORITHMS[algorithm]
    except (KeyError, TypeError):
        names = ", ".join(_ALGORITHMS)
        raise ValueError(
            f"{function}: algorithm is {algorithm!r}; the names are auto, {names}"
        ) from None


def _backward_geometry(
    function: str,
    grads: Array,
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Geometry:
    _check_channels(function, input_shape, weight_shape, groups)
    size, kernel = (input_shape[2], input_shape[3]), (weight_shape[2], weight_shape[3])
    geometry = window_geometry(function, size, kernel, stride, padding, dilation)
    wanted = (input_shape[0], weight_shape[0], *geometry.output)
    check_shape(function, "grad_output", grads, wanted, "conv2d's output shape here")
    return geometry


def _relu_mask(grad_output: Array, output: Array) -> Array:
    from .activation import relu_backward

    masked: Array = relu_backward(grad_output, output)
    return masked


def _run(
    function: str,
    direction: int,
    x: Array,
    weight: Array,
    y: Array,
    geometry: Geometry,
    groups: int,
    index: int,
    algorithm: str,
    packed: Array | None = None,
    bias: Array | None = None,
    residual: Array | None = None,
    relu: bool = False,
    accumulate: bool = False,
) -> None:
    numbers = geometry.numbers(groups)
    try:
        _core.conv2d(
            direction, x, weight, y, packed, bias, residual, numbers, relu, accumulate, index
        )
    except ValueError as error:
        raise ValueError(
            f"{function}: algorithm {algorithm!r} cannot do this problem: {error}"
        ) from None
