"""A program as a PyTorch module: the calls that the layers of torchvision's models make in
evaluation, ReLU and the addition of a residual in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from . import pads_of, pair


def torch_module(program: Any, training: bool = False) -> Any:
    """The module, its images and kernels channels last; in ``training`` its weights are parameters
    and batch norm measures."""
    import torch

    uses = Counter(program.views.get(v, v) for step in program.steps for v in step.reads)
    uses.update(program.views.get(value, value) for value in program.outputs)

    class Network(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[Callable[..., Any], list[int], list[str], int]] = []
            for step in program.steps:
                names = []
                for role, array in step.constants.items():
                    names.append(f"{role}_{step.output}")
                    tensor = torch.from_numpy(np.array(array, np.float32))
                    if training and not role.startswith("running"):
                        self.register_parameter(names[-1], torch.nn.Parameter(tensor))
                    else:
                        self.register_buffer(names[-1], tensor)
                first = step.inputs[0]  # written over where nobody else reads it
                alone = uses[program.views.get(first, first)] == 1 and first != 0
                call = _call(torch, step, program.shapes[first], alone, training)
                self.calls.append((call, step.inputs, names, step.output))

        def forward(self, x: Any) -> Any:
            values = {0: x}

            def value(index: int) -> Any:
                source = program.views.get(index)
                return values[index] if source is None else torch.flatten(values[source], 1)

            for call, inputs, names, output in self.calls:
                constants = [getattr(self, name) for name in names]
                values[output] = call([value(index) for index in inputs], constants)
            return value(program.outputs[0])

    return Network().train(training).to(memory_format=torch.channels_last)


def _call(
    torch: Any, step: Any, shape: tuple[int, ...], in_place: bool, training: bool
) -> Callable[[list[Any], list[Any]], Any]:
    functional, options = torch.nn.functional, step.attributes
    roles = list(step.constants)
    if step.op in ("conv2d", "max_pool2d", "avg_pool2d"):
        top, bottom, left, right = pads_of(step, shape)
        if (top, left) != (bottom, right):
            raise LookupError(f"padding {options['padding']} is not the same on both sides")
    if step.op == "conv2d":
        geometry = (pair(options["stride"]), (top, left), pair(options["dilation"]))
        groups = int(options["groups"])
        return lambda x, c: functional.conv2d(
            x[0], c[0], c[1] if len(c) > 1 else None, *geometry, groups
        )
    if step.op == "zero_padded_shortcut":
        before, every = int(options["before"]), int(options["stride"])
        after = int(options["channels"]) - shape[1] - before
        channels = (0, 0, 0, 0, before, after)
        return lambda x, c: functional.pad(x[0][:, :, ::every, ::every], channels)
    if step.op == "batch_norm":
        order = [roles.index(r) for r in ("running_mean", "running_var", "weight", "bias")]
        eps = float(options["eps"])
        return lambda x, c: functional.batch_norm(
            x[0], *(c[i] for i in order), training=training, eps=eps
        )
    if step.op in ("max_pool2d", "avg_pool2d"):
        function = getattr(functional, step.op)
        keywords: dict[str, Any] = {"padding": (top, left), "ceil_mode": options["ceil_mode"]}
        if step.op == "avg_pool2d":
            keywords["count_include_pad"] = options["count_include_pad"]
            keywords["divisor_override"] = options["divisor_override"]
        else:
            keywords["dilation"] = options["dilation"]
        kernel, stride = options["kernel_size"], options["stride"]
        return lambda x, c: function(x[0], kernel, stride, **keywords)
    if step.op == "adaptive_avg_pool2d":
        size = step.shape[2:]
        return lambda x, c: functional.adaptive_avg_pool2d(x[0], size)
    plain: dict[str, Callable[[list[Any], list[Any]], Any]] = {
        "linear": lambda x, c: functional.linear(x[0], *c),
        "relu": lambda x, c: functional.relu(x[0], inplace=in_place),
        "add": lambda x, c: x[0].add_(x[1]) if in_place else x[0] + x[1],
        "position_bias": lambda x, c: x[0] + c[0],
        "concat": lambda x, c: torch.cat(x, 1),
        "flatten": lambda x, c: torch.flatten(x[0], 1),
        "global_avg_pool2d": lambda x, c: functional.adaptive_avg_pool2d(x[0], 1),
    }
    if step.op not in plain:
        raise LookupError(f"no rule to write {step.op} for PyTorch")
    return plain[step.op]
