"""The calls that are timed: one problem on random tensors by fastconv and by PyTorch.

``prepare(problem, dtype)`` gives sets of operands (several, so that calls may rotate through them)
and functions of a set: ``ours`` and ``theirs`` compute the same. ``families`` has what is no layer
of a network's table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fastconv as fc
import torch
import torch.nn.functional as F
from fastconv.ops.elementwise import empty_like

from ..operations.convolution import Convolution
from ..operations.linear import Linear
from ..operations.pooling import Pooling
from ..problems import Problem

DEVICE = "cuda"
LARGEST_SET = 1 << 30  # bytes: beyond it one set of operands is enough


@dataclass
class Prepared:
    """One problem in one dtype, ready to be called."""

    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    sets: list[Any]
    bytes_moved: int
    flops: int
    direction: str = ""  # of fc.cuda.kernels, where kernels can be forced
    plan: Callable[[Any], Any] | None = None  # fc.explain of ours
    exact: Callable[[Any], Any] | None = None  # of operands in a wider type; theirs if not given
    check: Callable[[Any, Any], float] | None = None  # (result, operands) -> error, beside exact
    in_place: bool = False  # a call changes its operands


def device() -> str:
    """Where operands are; a function, so that tests may move it."""
    return DEVICE


def images(*shape: int, dtype: torch.dtype, relu: bool = False, scale: float = 1.0) -> torch.Tensor:
    """Random normal images, channels last."""
    x = torch.randn(*shape, device=device(), dtype=torch.float32) * scale
    x = x.clamp_min(0) if relu else x
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def prepare(problem: Problem, dtype: torch.dtype) -> Prepared:
    """The problem's calls; a LookupError where there is none for it."""
    shape = problem.shape
    if isinstance(shape, Convolution):
        prepared = _convolution(problem, shape, dtype)
    elif isinstance(shape, Pooling):
        prepared = _pooling(problem, shape, dtype)
    elif isinstance(shape, Linear):
        prepared = _linear(problem, shape, dtype)
    else:
        raise LookupError(type(shape).__name__)
    prepared.bytes_moved = problem.bytes_moved * dtype.itemsize // 4
    prepared.flops = 2 * problem.macs
    return prepared


def several(make: Callable[[], Any], size: int) -> list[Any]:
    return [make() for _ in range(1 if size > LARGEST_SET else 2)]


def _convolution(problem: Problem, shape: Convolution, dtype: torch.dtype) -> Prepared:
    n, direction = problem.batch, problem.direction
    x_shape = (n, shape.channels, *shape.size)
    w_shape = (shape.filters, shape.channels // shape.groups, *shape.kernel)
    y_shape = (n, shape.filters, *shape.output_size)
    spread = (2 / shape.depth) ** 0.5
    geometry = {
        "stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation,
        "groups": shape.groups,
    }  # fmt: skip
    their = ([*shape.stride], [*shape.padding], [*shape.dilation], False, [0, 0], shape.groups)

    def make() -> dict[str, torch.Tensor]:
        operands = {"w": images(*w_shape, dtype=dtype, scale=spread)}
        if direction != "grad_input":
            operands["x"] = images(*x_shape, dtype=dtype, relu=True)
        if direction != "forward":
            operands["g"] = images(*y_shape, dtype=dtype)
        return operands

    plan = lambda o: fc.explain(fc.conv2d, o["x"], o["w"], **geometry)  # noqa: E731
    if direction == "forward":
        ours = lambda o: fc.conv2d(o["x"], o["w"], **geometry)  # noqa: E731
        theirs = lambda o: F.conv2d(o["x"], o["w"], None, **geometry)  # noqa: E731
    elif direction == "grad_input":
        # PyTorch wants an input, of which it reads shape and memory order alone.
        like_x = images(*x_shape, dtype=dtype)
        ours = lambda o: fc.conv2d_grad_input(o["g"], o["w"], x_shape, **geometry)  # noqa: E731
        plan = lambda o: fc.explain(fc.conv2d_grad_input, o["g"], o["w"], x_shape, **geometry)  # noqa: E731
        theirs = lambda o: torch.ops.aten.convolution_backward(  # noqa: E731
            o["g"], like_x.to(o["g"].dtype), o["w"], None, *their, [True, False, False]
        )[0]
    elif direction == "grad_weight":
        # As layers ask for it, and PyTorch answers: in the weight's own memory order.
        ours = lambda o: fc.conv2d_grad_weight(  # noqa: E731
            o["g"], o["x"], w_shape, out=_like(o["w"]), **geometry
        )
        plan = lambda o: fc.explain(fc.conv2d_grad_weight, o["g"], o["x"], w_shape, **geometry)  # noqa: E731
        theirs = lambda o: torch.ops.aten.convolution_backward(  # noqa: E731
            o["g"], o["x"], o["w"], None, *their, [False, True, False]
        )[1]
    else:
        raise LookupError(direction)
    sets = several(make, 2 * problem.bytes_moved)
    return Prepared(ours, theirs, sets, 0, 0, direction, plan)


def _like(array: Any) -> Any:
    """A new array of its shape, dtype and memory order."""
    return torch.empty_like(array) if isinstance(array, torch.Tensor) else empty_like(array)


def _pooling(problem: Problem, shape: Pooling, dtype: torch.dtype) -> Prepared:
    n, direction = problem.batch, problem.direction
    x_shape = (n, shape.channels, *shape.size)
    y_shape = (n, shape.channels, *shape.output_size)
    maximum = shape.mode == "max"
    window = {"stride": shape.stride, "padding": shape.padding, "ceil_mode": shape.ceil_mode}
    size = list(shape.kernel)

    def make() -> dict[str, torch.Tensor]:
        x = images(*x_shape, dtype=dtype)
        if direction != "backward":
            return {"x": x}
        operands = {"x": x, "g": images(*y_shape, dtype=dtype)}
        if maximum:
            pooled = F.max_pool2d(x, size, return_indices=True, **window)
            operands["i"] = pooled[1]
        return operands

    their = ([*shape.stride], [*shape.padding])
    if direction == "forward":
        if maximum:
            ours = lambda o: fc.max_pool2d(o["x"], shape.kernel, **window)  # noqa: E731
            theirs = lambda o: F.max_pool2d(o["x"], size, **window)  # noqa: E731
        else:
            ours = lambda o: fc.avg_pool2d(o["x"], shape.kernel, **window)  # noqa: E731
            theirs = lambda o: F.avg_pool2d(o["x"], size, **window)  # noqa: E731
    elif direction == "forward_indices":
        ours = lambda o: fc.max_pool2d(o["x"], shape.kernel, return_indices=True, **window)[0]  # noqa: E731
        theirs = lambda o: F.max_pool2d(o["x"], size, return_indices=True, **window)[0]  # noqa: E731
    elif maximum:
        ours = lambda o: fc.max_pool2d_backward(o["g"], o["i"], x_shape, shape.kernel, **window)  # noqa: E731
        theirs = lambda o: torch.ops.aten.max_pool2d_with_indices_backward(  # noqa: E731
            o["g"], o["x"], size, *their, [1, 1], shape.ceil_mode, o["i"]
        )
    else:
        ours = lambda o: fc.avg_pool2d_backward(o["g"], x_shape, shape.kernel, **window)  # noqa: E731
        theirs = lambda o: torch.ops.aten.avg_pool2d_backward(  # noqa: E731
            o["g"], o["x"], size, *their, shape.ceil_mode, True, None
        )
    return Prepared(ours, theirs, several(make, 2 * problem.bytes_moved), 0, 0)


def _linear(problem: Problem, shape: Linear, dtype: torch.dtype) -> Prepared:
    """Forward, or both gradients, which have a launch each."""
    n, forward = problem.batch, problem.direction == "forward"

    def make() -> dict[str, torch.Tensor]:
        x = torch.randn(n, shape.channels, device=device()).to(dtype)
        w = torch.randn(shape.filters, shape.channels, device=device()) / shape.channels**0.5
        operands = {"x": x, "w": w.to(dtype)}
        if not forward:
            operands["g"] = torch.randn(n, shape.filters, device=device()).to(dtype)
        return operands

    sets = several(make, 2 * problem.bytes_moved)
    if forward:
        ours = lambda o: fc.linear(o["x"], o["w"])  # noqa: E731
        return Prepared(ours, lambda o: F.linear(o["x"], o["w"]), sets, 0, 0)
    need = ("input", "weight")
    return Prepared(
        lambda o: fc.linear_backward(o["g"], o["x"], o["w"], need=need)[:2],
        lambda o: (o["g"] @ o["w"], o["g"].t() @ o["x"]),
        sets, 0, 0,
    )  # fmt: skip
