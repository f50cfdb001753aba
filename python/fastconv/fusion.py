"""A model's graph as the calls of its inference: `program_of`, then `fuse`.

    conv2d -> batch_norm -> add(residual) -> relu      one call
    linear -> batch_norm -> relu                       one call
    dropout, flatten of 1x1 images                     no call

Batch norm with running statistics is a scale and a shift a channel, which go into the weights and
the bias before it: w' = w s, b' = (b - mean) s + beta with s = gamma / sqrt(variance + eps), all in
float64, rounded once when the weights are laid out. Values are numbered as the graph's nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastconv.graph import Graph, Node, Shape

FUSES_RELU = ("conv2d", "linear")
FUSES_BATCH_NORM = ("conv2d", "linear")
FUSES_RESIDUAL = ("conv2d",)


@dataclass
class Step:
    """One call: the values that it reads and the one that it makes.

    `constants` are the layer's arrays by role, on the host. `residual` is a value that is added
    before `relu`; `pooled`, by pool_fusion.py alone: then the maxima of 2x2 positions are taken.
    """

    op: str
    inputs: list[int]
    output: int
    shape: Shape
    attributes: Mapping[str, Any]
    constants: dict[str, npt.NDArray[Any]]
    path: str
    layer: str
    multiply_adds: int
    residual: int | None = None
    relu: bool = False
    pooled: bool = False
    fused: list[str] = field(default_factory=list)

    @property
    def reads(self) -> list[int]:
        return self.inputs if self.residual is None else [*self.inputs, self.residual]


@dataclass
class Program:
    """Steps in order of execution.

    `shapes` has every value's shape; `views` maps a value to the one whose memory it is: an image
    of one pixel as a vector. Value 0 is the input.
    """

    steps: list[Step]
    outputs: list[int]
    shapes: dict[int, Shape]
    views: dict[int, int]


def program_of(graph: Graph, state: Mapping[str, Any]) -> Program:
    """One step a node, without those that do nothing in evaluation.

    `state` is the model's `state_dict`, on the host.
    """
    same: dict[int, int] = {}  # a node that changes nothing -> the value that it passes on
    steps: list[Step] = []
    views: dict[int, int] = {}
    shapes = {node.index: node.shape for node in graph.nodes}
    for node in graph.nodes:
        inputs = [same.get(i, i) for i in node.inputs]
        if node.op == "dropout" or (node.op == "flatten" and shapes[inputs[0]] == node.shape):
            same[node.index] = inputs[0]
        elif node.op == "flatten" and shapes[inputs[0]][2:] == (1, 1):
            views[node.index] = inputs[0]
        elif node.op != "input":
            steps.append(_step(graph, node, inputs, state))
    return Program(steps, [same.get(i, i) for i in graph.outputs], shapes, views)


def _step(graph: Graph, node: Node, inputs: list[int], state: Mapping[str, Any]) -> Step:
    missing = [name for name in node.parameters.values() if name not in state]
    if missing:
        raise ValueError(
            f"compile: {node.layer} {node.path!r} has {missing[0]!r}, which the model's state_dict "
            f"lacks: assign every layer to an attribute of the model or of one of its layers"
        )
    return Step(
        op=node.op,
        inputs=inputs,
        output=node.index,
        shape=node.shape,
        attributes=node.attributes,
        constants={role: state[name] for role, name in node.parameters.items()},
        path=node.path,
        layer=node.layer,
        multiply_adds=graph.multiply_adds(node),
    )


def fuse(program: Program) -> Program:
    """The program with batch norm folded, and additions and ReLU taken over by the call before.

    A fused call stands where the last of its parts stood, so that all that it reads is there.
    """
    uses = Counter(value for step in program.steps for value in step.reads)
    uses.update([*program.views.values(), *program.outputs])
    makers: dict[int, Step] = {}

    def maker(value: int, kinds: tuple[str, ...]) -> Step | None:
        """The step that makes `value` for nobody else, if more can be fused into it."""
        step = makers.get(value)
        if step is None or uses[value] != 1 or step.op not in kinds or step.relu:
            return None
        return step

    for step in program.steps:
        into = None
        if step.op == "relu":
            into = maker(step.inputs[0], FUSES_RELU)
            if into is not None:
                into.relu = True
        elif step.op == "batch_norm":
            into = maker(step.inputs[0], FUSES_BATCH_NORM)
            if into is not None and into.residual is not None:
                into = None
            if into is not None:
                fold_batch_norm(into, step)
        elif step.op == "add":
            for value, other in (step.inputs, step.inputs[::-1]):
                into = maker(value, FUSES_RESIDUAL)
                if into is not None and into.residual is None:
                    into.residual = other
                    break
                into = None
        if into is None:
            makers[step.output] = step
            continue
        del makers[into.output]
        into.output = step.output
        into.fused.append(step.op)
        makers[into.output] = into  # last: a dict keeps the order of insertion
    return Program(list(makers.values()), program.outputs, program.shapes, program.views)


def fold_batch_norm(step: Step, norm: Step) -> None:
    """Put the scale and shift of `norm`, which follows `step`, into its weight and bias."""
    gamma, beta, mean, variance = (
        norm.constants[role].astype(np.float64)
        for role in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + float(norm.attributes["eps"]))
    weight = step.constants["weight"].astype(np.float64)
    bias = step.constants.get("bias", np.zeros(len(scale))).astype(np.float64)
    step.constants = {
        "weight": weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)),
        "bias": (bias - mean) * scale + beta,
    }
