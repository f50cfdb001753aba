"""The small graph that layers lower to: nodes with an operation, inputs, an output shape,
attributes.

``Graph.of(model, input_shape)`` calls the model on a ``Value``; each layer adds its nodes. Nothing
is computed. Summary, output shapes, fusion, the memory plan and importers all work on it. Node 0 is
the input. Shapes include N. Parameters are named as in the model's ``state_dict``.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fastconv.errors import locate_error
from fastconv.graph_rules import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastconv.layers.base import Layer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operation: ``op`` is a name in ``graph_rules.RULES``, ``inputs`` are node indices."""

    index: int
    op: str
    inputs: tuple[int, ...]
    shape: Shape
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)  # role -> state_dict name
    path: str = ""  # the layer it came from
    layer: str = ""  # and that layer's repr


@dataclass(frozen=True)
class Value:
    """The output of a node, handed from layer to layer while a model is lowered."""

    graph: Graph
    index: int

    @property
    def node(self) -> Node:
        return self.graph.nodes[self.index]

    @property
    def shape(self) -> Shape:
        return self.node.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __add__(self, other: Value) -> Value:
        return self.graph.add("add", (self, other))

    def __mul__(self, other: Value) -> Value:
        return self.graph.add("multiply", (self, other))


class Graph:
    """Nodes in the order of execution; ``outputs`` are the indices of the results.

    ``training`` is the mode that is lowered, for layers whose results differ (auxiliary heads).
    """

    def __init__(
        self, input_shape: Sequence[int], *, training: bool = False, function: str = "output_shape"
    ) -> None:
        shape = _checked_shape(function, input_shape)
        self.nodes: list[Node] = [Node(0, "input", (), shape, layer="input")]
        self.outputs: tuple[int, ...] = (0,)
        self.training = training
        self.not_kept: set[int] = set()  # outputs that training does not keep, whatever their rule
        self.kept: set[int] = set()  # and those that it does
        self._paths: dict[int, str] = {}  # by the id of each of the model's layers
        self._scopes: list[tuple[Layer, str]] = []
        self._single = False

    @classmethod
    def of(
        cls,
        model: Layer,
        input_shape: Sequence[int],
        *,
        training: bool | None = None,
        function: str = "output_shape",
    ) -> Graph:
        """Lower ``model`` for an input of ``input_shape`` (with N), by default in its own mode;
        errors name ``function``."""
        mode = model.training if training is None else training
        graph = cls(input_shape, training=mode, function=function)
        for path, layer in model.named_layers():
            graph._paths.setdefault(id(layer), path)
        with _in_mode(model, training):
            result = graph.call(model, Value(graph, 0))
        graph._single = isinstance(result, Value)
        results = (result,) if graph._single else result
        if not isinstance(results, tuple) or not all(isinstance(v, Value) for v in results):
            raise TypeError(
                f"{function}: {type(model).__name__} returns {_kind(results)}; wanted an array or "
                f"a tuple of arrays"
            )
        graph.outputs = tuple(value.index for value in results)
        return graph

    @property
    def output_shape(self) -> Any:
        """The result's shape; a tuple of shapes where the model returns a tuple."""
        shapes = tuple(self.nodes[index].shape for index in self.outputs)
        return shapes[0] if self._single else shapes

    def call(self, layer: Layer, *inputs: Value) -> Any:
        """Lower ``layer`` on ``inputs`` under its own path; errors name it."""
        with self._scope(layer) as path:
            try:
                _check_lower(cast("Hashable", type(layer)))
                return layer.lower(*inputs)
            except (TypeError, ValueError) as error:
                locate_error(error, layer, path)
                raise

    def add(
        self,
        op: str,
        inputs: Sequence[Value],
        parameters: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> Value:
        """Add a node; its shape follows from the rule of ``op``.

        ``parameters`` gives role -> name within the layer that is being lowered.
        """
        if op not in RULES:
            raise ValueError(f"graph: unknown operation {op!r}; known: {', '.join(sorted(RULES))}")
        shape = tuple(int(s) for s in RULES[op].shape([v.shape for v in inputs], attributes))
        layer, path = self._scopes[-1] if self._scopes else (None, "")
        names = {role: f"{path}.{name}".lstrip(".") for role, name in (parameters or {}).items()}
        node = Node(
            index=len(self.nodes),
            op=op,
            inputs=tuple(value.index for value in inputs),
            shape=shape,
            attributes=attributes,
            parameters=names,
            path=path,
            layer=type(layer).__name__ if layer is not None else op,
        )
        self.nodes.append(node)
        return Value(self, node.index)

    @contextmanager
    def _scope(self, layer: Layer) -> Iterator[str]:
        path = ""
        if self._scopes:
            parent, parent_path = self._scopes[-1]
            names = [name for name, child in parent._layers.items() if child is layer]
            path = f"{parent_path}.{names[0] if names else type(layer).__name__}".lstrip(".")
            if not names:  # called from above or beside the layer that holds it
                path = self._paths.get(id(layer), path)
        self._scopes.append((layer, path))
        try:
            yield path
        finally:
            self._scopes.pop()

    # What can be read off it

    def multiply_adds(self, node: Node) -> int:
        """Multiply-adds of a node, for the whole batch."""
        shapes = [self.nodes[i].shape for i in node.inputs]
        return int(RULES[node.op].multiply_adds(shapes, node.shape, node.attributes))

    def kept_for_backward(self) -> dict[int, int]:
        """Node index -> bytes per element size 4 kept in training: outputs that some layer keeps.

        An output counts once, at the node that made it, however many layers keep it; what is kept
        beside it (indices of maxima, 8 bytes each; statistics) counts at the node that keeps it.
        """
        kept = dict.fromkeys(range(len(self.nodes)), 0)
        held: set[int] = set()
        for node in self.nodes:
            rule = RULES[node.op]
            if rule.keeps_output and node.index not in self.not_kept:
                held.add(self.storage(node.index))
            if rule.keeps_input:
                held.update(self.storage(i) for i in node.inputs)
            if node.index in self.kept:
                held.add(self.storage(node.index))
            kept[node.index] += rule.extra_bytes(node.shape, node.attributes)
        for index in held:
            kept[index] += 4 * math.prod(self.nodes[index].shape)
        return kept

    def storage(self, index: int) -> int:
        """The node whose memory this node's output is (itself, unless it is only a view).

        Images lie channels last: flattened in their logical order they are copied, unless they have
        one pixel or one channel.
        """
        node = self.nodes[index]
        while RULES[node.op].is_view:
            source = self.nodes[node.inputs[0]]
            if math.prod(source.shape[2:]) > 1 and source.shape[1] > 1 and source.index > 0:
                break
            node = source
        return node.index


def _checked_shape(function: str, input_shape: Any) -> Shape:
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        raise TypeError(
            f"{function}: input_shape={input_shape!r}; wanted a tuple of ints, (N, C, H, W) or "
            f"(N, C)"
        ) from None
    if not shape or min(shape) < 0:
        raise ValueError(
            f"{function}: input_shape={input_shape!r}, but (N, C, H, W) or (N, C) is needed"
        )
    return shape


def _kind(result: Any) -> str:
    if not isinstance(result, tuple):
        return f"a {type(result).__name__}"
    wrong = next(value for value in result if not isinstance(value, Value))
    return f"a tuple with a {type(wrong).__name__}"


@contextmanager
def _in_mode(model: Layer, training: bool | None) -> Iterator[None]:
    """The layers in that mode while they are traced: a forward may ask ``self.training``.

    The flag alone, of those in the other mode: weights stay packed and writeable as they are, and
    nothing at all is written to a model in eval mode, which other threads may be calling.
    """
    layers = [layer for _, layer in model.named_layers()] if training is not None else []
    changed = [(layer, layer.training) for layer in layers if layer.training != training]
    try:
        for layer, _ in changed:
            layer.__dict__["training"] = training
        yield
    finally:
        for layer, mode in changed:
            layer.__dict__["training"] = mode


@functools.cache
def _check_lower(kind: Any) -> None:
    """Refuse a layer whose forward is newer than what it lowers to: the two would differ."""
    from fastconv.layers.base import Layer

    forward, lower = (
        next(base for base in kind.__mro__ if name in vars(base)) for name in ("forward", "lower")
    )
    if lower is not Layer and kind.__mro__.index(forward) < kind.__mro__.index(lower):
        raise TypeError(
            f"it has a forward of its own, but lower from {lower.__name__}; define lower(x) beside "
            f"forward"
        )
