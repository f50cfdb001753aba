"""Whole networks with random weights, the same in every process, as programs that peers translate.

`program_of_network` gives the steps of `fastconv.fusion`: what a model computes, one node a step.
`onnx_model`, `ncnn_model` and `torch_module` write the same steps in other libraries' forms, so
that all run the same arithmetic on the same weights. What converters do once is done for them:
batch norm is folded into the convolutions for ncnn and ONNX; PyTorch gets it as its layers have it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

#: the name here -> the function of fastconv.models, with its arguments
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("alexnet", {"variant": "torchvision"}),
    "vgg16": ("vgg16", {}),
    "googlenet": ("googlenet", {"variant": "torchvision"}),
    "resnet50": ("resnet50", {}),
    "lenet5": ("lenet5", {}),
    "cifar_resnet20": ("cifar_resnet", {"depth": 20}),
    "alphago_policy": ("alphago_policy", {}),
}

#: those that the suite of inference and that of training have
INFERENCE = ("alexnet", "vgg16", "googlenet", "resnet50")
TRAINING = ("lenet5", "cifar_resnet20", "alphago_policy", "vgg16", "resnet50")

# The others: (3, 224, 224).
IMAGES = {
    "lenet5": (1, 28, 28), "cifar_resnet20": (3, 32, 32), "alphago_policy": (48, 19, 19),
}  # fmt: skip


@functools.lru_cache(maxsize=1)
def model_of(name: str) -> Any:
    """``build_model``'s, the same object again for the same name."""
    return build_model(name)


def build_model(name: str) -> Any:
    """The fastconv model in eval mode: random weights, and statistics that are not batch norm's
    first ones. ``LookupError`` where this build of fastconv has no such model."""
    import fastconv as fc

    function, arguments = NETWORKS[name]
    if not hasattr(fc.models, function):
        raise LookupError(f"fastconv.models has no {function}")
    model = getattr(fc.models, function)(**arguments, seed=1)
    generator = np.random.default_rng(1)
    for _, layer in model.named_layers():
        if isinstance(layer, fc.layers.BatchNorm2d):
            channels = layer.weight.shape
            layer.weight.data = 0.5 + generator.random(channels, np.float32)
            layer.bias.data = 0.1 * generator.standard_normal(channels, np.float32)
            layer.running_mean[...] = 0.1 * generator.standard_normal(channels, np.float32)
            layer.running_var[...] = 0.5 + generator.random(channels, np.float32)
    return model.eval()


def image_shape(name: str) -> tuple[int, int, int]:
    """(C, H, W) of one input."""
    return IMAGES.get(name, (3, 224, 224))


def program_of_network(name: str, batch: int, folded: bool) -> Any:
    """The steps of a network for a batch; ``folded``: batch norm, ReLU and additions in the
    convolutions before them, else one step a layer."""
    from fastconv.fusion import fuse, program_of
    from fastconv.graph import Graph

    model = model_of(name)
    graph = Graph.of(model, (batch, *image_shape(name)))
    program = program_of(graph, model.state_dict())
    return fuse(program) if folded else program


def pads_of(step: Any, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a convolution or pooling over images of ``shape``."""
    from fastconv.ops.geometry import window_geometry

    if step.op == "conv2d":
        kernel = step.constants["weight"].shape[2:]
    else:
        kernel = pair(step.attributes["kernel_size"])
    stride = step.attributes["stride"]
    geometry = window_geometry(
        step.op, shape[2:], kernel, kernel if stride is None else stride,
        step.attributes["padding"], step.attributes.get("dilation", 1),
        step.attributes.get("ceil_mode", False),
    )  # fmt: skip
    return geometry.padding


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of an int or a pair."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def windows_of_adaptive(step: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """The window with which average pooling does what an adaptive step does; (1, 1): nothing.

    ``LookupError`` where windows would be of several sizes.
    """
    (height, width), (high, wide) = shape[2:], step.shape[2:]
    if height % high or width % wide:
        raise LookupError(f"adaptive pooling from {shape} to {step.shape}")
    return height // high, width // wide
