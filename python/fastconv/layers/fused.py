"""Layers one after another, a ReLU in the pass over memory of the layer before it, and the ends of
residual blocks.

A layer that can take a ReLU into its pass defines ``forward_relu(x, relu)`` beside ``forward(x)``:
it returns relu(forward(x)) and gives the ReLU what its backward needs, ``relu.save(y)``, or
``relu.save(None)`` where the layer's own backward does the ReLU's part.

Max pooling after a ReLU does the ReLU's part backward too: where a maximum is not positive no
gradient passes, and other elements get none. Its own output is the mask then, a quarter of the
ReLU's for windows of 2 x 2.

relu(body(x) + shortcut(x)) takes one pass at its end where the body's last layer defines
``forward_add_relu(x, side)``, relu(forward(x) + side), and backward where it defines
``backward_add_relu(grad_y, y)``, which returns the gradients of x and side from the output y.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, cast

from fastconv import ops
from fastconv.graph import Value
from fastconv.layers.activation import ReLU
from fastconv.layers.arithmetic import add, add_relu, has_cpu_kernels
from fastconv.layers.base import Layer
from fastconv.layers.pooling import MaxPool2d


@functools.cache
def _defines_both(kind: Any, method: str, joined: str) -> bool:
    """Whether the class that defines ``method`` defines ``joined`` too: one that overrides
    ``method`` alone must be called by it."""
    for base in kind.__mro__:
        if method in vars(base):
            return joined in vars(base)
    return False


def backward_plus(layer: Layer, grad_y: Any, other: Any) -> Any:
    """layer.backward(grad_y) + other, in the pass that writes the gradient where the layer defines
    ``backward_plus(grad_y, other)``."""
    kind = cast("Hashable", type(layer))
    if not _defines_both(kind, "backward", "backward_plus"):
        return add(layer.backward(grad_y), other)
    return layer.backward_plus(grad_y, other)  # type: ignore[attr-defined]


def adds_backward(layer: Layer) -> bool:
    """Whether ``backward_plus`` adds in the pass that writes the gradient."""
    kind = cast("Hashable", type(layer))
    return _defines_both(kind, "backward", "backward_plus") and layer.adds_backward


def steps(layers: Iterable[Layer]) -> Iterator[tuple[Layer, ReLU | None]]:
    """The layers in order, each with the ReLU that follows it if one pass can do both."""
    waiting: Layer | None = None
    for layer in layers:
        if waiting is None:
            waiting = layer
        elif (
            type(layer) is ReLU
            and _defines_both(cast("Hashable", type(waiting)), "forward", "forward_relu")
            and layer.training == waiting.training
        ):
            yield waiting, layer
            waiting = None
        else:
            yield waiting, None
            waiting = layer
    if waiting is not None:
        yield waiting, None


def call(layer: Layer, relu: ReLU | None, x: Any) -> Any:
    """One of ``steps``."""
    return layer(x) if relu is None else layer.call_relu(x, relu)


def forward(layers: Iterable[Layer], x: Any) -> Iterator[tuple[Any, int]]:
    """Run the layers; yields after each step its output and how many layers it was."""
    before: Layer | None = None
    for layer, relu in steps(layers):
        x = call(layer, relu, x)
        if _pool_masks(before, layer) and before.saved()[0] is not None:  # type: ignore[union-attr]
            before.save(None)  # type: ignore[union-attr]
            layer.mask_by(x)  # type: ignore[attr-defined]
        before = relu or layer
        yield x, 1 if relu is None else 2


def _pool_masks(before: Layer | None, layer: Layer) -> bool:
    return type(before) is ReLU and type(layer) is MaxPool2d and before.training and layer.training


def forward_residual(body: Iterable[Layer], x: Any, shortcut: Layer | None, relu: ReLU) -> Any:
    """relu(body(x) + shortcut(x)), the shortcut by default x itself."""
    *parts, (last, after) = steps(body)
    y = x
    for layer, joined in parts:
        y = call(layer, joined, y)
    side = x if shortcut is None else shortcut(x)
    if (
        after is None
        and _defines_both(cast("Hashable", type(last)), "forward", "forward_add_relu")
        and last.training == relu.training
        and has_cpu_kernels(y, side)
    ):
        return last.call_add_relu(y, side)
    y = call(last, after, y)
    check_sides(y, side, shortcut)
    return add_relu(y, side)


def check_sides(y: Any, side: Any, shortcut: Layer | None) -> None:
    """Refuse a sum of two shapes."""
    if y.shape != side.shape:
        name = "the input" if shortcut is None else "the shortcut"
        raise ValueError(f"the body gives {y.shape}, but {name} has {side.shape}")


def backward_residual(
    body: Sequence[Layer], grad_y: Any, y: Any, shortcut: Layer | None, *, need_input: bool
) -> Any:
    """The gradient of x in ``forward_residual``, which returned y."""
    *before, last = body
    if (
        before
        and _defines_both(cast("Hashable", type(last)), "backward", "backward_add_relu")
        and has_cpu_kernels(grad_y, y)
    ):
        grad, side = last.backward_add_relu(grad_y, y)  # type: ignore[attr-defined]
    else:
        before, grad = list(body), ops.relu_backward(grad_y, y)
        side = grad
    if shortcut is not None:
        side = shortcut.backward(side, need_input=need_input)
    for layer in reversed(before[1:]):
        grad = layer.backward(grad)
    if not need_input:
        return before[0].backward(grad, need_input=False)
    return backward_plus(before[0], grad, side)


def lower(layers: Iterable[Layer], x: Value) -> Any:
    """The layers on a graph's value."""
    before: Layer | None = None
    for layer, relu in steps(layers):
        masks = type(before) is ReLU and type(layer) is MaxPool2d
        masks = masks and x.index not in x.graph.not_kept  # no layer before has done it
        if masks:
            x.graph.not_kept.add(x.index)
        x = x.graph.call(layer, x)
        if masks:  # the pool's output is the mask
            x.graph.kept.add(x.index)
        if relu is not None:
            x = x.graph.call(relu, x)
            if layer.finds_relu_mask:
                x.graph.not_kept.add(x.index)
        before = relu or layer
    return x
