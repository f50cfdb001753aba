"""From a step of a program to a call of its kernel on memory that is given: `BINDERS`.

    binder(step, sources, result, place) -> a function without arguments that writes `result`

`sources` are the arrays of `step.inputs`, `residual` that of `step.residual`; `place` puts a
constant where the kernels are, in their dtype. Shapes were checked when the graph was made, so that
calls go to the kernels with as few checks as there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastconv import _core, ops
from fastconv.fusion import Step
from fastconv.graph import Shape
from fastconv.ops.conv_problem import (
    ALGORITHMS,
    AUTOMATIC,
    FORWARD,
    PackedWeight,
    Sizes,
    run,
    sizes_of,
)
from fastconv.ops.devices import kernels_for, new, on_device
from fastconv.ops.pool_arguments import AVERAGE, MAX, pool, windows_over
from fastconv.precision import allows_wide_tiles

Call = Callable[[], Any]
Place = Callable[..., Any]  # place(array), place(array, dtype)
Binder = Callable[[Step, list[Any], Any, Place], Call]


def bind(step: Step, sources: list[Any], residual: Any, result: Any, place: Place) -> Call:
    """The call of `step`.

    Raises
    ------
    TypeError
        If no rule is known for the operation; it names the layer.
    """
    if step.op == "conv2d":
        return _bind_conv2d(step, sources[0], residual, result, place)
    if step.op not in BINDERS:
        raise TypeError(
            f"compile: {step.layer} {step.path!r} computes its output itself, which no rule of "
            f"compile knows; give it a lower(x) that makes it of layers with rules, or call the "
            f"model"
        )
    return BINDERS[step.op](step, sources, result, place)


def _bind_conv2d(step: Step, x: Any, residual: Any, result: Any, place: Place) -> Call:
    weight, groups = step.constants["weight"], int(step.attributes["groups"])
    bias = step.constants.get("bias")
    call = partial(
        _conv2d,
        x,
        ops.pack_weight(ops.channels_last(place(weight)), groups=groups),
        result,
        _sizes_of(step, x.shape).numbers,
        None if bias is None else place(bias),
        residual,
        step.relu,
    )
    if step.pooled:
        return partial(call, pooled_by=algorithm_of(step, x.shape, x.dtype.name))
    return call


def _conv2d(
    x: Any,
    weight: PackedWeight,
    y: Any,
    numbers: tuple[int, ...],
    bias: Any,
    residual: Any,
    relu: bool,
    pooled_by: str = "",
) -> None:
    # Packed for the instruction set of then, which `fc.isa` may have changed.
    packed = weight.packed if weight.isa == _core.current_isa() else None
    if pooled_by:  # named, since only some algorithms pool
        _core.conv2d(FORWARD, x, weight.weight, y, packed, bias, residual, numbers,
                     relu, False, ALGORITHMS[pooled_by], pooled=True)  # fmt: skip
        return
    run("conv2d", FORWARD, x, weight.weight, y, numbers, AUTOMATIC, "auto",
        packed=packed, bias=bias, residual=residual, relu=relu)  # fmt: skip


def _bind_conv_transpose2d(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    names = ("stride", "padding", "output_padding", "dilation", "groups")
    weight, bias = _weight_and_bias(step, place)
    options = {name: step.attributes[name] for name in names}
    return partial(ops.conv_transpose2d, sources[0], weight, bias, **options, out=result)


def _bind_linear(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    weight, bias = _weight_and_bias(step, place)
    activation = "relu" if step.relu else None
    return partial(ops.linear, sources[0], weight, bias, activation=activation, out=result)


def _weight_and_bias(step: Step, place: Place) -> tuple[Any, Any]:
    bias = step.constants.get("bias")
    return place(step.constants["weight"]), None if bias is None else place(bias)


def _bind_pool2d(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    (x,), options = sources, step.attributes
    windows = windows_over(
        step.op, x.shape, options["kernel_size"], options["stride"], options["padding"],
        options.get("dilation", 1), options["ceil_mode"],
    )  # fmt: skip
    if step.op == "max_pool2d":
        return partial(pool, MAX, x, result, None, windows.numbers)
    return partial(
        pool, AVERAGE, x, result, None, windows.numbers, options["count_include_pad"],
        options["divisor_override"] or 0,
    )  # fmt: skip


def _bind_adaptive_average(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    return partial(pool, AVERAGE, sources[0], result, None, ())


def _bind_batch_norm(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    dtype = "float32" if on_device(result) else result.dtype.name
    channels = (result.shape[1],)
    mean, rstd = new(channels, dtype, result), new(channels, dtype, result)
    roles = ("weight", "bias", "running_mean", "running_var")
    vectors = [place(step.constants[role], dtype) for role in roles]
    return partial(
        kernels_for(result).batch_norm,
        sources[0], result, mean, rstd, *vectors, 1, False, 0.0, float(step.attributes["eps"]),
    )  # fmt: skip


def _bind_response_norm(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    size, *numbers = (step.attributes[name] for name in ("size", "alpha", "beta", "k"))
    kernel = kernels_for(result).local_response_norm
    return partial(kernel, sources[0], result, 1, int(size), *map(float, numbers))


def _bind_elementwise(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    return partial(getattr(kernels_for(result), step.op), *sources, result)


def _bind_softmax(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    axis = int(step.attributes["axis"]) % result.ndim
    return partial(kernels_for(result).softmax, sources[0], result, axis)


def _bind_position_bias(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    """An addition: the bias is spread over the batch once."""
    spread = np.broadcast_to(step.constants["bias"], result.shape)
    bias = place(spread)
    if result.ndim == 4:
        bias = ops.channels_last(bias)
    return partial(kernels_for(result).add, sources[0], bias, result)


def _bind_highway(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    x, transformed, gate = sources
    kernels = kernels_for(result)

    def highway() -> None:
        kernels.subtract(transformed, x, result)
        kernels.multiply(result, gate, result)
        kernels.add(result, x, result)

    return highway


def _bind_zero_padded_shortcut(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    (x,), stride, begin = sources, step.attributes["stride"], step.attributes["before"]
    end = begin + x.shape[1]
    sampled, zero = x[:, :, ::stride, ::stride], np.zeros((), result.dtype)

    def shortcut() -> None:
        for zeros in (result[:, :begin], result[:, end:]):
            copy(zeros, 0 if on_device(result) else np.broadcast_to(zero, zeros.shape))
        copy(result[:, begin:end], sampled)

    return shortcut


def _bind_flatten(step: Step, sources: list[Any], result: Any, place: Place) -> Call:
    """In the logical order of the axes, while images lie channels last."""
    return partial(copy, result.reshape(sources[0].shape), sources[0])


def copy(target: Any, source: Any) -> None:
    if on_device(target):
        target[...] = source
    else:
        _core.copy(source, target)


BINDERS: dict[str, Binder] = {
    "conv_transpose2d": _bind_conv_transpose2d,
    "linear": _bind_linear,
    "max_pool2d": _bind_pool2d,
    "avg_pool2d": _bind_pool2d,
    "adaptive_avg_pool2d": _bind_adaptive_average,
    "global_avg_pool2d": _bind_adaptive_average,
    "batch_norm": _bind_batch_norm,
    "local_response_norm": _bind_response_norm,
    "relu": _bind_elementwise,
    "sigmoid": _bind_elementwise,
    "tanh": _bind_elementwise,
    "add": _bind_elementwise,
    "softmax": _bind_softmax,
    "position_bias": _bind_position_bias,
    "multiply": _bind_elementwise,
    "highway": _bind_highway,
    "flatten": _bind_flatten,
    "zero_padded_shortcut": _bind_zero_padded_shortcut,
}


def kernel_of(step: Step, source: Any, dtype: str) -> str:
    """The algorithm that a convolution's plan takes, on a device with its kernel."""
    if step.op != "conv2d" or not math.prod(step.shape):
        return ""
    if not on_device(source):
        algorithm = algorithm_of(step, source.shape, dtype)
        return f"{algorithm} + max_pool2d" if step.pooled else algorithm
    from fastconv.explanation_cuda import explain_on_device

    return explain_on_device(
        "conv2d", FORWARD, source.device, source.shape, step.constants["weight"].shape,
        *_sizes_of(step, source.shape), dtype, True, AUTOMATIC,
    ).kernel  # fmt: skip


def algorithm_of(step: Step, x_shape: Shape, dtype: str) -> str:
    """The algorithm that a convolution takes on the CPU by itself."""
    return str(_plan_of(step, x_shape, dtype)["algorithm"])


def pools(step: Step, x_shape: Shape, dtype: str) -> bool:
    """Whether the convolution's algorithm takes maxima of 2x2: its tiles hold whole windows."""
    winograd = _plan_of(step, x_shape, dtype).get("winograd")
    return winograd is not None and winograd["m"] % 2 == 0


def _plan_of(step: Step, x_shape: Shape, dtype: str) -> dict[str, Any]:
    return _core.conv2d_plan(
        FORWARD, x_shape, step.constants["weight"].shape, *_sizes_of(step, x_shape),
        dtype == "float64", True, AUTOMATIC, _core.num_threads(), allows_wide_tiles(),
    )  # fmt: skip


def _sizes_of(step: Step, x_shape: Shape) -> Sizes:
    """Of a convolution, before pooling."""
    window = {name: step.attributes[name] for name in ("stride", "padding", "dilation")}
    groups = int(step.attributes["groups"])
    return sizes_of("conv2d", x_shape, step.constants["weight"].shape, **window, groups=groups)
