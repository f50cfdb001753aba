"""Sequential: layers one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastconv import ops
from fastconv.errors import append_to_error
from fastconv.graph import Graph, Value
from fastconv.layers import fused
from fastconv.layers.arithmetic import add
from fastconv.layers.base import Layer


class Sequential(Layer):
    """Layers one after another. Images are converted to channels last once, at entry.

    Parameters
    ----------
    *layers : Layer
        Named "0", "1", ...; or one dict of name -> layer.

    Notes
    -----
    One image (C, H, W) gives a result without N too. ``model[2]``, ``model["conv1"]`` and
    ``model[:5]`` (a Sequential of the same layers) pick layers.

    Examples
    --------
    >>> import fastconv as fc
    >>> L = fc.layers
    >>> model = L.Sequential(L.Conv2d(3, 8, 3), L.ReLU(), L.GlobalAvgPool2d(), L.Flatten())
    >>> model.output_shape((2, 3, 32, 32))
    (2, 8)
    """

    def __init__(self, *layers: Any) -> None:
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = dict(layers[0])
        else:
            named = {str(index): layer for index, layer in enumerate(layers)}
        for name, layer in named.items():
            self.add(name, layer)

    def add(self, name: str, layer: Layer) -> None:
        """Append ``layer`` under ``name``."""
        if not isinstance(layer, Layer):
            raise TypeError(
                f"Sequential: {name!r} is a {type(layer).__name__}, but a Layer is needed"
            )
        if not name or "." in name:
            raise ValueError(f"Sequential: name {name!r} must not be empty or contain a dot")
        if name in self._layers or hasattr(type(self), name):
            raise ValueError(f"Sequential: name {name!r} is taken")
        setattr(self, name, layer)

    def append(self, layer: Layer) -> None:
        """Append ``layer`` under the next number."""
        self.add(str(len(self._layers)), layer)

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    def __getitem__(self, key: int | str | slice) -> Any:
        if isinstance(key, str):
            return self._layers[key]
        if isinstance(key, slice):
            part = Sequential()
            chosen = dict(list(self._layers.items())[key])
            part._layers.update(chosen)  # not by setattr: the layers keep their paths
            part.__dict__.update(chosen, training=self.training)
            return part
        return list(self._layers.values())[key]

    def forward(self, x: Any) -> Any:
        single = getattr(x, "ndim", 0) == 3
        if single:
            x = x[None]
        self.save(single)
        if x.ndim == 4:
            x = ops.channels_last(x)
        shape = x.shape
        done = 0
        try:
            for y, count in fused.forward(self._layers.values(), x):
                x, done = y, done + count
        except (TypeError, ValueError) as error:
            append_to_error(error, self._story(shape, done))
            raise
        return x[0] if single else x

    def _story(self, input_shape: tuple[int, ...], done: int) -> str:
        """The shapes up to the layer that failed."""
        steps = [f"input {input_shape}"]
        try:
            graph = Graph(input_shape)
            value = Value(graph, 0)
            for name, layer in list(self._layers.items())[:done]:
                value = graph.call(layer, value)
                steps.append(f"{name} {value.shape}")
        except Exception:  # the story must not hide the error it belongs to
            steps.append("...")
        return "Shapes so far: " + " -> ".join(steps)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (single,) = self.saved()
        grad = grad_y[None] if single else grad_y
        layers = list(self._layers.values())
        for layer in reversed(layers):
            grad = layer.backward(grad, need_input=need_input or layer is not layers[0])
        return grad[0] if single and grad is not None else grad

    @property
    def adds_backward(self) -> bool:
        return len(self) > 0 and fused.adds_backward(self[0])

    def backward_plus(self, grad_y: Any, other: Any) -> Any:
        """backward(grad_y) + other, if possible in the pass of the first layer's gradient."""
        (single,) = self.saved()
        layers = list(self._layers.values())
        if single or not layers:
            return add(self.backward(grad_y), other)
        grad = grad_y
        for layer in reversed(layers[1:]):
            grad = layer.backward(grad)
        return fused.backward_plus(layers[0], grad, other)

    def lower(self, x: Value) -> Any:
        return fused.lower(self._layers.values(), x)
