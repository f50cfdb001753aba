"""Layers one after another, a ReLU in the pass over memory of the layer before it.

A layer that can take a ReLU into its pass defines ``forward_relu(x, relu)`` beside ``forward(x)``:
it returns relu(forward(x)) and gives the ReLU what its backward needs, ``relu.save(y)``, or
``relu.save(None)`` where the layer's own backward does the ReLU's part.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, cast

from fastconv.graph import Value
from fastconv.layers.activation import ReLU
from fastconv.layers.base import Layer


@functools.cache
def _takes_relu(kind: Any) -> bool:
    """Whether the class that defines ``forward`` defines ``forward_relu`` too: one that overrides
    ``forward`` alone must be called by it."""
    for base in kind.__mro__:
        if "forward" in vars(base):
            return "forward_relu" in vars(base)
    return False


def steps(layers: Iterable[Layer]) -> Iterator[tuple[Layer, ReLU | None]]:
    """The layers in order, each with the ReLU that follows it if one pass can do both."""
    waiting: Layer | None = None
    for layer in layers:
        if waiting is None:
            waiting = layer
        elif (
            type(layer) is ReLU
            and _takes_relu(cast("Hashable", type(waiting)))
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


def lower(layers: Iterable[Layer], x: Value) -> Any:
    """The layers on a graph's value."""
    for layer, relu in steps(layers):
        x = x.graph.call(layer, x)
        if relu is not None:
            x = x.graph.call(relu, x)
            if layer.finds_relu_mask:
                x.graph.not_kept.add(x.index)
    return x
