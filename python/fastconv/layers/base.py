"""Layer: state and backward over the functions of ``fastconv.ops``.

A layer holds parameters, buffers (saved, not learned) and other layers. In training mode it keeps
what ``backward`` needs from its last call; in eval mode a call writes nothing, so that one model
may be called from many threads. Paths such as ``features.0`` follow the attribute names, as in
PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from types import MappingProxyType
from typing import Any, TypeVar

from fastconv.errors import locate_error
from fastconv.graph import Graph, Value
from fastconv.layers.calls import begin_call, checked_backward
from fastconv.layers.parameter import Parameter
from fastconv.layers.placement import host
from fastconv.layers.state import load_into, move

Self = TypeVar("Self", bound="Layer")


class Layer:
    """Base class of all layers; users subclass it.

    A subclass defines ``forward(x)`` and ``backward(grad_y)``, calls ``self.save(...)`` in forward
    for what backward needs and ``self.saved()`` in backward to get it, and assigns its
    ``Parameter`` and ``Layer`` objects to attributes. One that keeps something may be called once
    before each backward, or more often where only the last call's is wanted. ``output_shape`` (or
    ``lower``) is needed only for ``fc.summary`` and ``fc.compile``, and only where forward does
    more than call other layers.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> class Scale(fc.layers.Layer):
    ...     def __init__(self, channels):
    ...         self.scale = fc.Parameter(np.ones((channels, 1, 1), np.float32))
    ...     def forward(self, x):
    ...         self.save(x)
    ...         return x * self.scale.data
    ...     def backward(self, grad_y):
    ...         (x,) = self.saved()
    ...         self.scale.accumulate((grad_y * x).sum(axis=(0, 2, 3)).reshape(self.scale.shape))
    ...         return grad_y * self.scale.data
    """

    # Whether backward does the part of a ReLU in the same pass, which then keeps nothing.
    finds_relu_mask = False
    adds_backward: Any = True  # where there is a backward_plus (layers/fused.py): its pass adds
    keeps_float32 = False  # beside 16-bit parameters elsewhere
    # Layers of the network that Caffe publishes -> paths here; `load_state_dict` knows both.
    caffe_layers: Mapping[str, str] = MappingProxyType({})
    training: bool
    _layer_path: str
    _parameters: dict[str, Parameter]
    _buffers: dict[str, Any]
    _layers: dict[str, Layer]
    _saved: tuple[Any, ...] | None
    _saved_used: bool  # backward has had what is saved
    _saved_lost: Any  # of calls whose backward never came (layers/calls.py)
    _packed: Any

    def __new__(cls: type[Self], *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__, so that a subclass need not call super().__init__().
        self = super().__new__(cls)
        self.__dict__.update(
            training=True,
            _layer_path="",
            _parameters={},
            _buffers={},
            _layers={},
            _saved=None,
            _saved_used=False,
            _saved_lost=None,
            _packed=None,
        )
        return self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("backward", "backward_plus", "backward_add_relu"):
            if name in cls.__dict__:
                setattr(cls, name, checked_backward(cls.__dict__[name]))

    def __setattr__(self, name: str, value: Any) -> None:
        # An entry that is replaced by one of its kind keeps its place in the order.
        if not isinstance(value, Parameter):
            self._parameters.pop(name, None)
        if not isinstance(value, Layer):
            self._layers.pop(name, None)
        if isinstance(value, Parameter):
            self._parameters[name] = value
            value.name = f"{self._layer_path}.{name}".lstrip(".")
            value.thaw() if self.training else value.freeze()
        elif isinstance(value, Layer):
            self._layers[name] = value
            value._set_path(f"{self._layer_path}.{name}".lstrip("."))
        elif name in self._buffers:
            self._buffers[name] = value
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._layers, self._buffers):
            registry.pop(name, None)
        object.__delattr__(self, name)

    def _set_path(self, path: str) -> None:
        self.__dict__["_layer_path"] = path
        for name, parameter in self._parameters.items():
            parameter.name = f"{path}.{name}"
        for name, layer in self._layers.items():
            layer._set_path(f"{path}.{name}")

    def register_buffer(self, name: str, value: Any) -> None:
        """Add an array that is saved with the weights but not learned."""
        self._buffers[name] = value
        object.__setattr__(self, name, value)

    # Calls

    def __call__(self, *inputs: Any) -> Any:
        if inputs and isinstance(inputs[0], Value):
            return inputs[0].graph.call(self, *inputs)
        return self.__run(self.forward, *inputs)

    def call_relu(self, x: Any, relu: Layer) -> Any:
        """relu(self(x)) in one pass, of a layer that defines ``forward_relu`` (layers/fused.py)."""
        if relu.training:
            begin_call(relu)
        return self.__run(self.forward_relu, x, relu)  # type: ignore[attr-defined]

    def call_add_relu(self, x: Any, side: Any) -> Any:
        """relu(self(x) + side) in one pass, of a layer that defines ``forward_add_relu``."""
        return self.__run(self.forward_add_relu, x, side)  # type: ignore[attr-defined]

    def __run(self, forward: Callable[..., Any], *inputs: Any) -> Any:
        if self.training:
            begin_call(self)
        try:
            return forward(*inputs)
        except AttributeError as error:
            if not any(error.obj is value for value in inputs):
                raise
            wrong = TypeError(f"the input is a {type(error.obj).__name__}; wanted an array")
            locate_error(wrong, self, self._layer_path)
            raise wrong from error
        except (TypeError, ValueError) as error:
            locate_error(error, self, self._layer_path)
            raise

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the output; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x)")

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        """Add into each ``parameter.grad`` and return the gradient of the input.

        ``need_input=False`` lets a layer skip the input's gradient and return None (the first layer
        of a network); a subclass may define ``backward(self, grad_y)`` without it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define backward(grad_y)")

    def save(self, *values: Any) -> None:
        """Keep ``values`` for backward; does nothing in eval mode."""
        if self.training:
            self.__dict__["_saved"] = values

    def saved(self) -> tuple[Any, ...]:
        """What the last training call kept."""
        if self._saved is None:
            why = "it was not called yet" if self.training else "it is in eval mode"
            raise RuntimeError(
                f"{type(self).__name__} {self._layer_path!r}: backward needs a call in training "
                f"mode before it, but {why}"
            )
        return self._saved

    # Shapes and the graph

    def lower(self, *inputs: Any, **options: Any) -> Any:
        """Add this layer's nodes to ``inputs[0].graph``; return the output's ``Value``.

        By default a subclass that defines ``output_shape`` becomes one opaque node, and any other
        is traced: its forward is run on the values, which the layers it calls lower themselves.
        """
        if type(self).output_shape is not Layer.output_shape:
            shape = tuple(self.output_shape(inputs[0].shape))
            names = {name: name for name in self._parameters}
            return inputs[0].graph.add("custom", inputs, names, shape=shape)
        if not self._layers:
            raise TypeError(
                f"{type(self).__name__} computes its output itself: define "
                f"output_shape(input_shape) or lower(x)"
            )
        return self.forward(*inputs)

    def output_shape(self, input_shape: tuple[int, ...]) -> Any:
        """Shape of the output for an input of ``input_shape`` (with N); nothing is computed."""
        return Graph.of(self, input_shape).output_shape

    # Parameters and state

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer (its name is ``prefix``) and all below it, with dotted paths."""
        yield prefix, self
        for name, layer in self._layers.items():
            yield from layer.named_layers(f"{prefix}.{name}".lstrip("."))

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """(dotted name, parameter), each parameter once."""
        seen: dict[int, tuple[str, Parameter]] = {}
        for path, layer in self.named_layers():
            for name, parameter in layer._parameters.items():
                seen.setdefault(id(parameter), (f"{path}.{name}".lstrip("."), parameter))
        return list(seen.values())

    def parameters(self) -> list[Parameter]:
        """All parameters, each once."""
        return [parameter for _, parameter in self.named_parameters()]

    @property
    def num_parameters(self) -> int:
        """Number of learned values."""
        return sum(parameter.size for parameter in self.parameters())

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Dotted name -> array, parameters and buffers; the live arrays, not copies (as
        PyTorch)."""
        state: dict[str, Any] = {}
        for path, layer in self.named_layers():
            for name, parameter in layer._parameters.items():
                state[f"{path}.{name}".lstrip(".")] = parameter.data
            for name, buffer in layer._buffers.items():
                state[f"{path}.{name}".lstrip(".")] = buffer
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Overwrite parameters and buffers with the arrays of ``state``, matched by name.

        A prefix that all names share (``module.``) is stripped where the rest then matches; names
        of ``caffe_layers`` are taken too. Floating values are converted to the parameter's dtype.
        Nothing is changed where anything does not fit.

        Raises
        ------
        ValueError
            With a list of every missing, unexpected and misshapen entry.
        TypeError
            If ``state`` is no mapping of names, or holds a tensor that requires grad or is of a
            dtype that NumPy lacks.
        """
        load_into(self, state)
        for _, layer in self.named_layers():
            layer.__dict__["_packed"] = None

    def save_weights(self, path: str | PathLike[str]) -> None:
        """Write ``state_dict()`` as a safetensors file, whole or not at all."""
        from fastconv.checkpoint import write_safetensors

        write_safetensors(path, {name: host(value) for name, value in self.state_dict().items()})

    def load_weights(self, path: str | PathLike[str]) -> None:
        """Read a file that ``fc.read_checkpoint`` can read and ``load_state_dict`` it."""
        from fastconv.checkpoint import read_checkpoint

        self.load_state_dict(read_checkpoint(path))

    def get_extra_state(self) -> dict[str, Any] | None:
        """Numbers beyond the weights that an exact resume needs (JSON types), or None."""
        return None

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what ``get_extra_state`` gave."""

    # Modes and dtypes

    def train(self: Self, mode: bool = True) -> Self:
        """Training mode: calls keep what backward needs, parameters may be written."""
        for _, layer in self.named_layers():
            layer.__dict__.update(training=mode, _packed=None, _saved=None, _saved_lost=None)
            for parameter in layer._parameters.values():
                parameter.thaw() if mode else parameter.freeze()
        return self

    def eval(self: Self) -> Self:
        """Eval mode: calls keep nothing, weights are packed once and read-only until
        ``train()``."""
        return self.train(False)

    def to(self: Self, device: Any = None, dtype: Any = None) -> Self:
        """Move parameters and floating buffers to a device and convert them to a dtype, in place.

        Parameters
        ----------
        device : "cpu", "cuda" or "cuda:1", optional
        dtype : optional
            float32 or float64; on a CUDA device float32, float16 or bfloat16, where layers with
            ``keeps_float32`` (batch norm) stay float32. Optimisers made before keep working: SGD
            holds float32 masters of 16-bit parameters.
        """
        return move(self, device, dtype)

    # Text and copies

    def extra_repr(self) -> str:
        """The arguments of ``repr``, as they would be typed."""
        return ""

    def __repr__(self) -> str:
        name = type(self).__name__
        if not self._layers:
            return f"{name}({self.extra_repr()})"
        children = [
            f"({child}): {layer!r}".replace("\n", "\n  ") for child, layer in self._layers.items()
        ]
        return f"{name}(\n  " + "\n  ".join(children) + "\n)"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_saved": None, "_saved_lost": None, "_packed": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
