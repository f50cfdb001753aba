"""Which gradients a layer computes, and where they go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv import ops
from fastconv.layers.parameter import Parameter


def needed(need_input: bool, weight: Parameter | None, bias: Parameter | None) -> tuple[str, ...]:
    """The ``need`` argument of the backward functions."""
    wanted = (
        ("input", need_input),
        ("weight", weight is not None and weight.requires_grad),
        ("bias", bias is not None and bias.requires_grad),
    )
    return tuple(name for name, want in wanted if want)


def with_batch(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape`` as an ``input_shape`` argument, which has N: 1 for one image (C, H, W)."""
    return (1, *shape) if len(shape) == 3 else tuple(shape)


def accumulate(parameter: Parameter | None, grad: Any) -> None:
    """Add ``grad`` to the parameter's gradient, where there are both."""
    if parameter is not None and grad is not None and parameter.requires_grad:
        parameter.accumulate(grad)


def accumulate_bias(bias: Parameter | None, grad_y: Any) -> None:
    """Add the sum of ``grad_y`` (N, K, P, Q) over N, P and Q to the bias's gradient (K,)."""
    if bias is not None and bias.requires_grad:
        bias.accumulate_from(
            lambda out, accumulate: ops.conv2d_grad_bias(grad_y, out=out, accumulate=accumulate)
        )
