"""The layers of the networks in ``shapes/*.json`` and the suites that are made of them.

``networks.json`` holds convolutions, ``pooling.json`` and ``linear.json`` the other layers of the
same networks, each with its ``count``: how often the layer occurs, so that times add up to a
network's.
Names follow the papers and Caffe. ``alexnet`` is the paper's (227 pixels, grouped),
``alexnet_owt_torchvision`` the later form; ``resnet50_v1`` strides the 1x1, ``resnet50_v1_5`` the
3x3.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .networks import INFERENCE, TRAINING
from .operations import Operation
from .operations.convolution import Convolution
from .operations.linear import Linear
from .operations.network import Network
from .operations.pooling import Pooling
from .operations.training import Training

_FOLDER = Path(__file__).parent / "shapes"


@dataclass(frozen=True)
class Layer:
    """One layer of one network."""

    network: str
    name: str
    shape: Operation
    count: int

    @property
    def title(self) -> str:
        return f"{self.network}/{self.name}"


def _convolution(row: dict[str, Any]) -> Convolution:
    (height, width), (high, wide) = row["stride"], row["padding"]
    return Convolution(
        row["C"], (row["H"], row["W"]), row["K"], (row["R"], row["S"]),
        (height, width), (high, wide), groups=row.get("groups", 1),
    )  # fmt: skip


def _pooling(row: dict[str, Any]) -> Pooling:
    kernel, stride, padding = ((row[name], row[name]) for name in ("R", "stride", "padding"))
    return Pooling(
        row["mode"], row["C"], (row["H"], row["W"]), kernel, stride, padding,
        ceil_mode=row.get("ceil_mode", False),
    )  # fmt: skip


def _linear(row: dict[str, Any]) -> Linear:
    return Linear(row["C"], row["K"])


_READERS: dict[str, Callable[[dict[str, Any]], Operation]] = {
    "networks.json": _convolution,
    "pooling.json": _pooling,
    "linear.json": _linear,
}


@functools.cache
def layers() -> tuple[Layer, ...]:
    """Every layer of every network, file by file."""
    found = []
    for file, read in _READERS.items():
        networks = json.loads((_FOLDER / file).read_text(encoding="utf-8"))
        for network, rows in networks.items():
            found += [Layer(network, row["name"], read(row), row["count"]) for row in rows]
    return tuple(found)


def networks() -> list[str]:
    """The networks' names in the order of the files."""
    return list(dict.fromkeys(layer.network for layer in layers()))


#: one layer of each kind that behaves differently: what --quick takes
QUICK = (
    "vgg16/conv1_1", "vgg16/conv1_2", "vgg16/conv2_2", "vgg16/conv3_2", "vgg16/conv4_2",
    "vgg16/conv5_1", "resnet50_v1_5/conv1", "resnet50_v1_5/res2a_branch2b",
    "resnet50_v1_5/res2a_branch1", "resnet50_v1_5/res3b_branch2a", "resnet50_v1_5/res4b_branch2a",
    "resnet50_v1_5/res4a_branch2b", "resnet50_v1_5/res5b_branch2a", "resnet50_v1_5/res5b_branch2b",
    "alexnet/conv1", "alexnet/conv2", "googlenet_v1/inception_3a/5x5", "lenet5_classic/C3",
    "vgg16/pool1", "resnet50_v1_5/pool1", "googlenet_v1/inception_4b/pool",
    "googlenet_v1/pool5/7x7_s1", "alexnet/fc7", "resnet50_v1_5/fc1000",
)  # fmt: skip

#: the suites that are not a network, with what they take
COLLECTIONS = {
    "all": "every distinct shape",
    "none": "no layer",
    "quick": "one layer of each kind",
    "convolution": "every distinct convolution",
    "pointwise": "the 1x1 convolutions among them",
    "pooling": "every distinct pooling layer",
    "linear": "every distinct linear layer",
    "networks": "whole networks: AlexNet (torchvision's), VGG-16, GoogLeNet, ResNet-50",
    "training": "training steps: LeNet-5, CIFAR ResNet-20, AlphaGo's policy, VGG-16, ResNet-50",
}


def suite_names() -> list[str]:
    """All names that ``suite`` takes."""
    return [*COLLECTIONS, *networks()]


def suite(name: str) -> list[Layer]:
    """The layers of one network or one collection; an unknown name is a ``ValueError``."""
    if name not in suite_names():
        raise ValueError(f"unknown suite {name!r}; known: {', '.join(suite_names())}")
    if name == "networks":
        return [Layer(name, network, Network(network), 1) for network in INFERENCE]
    if name == "training":
        return [Layer(name, network, Training(network), 1) for network in TRAINING]
    if name == "none":
        return []
    if name == "all":
        return list(layers())
    if name == "quick":
        return [layer for layer in layers() if layer.title in QUICK]
    kinds = {"convolution": Convolution, "pooling": Pooling, "linear": Linear}
    if name in kinds:
        return [layer for layer in layers() if isinstance(layer.shape, kinds[name])]
    if name == "pointwise":
        return [layer for layer in suite("convolution") if layer.shape.kind.startswith("1x1")]
    return [layer for layer in layers() if layer.network == name]
