"""The networks by name, with what the commands need to know of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastconv.data import CropAndFlip
from fastconv.layers.base import Layer
from fastconv.models.lenet5 import lenet5


@dataclass(frozen=True)
class Recipe:
    """How a network is trained when nothing else is said."""

    dataset: str  # a name that `fastconv.cli.train` loads
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Entry:
    """A network: the function that makes it, one input's shape, and its recipe if it has one."""

    build: Callable[..., Layer]
    image_shape: tuple[int, int, int]
    recipe: Recipe | None = None


MODELS: dict[str, Entry] = {
    # A digit's mirror image is no digit: shifts alone.
    "lenet5": Entry(
        lenet5,
        (1, 28, 28),
        Recipe(
            "mnist", epochs=8, batch_size=64, lr=0.03, augment=CropAndFlip(padding=1, flip=False)
        ),
    ),
}


def find(name: str) -> Entry:
    """The network called ``name``; ``ValueError`` with the nearest names otherwise."""
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(MODELS))}"
    raise ValueError(f"unknown model {name!r}; {hint}")
