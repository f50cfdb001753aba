"""A call of a convolution that is described, not made: for `explain` and `verify`.

Its operands are arrays or only their shapes, by position or by name. They are checked as the call
itself checks them, and lie in memory as they would there: arrays as they are, shapes in one order.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, ops
from .ops.arguments import is_relu, take_flag
from .ops.arrays import (
    Array,
    as_images,
    prefers_channels_last,
    take,
    take_like,
    take_out,
)
from .ops.conv_problem import (
    FORWARD,
    GRAD_INPUT,
    GRAD_WEIGHT,
    PackedWeight,
    algorithm_index,
    refused,
    shape4,
    sizes_of,
)
from .ops.conv_transpose import sizes_of_transpose
from .ops.devices import on_device
from .precision import allows_wide_tiles

DIRECTIONS = {
    "conv2d": FORWARD,
    "conv2d_grad_input": GRAD_INPUT,
    "conv2d_grad_weight": GRAD_WEIGHT,
    "conv_transpose2d": GRAD_INPUT,  # with x in the place of grad_output
}
_WINDOW = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_RESULT = {FORWARD: 2, GRAD_INPUT: 0, GRAD_WEIGHT: 1}  # its place among input, weight and output

Shape = tuple[int, ...]


def arguments_of(
    asker: str, name: str, operands: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the function `name` is called with, by its names; `asker` is who wants to know."""
    signature = inspect.signature(getattr(ops, name))
    for option in options:
        if option not in signature.parameters:
            raise TypeError(f"{asker}: {name} has no argument {option!r}")
    try:
        return dict(signature.bind(*operands, **options).arguments)
    except TypeError as error:  # too many, too few, or one of them twice
        raise TypeError(f"{asker}: {name}: {error}") from None


@dataclass(frozen=True)
class DescribedCall:
    """The call as _core takes it: of input, weight and output one is the result.

    Attributes
    ----------
    function, algorithm : str
    direction, index : int
        FORWARD, GRAD_INPUT or GRAD_WEIGHT; the algorithm's number.
    input, weight, output, numbers : tuple of int
        Shapes, and the window.
    dtype, device : str, str or int
        Of the arrays, if there are some; of a CUDA device then its number.
    channels_last : bool
        Whether the images are.
    strides : list of tuple of int
        Of input, weight and output in elements, and of a residual.
    packed : bool
        Whether the weight is packed, so that the call can use it.
    """

    function: str
    algorithm: str
    direction: int
    index: int
    input: Shape
    weight: Shape
    output: Shape
    numbers: Shape
    dtype: str
    device: str | int
    channels_last: bool
    strides: list[Shape]
    packed: bool

    def plan(self, threads: int) -> dict[str, Any]:
        """What the CPU's kernels do."""
        try:
            return _core.conv2d_plan(
                self.direction, self.input, self.weight, self.output, self.numbers,
                self.dtype == "float64", self.channels_last, self.index, threads,
                allows_wide_tiles(), self.packed, self.strides,
            )  # fmt: skip
        except ValueError as error:
            raise refused(self.function, self.algorithm, error) from None


def describe(
    name: str,
    arguments: Mapping[str, Any],
    dtype: str = "float32",
    channels_last: bool = True,
    device: str | int = "cpu",
) -> DescribedCall:
    """The call of `name` with `arguments`; what follows is for operands that are shapes."""
    direction, operands = DIRECTIONS[name], _Operands(name, arguments, channels_last)
    window = {key: arguments.get(key, default) for key, default in _WINDOW.items()}
    images = operands.images("grad_output" if name == "conv2d_grad_input" else "x")
    pieces: list[Array | Shape]  # input, weight, output
    if name == "conv_transpose2d":
        weight, extra = operands.weight(), arguments.get("output_padding", 0)
        sizes = sizes_of_transpose(
            name, _shape(images), _shape(weight), **window, output_padding=extra
        )
        pieces = [sizes.output, weight, images]
    elif direction == FORWARD:
        weight = operands.weight()
        sizes = sizes_of(name, _shape(images), _shape(weight), **window)
        pieces = [images, weight, sizes.output]
    else:
        if direction == GRAD_INPUT:
            source = shape4(name, "input_shape", arguments["input_shape"])
            pieces = [source, operands.weight(), images]
        else:
            wanted = shape4(name, "weight_shape", arguments["weight_shape"])
            pieces = [images, wanted, operands.images("grad_output")]
        sizes = sizes_of(name, _shape(pieces[0]), _shape(pieces[1]), **window)
        _expect(name, "grad_output", pieces[2], sizes.output, "conv2d's output shape here")
    algorithm = arguments.get("algorithm", "auto")
    index = algorithm_index(name, algorithm)
    strides = operands.strides(pieces, _RESULT[direction], sizes.numbers[-1])
    first = operands.first
    if first is not None:
        dtype, device = first.dtype.name, first.device if on_device(first) else "cpu"
    x, kernel, y = map(_shape, pieces)
    return DescribedCall(
        name, algorithm, direction, index, x, kernel, y, sizes.numbers,
        _dtype_name(dtype, device), device, operands.last, strides,
        direction == FORWARD and _fits(arguments["weight"], sizes.numbers[-1]),
    )  # fmt: skip


def _dtype_name(dtype: Any, device: str | int) -> str:
    if isinstance(dtype, str) and dtype == "bfloat16":  # which NumPy knows through ml_dtypes only
        name = dtype
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = repr(dtype)
    if device == "cpu" and name not in ("float32", "float64"):
        raise TypeError(f"explain: dtype is {name}; on the CPU float32 and float64 have kernels")
    return name


class _Operands:
    """Arrays, of one dtype and device, or shapes."""

    def __init__(self, function: str, arguments: Mapping[str, Any], last: bool) -> None:
        self.function, self.arguments = function, arguments
        self.last = take_flag("explain", "channels_last", last)  # the order of shapes
        self.order: bool | None = last  # of the result, None where the images leave it open
        self.single = False
        self.first: Any = None
        self.first_name = ""

    def take(self, name: str, value: Any) -> Array | Shape:
        if is_shape(value):
            return tuple(int(size.__index__()) for size in value)
        if self.first is not None:
            return take_like(self.function, name, value, self.first, self.first_name)
        self.first, self.first_name = take(self.function, name, value), name
        return self.first

    def images(self, name: str) -> Array | Shape:
        taken = self.take(name, self.arguments[name])
        self.single = len(_shape(taken)) == 3
        if isinstance(taken, tuple):
            return shape4(self.function, name, (1, *taken) if self.single else taken)
        array = as_images(self.function, name, taken)
        if taken is self.first:
            self.order = prefers_channels_last(array)
            self.last = bool(self.order)
        return array

    def weight(self) -> Array | Shape:
        value = self.arguments["weight"]
        taken = self.take("weight", value.weight if type(value) is PackedWeight else value)
        if self.order is None and not isinstance(taken, tuple) and taken.ndim == 4:
            self.order = prefers_channels_last(taken)
        return taken

    def strides(self, pieces: list[Array | Shape], result: int, groups: int) -> list[Shape]:
        """Of the operands, the result and a residual, with a look at the other arguments."""
        name, arguments = self.function, self.arguments
        is_relu(name, arguments.get("activation"))
        take_flag(name, "accumulate", arguments.get("accumulate", False))
        filters = _shape(pieces[1])
        if (bias := arguments.get("bias")) is not None:
            wanted = filters[1] * groups if name == "conv_transpose2d" else filters[0]
            _expect(name, "bias", self.take("bias", bias), (wanted,), "(K,) of the weight")
        strides = [_strides(piece, self.last) for piece in pieces]
        shape = _shape(pieces[result])
        # A weight's gradient is made in C order.
        strides[result] = _strides(shape, result != 1 and bool(self.order))
        if self.single and result != 1:
            shape = shape[1:]
        residual, out = arguments.get("residual"), arguments.get("out")
        added: Any = None
        if residual is not None:
            added = self.take("residual", residual)
            _expect(name, "residual", added, shape, "the result's")
        if out is not None:
            target: Any = self.take("out", out)
            _expect(name, "out", target, shape, "the result's shape")
            if not isinstance(target, tuple):
                beside = None if isinstance(added, tuple) else added
                take_out(name, target, shape, target.dtype, {}, beside)
                strides[result] = _strides(_four(target), self.last)
        if added is not None:
            own = strides[result] if isinstance(added, tuple) else _strides(_four(added), self.last)
            if result == 2 or _alike(shape, own, strides[result]):  # else it is added afterwards
                strides.append(own)
        return strides


def is_shape(operand: Any) -> bool:
    return isinstance(operand, Sequence) and all(hasattr(n, "__index__") for n in operand)


def _shape(operand: Array | Shape) -> Shape:
    return operand if isinstance(operand, tuple) else tuple(operand.shape)


def _four(array: Array) -> Array:
    return array if array.ndim == 4 else array[None]


def _strides(operand: Array | Shape, last: bool) -> Shape:
    """In elements; of a shape channels last or in C order."""
    if not isinstance(operand, tuple):
        return tuple(stride // operand.itemsize for stride in operand.strides)
    _, c, h, w = operand
    return (c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1)


def _alike(shape: Shape, a: Shape, b: Shape) -> bool:
    return all(s == t for size, s, t in zip(shape[-3:], a[-3:], b[-3:], strict=True) if size > 1)


def _expect(function: str, name: str, operand: Array | Shape, wanted: Shape, why: str) -> None:
    if _shape(operand) != tuple(wanted):
        raise ValueError(
            f"{function}: {name} has shape {_shape(operand)}, but {why} is {tuple(wanted)}"
        )


def _fits(weight: Any, groups: int) -> bool:
    """Whether it is packed for these groups and this instruction set."""
    packed = type(weight) is PackedWeight and weight.packed is not None
    return packed and bool(weight.groups == groups and weight.isa == _core.current_isa())
