"""Layers made of layers that see the same input: Residual, Concat, Highway."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

from fastconv import ops
from fastconv.graph import Value
from fastconv.layers import fused
from fastconv.layers.activation import ReLU, Sigmoid
from fastconv.layers.arithmetic import (
    add,
    add_into,
    channel_axis,
    concatenate,
    multiply,
    multiply_into,
    subtract,
)
from fastconv.layers.base import Layer
from fastconv.layers.sequential import Sequential
from fastconv.ops.devices import on_device


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
        shapes = [tuple(part.shape) for part in parts]
        axis = channel_axis(shapes[0])
        if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1:
            listed = ", ".join(map(str, shapes))
            raise ValueError(f"the branches' shapes differ beyond the channels: {listed}")
        self.save(tuple(shape[axis] for shape in shapes))
        return concatenate(parts)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (channels,) = self.saved()
        ends = accumulate(channels, initial=0)
        before = (slice(None),) * channel_axis(grad_y.shape)
        slices = [(*before, slice(begin, end)) for begin, end in pairwise(ends)]
        parts = [
            (branch, grad_y[part])
            for branch, part in zip(self._layers.values(), slices, strict=True)
        ]
        if not need_input:
            for branch, grad in parts:
                branch.backward(grad, need_input=False)
            return None
        # Those that can add what the others gave in a pass of their own come last.
        parts.sort(key=lambda part: fused.adds_backward(part[0]))
        branch, grad = parts[0]
        total = branch.backward(grad)
        for branch, grad in parts[1:]:
            total = fused.backward_plus(branch, grad, total)
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
