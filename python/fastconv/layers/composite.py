"""Layers made of layers: Sequential, Residual, Concat, Highway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

from fastconv import ops
from fastconv.errors import append_to_error
from fastconv.graph import Graph, Value
from fastconv.layers import fused
from fastconv.layers.activation import ReLU, Sigmoid
from fastconv.layers.arithmetic import (
    add,
    add_into,
    concatenate,
    multiply,
    multiply_into,
    subtract,
)
from fastconv.layers.base import Layer
from fastconv.ops.devices import on_device


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


class Residual(Layer):
    """y = body(x) + shortcut(x); without ``shortcut`` the input itself (He et al. 2015).

    Examples
    --------
    >>> import fastconv as fc
    >>> L = fc.layers
    >>> L.Residual(L.Conv2d(8, 8, 3, padding=1)).output_shape((1, 8, 16, 16))
    (1, 8, 16, 16)
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Any) -> Any:
        self.save(None, ())
        y = self.body(x)
        side = x if self.shortcut is None else self.shortcut(x)
        fused.check_sides(y, side, self.shortcut)
        return add(y, side)

    def forward_relu(self, x: Any, relu: ReLU) -> Any:
        body: tuple[Layer, ...] = (self.body,)
        if type(self.body) is Sequential and x.ndim == 4 and ops.is_channels_last(x):
            self.body.save(False)
            body = tuple(self.body) or body
        y = fused.forward_residual(body, x, self.shortcut, relu)
        self.save(y, body)
        relu.save(None)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        y, body = self.saved()
        if y is not None:  # of the ReLU after it
            return fused.backward_residual(body, grad_y, y, self.shortcut, need_input=need_input)
        side = grad_y
        if self.shortcut is not None:
            side = self.shortcut.backward(grad_y, need_input=need_input)
        if not need_input:
            return self.body.backward(grad_y, need_input=False)
        return fused.backward_plus(self.body, grad_y, side)

    def lower(self, x: Value) -> Value:
        y = x.graph.call(self.body, x)
        side = x if self.shortcut is None else x.graph.call(self.shortcut, x)
        return x.graph.add("add", (y, side))


class Concat(Layer):
    """The branches' results one after another along the channels (Szegedy et al. 2014).

    Parameters
    ----------
    *branches : Layer
        Named "0", "1", ...; or one dict of name -> layer.

    Examples
    --------
    >>> import fastconv as fc
    >>> L = fc.layers
    >>> L.Concat(L.Conv2d(8, 4, 1), L.Conv2d(8, 6, 3, padding=1)).output_shape((1, 8, 5, 5))
    (1, 10, 5, 5)
    """

    def __init__(self, *branches: Any) -> None:
        if len(branches) == 1 and isinstance(branches[0], Mapping):
            named = dict(branches[0])
        else:
            named = {str(index): branch for index, branch in enumerate(branches)}
        if not named:
            raise ValueError("Concat: at least one branch is needed")
        for name, branch in named.items():
            if not isinstance(branch, Layer):
                raise TypeError(
                    f"Concat: {name!r} is a {type(branch).__name__}, but a Layer is needed"
                )
            if not name or "." in name or hasattr(type(self), name):
                raise ValueError(
                    f"Concat: name {name!r} is taken by Concat itself, empty or has a dot"
                )
            setattr(self, name, branch)

    def forward(self, x: Any) -> Any:
        parts = [branch(x) for branch in self._layers.values()]
        for part in parts[1:]:
            if part.shape[:1] + part.shape[2:] != parts[0].shape[:1] + parts[0].shape[2:]:
                shapes = ", ".join(str(p.shape) for p in parts)
                raise ValueError(f"the branches' shapes differ beyond the channels: {shapes}")
        self.save(tuple(part.shape[1] for part in parts))
        return concatenate(parts)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (channels,) = self.saved()
        ends = accumulate(channels, initial=0)
        total = None
        for branch, (begin, end) in zip(self._layers.values(), pairwise(ends), strict=True):
            grad = branch.backward(grad_y[:, begin:end], need_input=need_input)
            total = grad if total is None else add(total, grad) if need_input else None
        return total

    def lower(self, x: Value) -> Value:
        parts = [x.graph.call(branch, x) for branch in self._layers.values()]
        return x.graph.add("concat", parts)


class Highway(Layer):
    """y = H(x) T(x) + x (1 - T(x)) with T = sigmoid(gate(x)) (Srivastava et al. 2015).

    Parameters
    ----------
    transform : Layer
        H, with its activation.
    gate : Layer
        Gives T before the sigmoid, which this layer applies itself. The paper starts its bias at -1
        to -4, so that at first most of the input is carried through.

    Examples
    --------
    >>> import fastconv as fc
    >>> L = fc.layers
    >>> layer = L.Highway(L.Sequential(L.Linear(50, 50), L.ReLU()), L.Linear(50, 50))
    >>> layer.gate.bias.data -= 2
    >>> layer.output_shape((4, 50))
    (4, 50)
    """

    def __init__(self, transform: Layer, gate: Layer) -> None:
        last = gate[-1] if isinstance(gate, Sequential) and len(gate) else gate
        if isinstance(last, Sigmoid):
            raise ValueError(
                "Highway: gate ends in a Sigmoid, but Highway applies the sigmoid itself"
            )
        self.transform = transform
        self.gate = gate

    def forward(self, x: Any) -> Any:
        h = self.transform(x)
        t = ops.sigmoid(self.gate(x))
        if h.shape != x.shape or t.shape != x.shape:
            raise ValueError(
                f"the input has {x.shape}, but transform gives {h.shape} and gate {t.shape}"
            )
        self.save(x, h, t)
        y = subtract(h, x)
        multiply_into(y, t)
        add_into(y, x)
        return y

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        x, h, t = self.saved()
        grad_h = multiply(grad_y, t)
        # Not the device's steps on the CPU: they would round otherwise and, by their memory order,
        # change the bits of the sums further back.
        here = not on_device(grad_y)
        grad_t = grad_y * (h - x) if here else multiply(grad_y, subtract(h, x))
        from_transform = self.transform.backward(grad_h, need_input=need_input)
        from_gate = self.gate.backward(ops.sigmoid_backward(grad_t, t), need_input=need_input)
        if not need_input:
            return None
        grad_x = grad_y * (1 - t) if here else subtract(grad_y, grad_h)
        add_into(grad_x, from_transform)
        add_into(grad_x, from_gate)
        return grad_x

    def lower(self, x: Value) -> Value:
        h = x.graph.call(self.transform, x)
        t = x.graph.add("sigmoid", (x.graph.call(self.gate, x),))
        return x.graph.add("highway", (x, h, t))
