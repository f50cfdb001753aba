"""The networks by name, with what the commands need to know of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastconv.layers.base import Layer
from fastconv.models.googlenet import googlenet
from fastconv.models.lenet5 import lenet5


@dataclass(frozen=True)
class Entry:
    """A network: the function that makes it and one input's shape; recipes.py trains it."""

    build: Callable[..., Layer]
    image_shape: tuple[int, int, int]


MODELS: dict[str, Entry] = {
    "lenet5": Entry(lenet5, (1, 28, 28)),
    "googlenet": Entry(googlenet, (3, 224, 224)),
    "googlenet_torchvision": Entry(partial(googlenet, variant="torchvision"), (3, 224, 224)),
}


def find(name: str) -> Entry:
    """The network called ``name``; ``ValueError`` with the nearest names otherwise."""
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(MODELS))}"
    raise ValueError(f"unknown model {name!r}; {hint}")
