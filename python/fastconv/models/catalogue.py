"""The networks by name, with what the commands need to know of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fastconv.layers.base import Layer
from fastconv.models.caffe import caffe_lenet, cifar10_quick
from fastconv.models.cifar_resnet import cifar_plain, cifar_resnet
from fastconv.models.googlenet import googlenet
from fastconv.models.lenet5 import lenet5


@dataclass(frozen=True)
class Entry:
    """A network: the function that makes it and one input's shape; recipes.py trains it."""

    build: Callable[..., Layer]
    image_shape: tuple[int, int, int]


# Networks of any depth: cifar_resnet20 is cifar_resnet(20).
FAMILIES: dict[str, Entry] = {
    "cifar_resnet": Entry(cifar_resnet, (3, 32, 32)),
    "cifar_plain": Entry(cifar_plain, (3, 32, 32)),
}


def _of_depth(family: str, depth: int) -> Entry:
    entry = FAMILIES[family]
    return replace(entry, build=partial(entry.build, depth))


MODELS: dict[str, Entry] = {
    "lenet5": Entry(lenet5, (1, 28, 28)),
    "caffe_lenet": Entry(caffe_lenet, (1, 28, 28)),
    "cifar10_quick": Entry(cifar10_quick, (3, 32, 32)),
    "googlenet": Entry(googlenet, (3, 224, 224)),
    "googlenet_torchvision": Entry(partial(googlenet, variant="torchvision"), (3, 224, 224)),
    # The paper's depths; `find` knows the others too.
    **{
        f"{family}{depth}": _of_depth(family, depth)
        for family in ("cifar_resnet", "cifar_plain")
        for depth in (20, 32, 44, 56, 110)
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
