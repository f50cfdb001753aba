"""What the graph knows of each operation: output shape, multiply-adds, window, what training keeps.

The shape formulas are those of ``fastconv.ops`` (one formula, in C++); here they are only called.
Multiply-adds count convolutions, transposed convolutions and linear layers, padding included,
biases and everything else not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fastconv import ops
from fastconv.ops.pool_arguments import adaptive_size

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
# One axis of a window: (extent in input elements, stride); None: the whole axis.
Window = tuple[int, Fraction] | None


def _no_cost(inputs: Sequence[Shape], output: Shape, attributes: Attributes) -> int:
    return 0


def _no_bytes(output: Shape, attributes: Attributes) -> int:
    return 0


def _point(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    return (1, Fraction(1)), (1, Fraction(1))


def _whole(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    return None, None


@dataclass(frozen=True)
class Rule:
    """``window`` gives the receptive field's growth; ``keeps_*`` what backward holds in
    training."""

    shape: Callable[[Sequence[Shape], Attributes], Shape]
    multiply_adds: Callable[[Sequence[Shape], Shape, Attributes], int] = _no_cost
    window: Callable[[Sequence[Shape], Attributes], tuple[Window, Window]] = _point
    keeps_input: bool = False
    keeps_output: bool = False
    extra_bytes: Callable[[Shape, Attributes], int] = _no_bytes
    is_view: bool = False


def _pair(value: Any) -> tuple[int, int]:
    try:
        number = operator.index(value)
    except TypeError:
        return int(value[0]), int(value[1])
    return number, number


def _same(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    return inputs[0]


def _declared(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    return tuple(attributes["shape"])


def _equal(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    for shape in inputs[1:]:
        if shape != inputs[0]:
            raise ValueError(
                f"shapes {inputs[0]} and {shape} differ, but they are combined element by element"
            )
    return inputs[0]


def _concatenated(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    first = inputs[0]
    for shape in inputs[1:]:
        if shape[:1] + shape[2:] != first[:1] + first[2:]:
            raise ValueError(
                f"shapes {first} and {shape} differ beyond the channels, but they are concatenated"
            )
    return (first[0], sum(shape[1] for shape in inputs), *first[2:])


def _flattened(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    return (inputs[0][0], math.prod(inputs[0][1:]))


def _image(shape: Shape) -> Shape:
    if len(shape) != 4:
        raise ValueError(f"an image (N, C, H, W) is needed, but the input has shape {shape}")
    return shape


def _conv2d(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    names = ("stride", "padding", "dilation")
    geometry = {name: attributes[name] for name in names}
    shape, weight, groups = _image(inputs[0]), attributes["weight_shape"], attributes["groups"]
    if shape[1] != weight[1] * groups:
        raise ValueError(
            f"weight has {weight[1]} input channels x {groups} group{'s' if groups > 1 else ''}, "
            f"but the input has {shape[1]} channels (shape {shape})"
        )
    return tuple(ops.conv2d_output_shape(shape, weight, **geometry))


def _conv_cost(inputs: Sequence[Shape], output: Shape, attributes: Attributes) -> int:
    return math.prod(output) * int(math.prod(attributes["weight_shape"][1:]))


def _conv_window(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    kernel = attributes["weight_shape"][2:]
    stride, dilation = _pair(attributes["stride"]), _pair(attributes["dilation"])
    height, width = (
        ((kernel[axis] - 1) * dilation[axis] + 1, Fraction(stride[axis])) for axis in (0, 1)
    )
    return height, width


def _conv_transpose2d(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    shape, weight, groups = _image(inputs[0]), attributes["weight_shape"], attributes["groups"]
    if shape[1] != weight[0]:
        raise ValueError(
            f"weight has {weight[0]} input channels, but the input has {shape[1]} (shape {shape})"
        )
    stride, dilation = _pair(attributes["stride"]), _pair(attributes["dilation"])
    padding, extra = _pair(attributes["padding"]), _pair(attributes["output_padding"])
    size = [
        (shape[2 + a] - 1) * stride[a]
        - 2 * padding[a]
        + dilation[a] * (weight[2 + a] - 1)
        + 1
        + extra[a]
        for a in (0, 1)
    ]
    if min(size) < 1:
        raise ValueError(f"input {shape[2]}x{shape[3]} gives an output of {size[0]}x{size[1]}")
    return (shape[0], weight[1] * groups, *size)


def _conv_transpose_cost(inputs: Sequence[Shape], output: Shape, attributes: Attributes) -> int:
    return math.prod(inputs[0]) * int(math.prod(attributes["weight_shape"][1:]))


def _conv_transpose_window(
    inputs: Sequence[Shape], attributes: Attributes
) -> tuple[Window, Window]:
    # An output element meets at most ceil(extent / stride) inputs; the next is 1 / stride away.
    (height, width), stride = _conv_window(inputs, attributes), _pair(attributes["stride"])
    assert height is not None
    assert width is not None
    return (
        (-(-height[0] // stride[0]), Fraction(1, stride[0])),
        (-(-width[0] // stride[1]), Fraction(1, stride[1])),
    )


def _pool2d(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    names = ("stride", "padding", "dilation", "ceil_mode")
    geometry = {name: attributes[name] for name in names if name in attributes}
    return tuple(ops.pool2d_output_shape(_image(inputs[0]), attributes["kernel_size"], **geometry))


def _pool_window(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    kernel = _pair(attributes["kernel_size"])
    stride = _pair(attributes["kernel_size" if attributes["stride"] is None else "stride"])
    dilation = _pair(attributes.get("dilation", 1))
    return (
        ((kernel[0] - 1) * dilation[0] + 1, Fraction(stride[0])),
        ((kernel[1] - 1) * dilation[1] + 1, Fraction(stride[1])),
    )


def _adaptive(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    n, c, h, w = _image(inputs[0])
    return (n, c, *adaptive_size("adaptive_avg_pool2d", attributes["output_size"], (h, w)))


def _adaptive_window(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    sizes = zip(inputs[0][2:], _adaptive(inputs, attributes)[2:], strict=True)
    height, width = (
        None
        if out == 1
        else (
            max(-(-(i + 1) * have // out) - i * have // out for i in range(out)),
            Fraction(have, out),
        )
        for have, out in sizes
    )
    return height, width


def _global(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    return (*_image(inputs[0])[:2], 1, 1)


def _linear(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    shape, (out_features, in_features) = inputs[0], attributes["weight_shape"]
    if shape[-1] != in_features or len(shape) != 2:
        raise ValueError(f"weight takes (N, {in_features}), but the input has shape {shape}")
    return (shape[0], out_features)


def _linear_cost(inputs: Sequence[Shape], output: Shape, attributes: Attributes) -> int:
    return math.prod(output) * int(attributes["weight_shape"][1])


def _padded_shortcut(inputs: Sequence[Shape], attributes: Attributes) -> Shape:
    n, _, h, w = _image(inputs[0])
    step = attributes["stride"]
    return (n, attributes["channels"], -(-h // step), -(-w // step))


def _sampled(inputs: Sequence[Shape], attributes: Attributes) -> tuple[Window, Window]:
    step = Fraction(attributes["stride"])
    return (1, step), (1, step)


def _index_bytes(output: Shape, attributes: Attributes) -> int:
    return 8 * math.prod(output)  # int64


def _statistics_bytes(output: Shape, attributes: Attributes) -> int:
    return 2 * 4 * output[1]  # mean and 1 / standard deviation


def _pointwise(**keeps: bool) -> Rule:
    return Rule(_same, **keeps)  # type: ignore[arg-type]


RULES: dict[str, Rule] = {
    "input": Rule(_declared),
    "custom": Rule(_declared, keeps_input=True),
    "conv2d": Rule(_conv2d, _conv_cost, _conv_window, keeps_input=True),
    "conv_transpose2d": Rule(
        _conv_transpose2d, _conv_transpose_cost, _conv_transpose_window, keeps_input=True
    ),
    "linear": Rule(_linear, _linear_cost, _whole, keeps_input=True),
    "max_pool2d": Rule(_pool2d, window=_pool_window, extra_bytes=_index_bytes),
    "avg_pool2d": Rule(_pool2d, window=_pool_window),
    "adaptive_avg_pool2d": Rule(_adaptive, window=_adaptive_window),
    "global_avg_pool2d": Rule(_global, window=_whole),
    "batch_norm": Rule(_same, keeps_input=True, extra_bytes=_statistics_bytes),
    "local_response_norm": _pointwise(keeps_input=True),
    "relu": _pointwise(keeps_output=True),
    "sigmoid": _pointwise(keeps_output=True),
    "tanh": _pointwise(keeps_output=True),
    "softmax": _pointwise(keeps_output=True),
    "dropout": _pointwise(),
    "flatten": Rule(_flattened, is_view=True),
    "position_bias": _pointwise(),
    "add": Rule(_equal),
    "multiply": Rule(_equal, keeps_input=True),
    "highway": Rule(_equal, keeps_input=True),
    "concat": Rule(_concatenated),
    "zero_padded_shortcut": Rule(_padded_shortcut, window=_sampled),
}
