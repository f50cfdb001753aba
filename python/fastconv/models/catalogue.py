"""The networks by name, with what the commands need to know of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fastconv.layers.base import Layer
from fastconv.models.alexnet import alexnet
from fastconv.models.all_cnn import all_cnn_a, all_cnn_b, all_cnn_c
from fastconv.models.alphago_policy import alphago_policy
from fastconv.models.caffe import caffe_lenet, cifar10_quick
from fastconv.models.cifar_resnet import cifar_plain, cifar_resnet
from fastconv.models.googlenet import googlenet
from fastconv.models.highway import cifar_highway, highway_mlp
from fastconv.models.lenet5 import lenet5
from fastconv.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from fastconv.models.vgg import vgg11, vgg13, vgg16, vgg19
from fastconv.models.zfnet import zfnet

MNIST, CIFAR, IMAGENET = (1, 28, 28), (3, 32, 32), (3, 224, 224)


@dataclass(frozen=True)
class Entry:
    """A network: the function that makes it and one input's shape; recipes.py trains it."""

    build: Callable[..., Layer]
    image_shape: tuple[int, int, int]


# Networks of any depth: cifar_resnet20 is cifar_resnet(20).
FAMILIES: dict[str, Entry] = {
    "cifar_highway": Entry(cifar_highway, CIFAR),
    "cifar_plain": Entry(cifar_plain, CIFAR),
    "cifar_resnet": Entry(cifar_resnet, CIFAR),
    "highway_mlp": Entry(highway_mlp, MNIST),
}
# Of the papers; `find` knows others too.
DEPTHS = {
    "cifar_highway": (19,),
    "cifar_plain": (20, 32, 44, 56, 110),
    "cifar_resnet": (20, 32, 44, 56, 110),
    "highway_mlp": (10, 20, 50, 100),
}


def _of_depth(family: str, depth: int) -> Entry:
    entry = FAMILIES[family]
    return replace(entry, build=partial(entry.build, depth))


def _variant(build: Callable[..., Layer], variant: str) -> Callable[..., Layer]:
    return partial(build, variant=variant)


MODELS: dict[str, Entry] = {
    "lenet5": Entry(lenet5, MNIST),
    "caffe_lenet": Entry(caffe_lenet, MNIST),
    "cifar10_quick": Entry(cifar10_quick, CIFAR),
    "alexnet": Entry(alexnet, (3, 227, 227)),
    "alexnet_torchvision": Entry(_variant(alexnet, "torchvision"), IMAGENET),
    "zfnet": Entry(zfnet, IMAGENET),
    "zfnet_lecture": Entry(_variant(zfnet, "lecture"), IMAGENET),
    "vgg11": Entry(vgg11, IMAGENET),
    "vgg13": Entry(vgg13, IMAGENET),
    "vgg16": Entry(vgg16, IMAGENET),
    "vgg19": Entry(vgg19, IMAGENET),
    "googlenet": Entry(googlenet, IMAGENET),
    "googlenet_torchvision": Entry(_variant(googlenet, "torchvision"), IMAGENET),
    "resnet18": Entry(resnet18, IMAGENET),
    "resnet34": Entry(resnet34, IMAGENET),
    "resnet50": Entry(resnet50, IMAGENET),
    "resnet101": Entry(resnet101, IMAGENET),
    "resnet152": Entry(resnet152, IMAGENET),
    "all_cnn_a": Entry(all_cnn_a, CIFAR),
    "all_cnn_b": Entry(all_cnn_b, CIFAR),
    "all_cnn_c": Entry(all_cnn_c, CIFAR),
    "alphago_policy": Entry(alphago_policy, (48, 19, 19)),
    **{
        f"{family}{depth}": _of_depth(family, depth)
        for family, depths in DEPTHS.items()
        for depth in depths
    },
}


def find(name: str) -> Entry:
    """The network called ``name``; ``ValueError`` with the nearest names otherwise."""
    if name in MODELS:
        return MODELS[name]
    family = name.rstrip("0123456789")
    if family in FAMILIES and family != name:
        return _of_depth(family, int(name[len(family) :]))
    near = difflib.get_close_matches(name, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(MODELS))}"
    raise ValueError(f"unknown model {name!r}; {hint}")
