"""How each network is trained when nothing else is said: its paper's recipe, by name.

Data sets: "mnist", "cifar10", and "images" in folders ``train`` and ``val``, one folder a class.

A schedule's milestones are shares of the epochs, so that a shorter run has all its phases. Where
a recipe is not its paper's, a comment says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastconv.data import CropAndFlip
from fastconv.optim import (
    SGD,
    CosineAnnealingLR,
    MultiStepLR,
    ReduceLROnPlateau,
    Schedule,
    WarmUp,
)

SCHEDULES = ("cosine", "steps", "plateau", "constant")

# Epochs without a better validation accuracy before the rate falls.
PATIENCE = 5


@dataclass(frozen=True)
class Recipe:
    """Data set, length and hyperparameters of a training."""

    dataset: str  # a name that `fastconv.cli.train` loads
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Callable[..., Any] | None = None
    schedule: str = "cosine"  # of SCHEDULES
    milestones: tuple[float, ...] = (0.5, 0.75)  # of "steps": the rate is divided by 10 there
    warm_up: float | None = None  # the rate until the training error is below 80 %
    label_smoothing: float = 0.0
    network: Mapping[str, Any] = field(default_factory=dict)  # arguments of what makes it

    def make_schedule(self, optimizer: SGD, epochs: int) -> Schedule | None:
        """The schedule over ``epochs`` epochs; None for a constant rate."""
        schedule: Schedule | None = None
        if self.schedule == "cosine":
            schedule = CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
        elif self.schedule == "steps":
            schedule = MultiStepLR(optimizer, [round(m * epochs) for m in self.milestones])
        elif self.schedule == "plateau":
            schedule = ReduceLROnPlateau(optimizer, mode="max", patience=PATIENCE)
        elif self.schedule != "constant":
            raise ValueError(
                f"schedule {self.schedule!r} is unknown; known: {', '.join(SCHEDULES)}"
            )
        if self.warm_up is not None:
            schedule = WarmUp(schedule or MultiStepLR(optimizer, []), lr=self.warm_up)
        return schedule


DIGITS = Recipe(
    "mnist", epochs=8, batch_size=64, lr=0.03, augment=CropAndFlip(padding=1, flip=False)
)

# He et al. 2015, section 4.2: 64,000 steps of 128 images, the rate divided by 10 at 32,000 and
# 48,000; 391 steps are an epoch of 50,000 images. The paper subtracts the mean of each pixel; here
# each channel is normalised.
CIFAR_RESNET = Recipe(
    "cifar10",
    epochs=164,
    batch_size=128,
    lr=0.1,
    weight_decay=1e-4,
    augment=CropAndFlip(padding=4),
    schedule="steps",
)

# Krizhevsky et al. 2012, section 5: the rate divided by 10, by hand, when the validation error
# stopped falling.
IMAGES = Recipe(
    "images",
    epochs=90,
    batch_size=128,
    lr=0.01,
    augment=CropAndFlip(padding=16),
    schedule="plateau",
)

RECIPES: dict[str, Recipe] = {
    # Ours. A digit's mirror image is no digit: shifts alone.
    "lenet5": DIGITS,
    "caffe_lenet": DIGITS,
    # With gates that begin at -2 and a rate of 0.01, 50 layers diverge.
    "highway_mlp": replace(DIGITS, augment=None, network={"gate_bias": -4.0}),
    "cifar_resnet": CIFAR_RESNET,
    "cifar_resnet110": replace(CIFAR_RESNET, warm_up=0.01),
    "cifar_plain": CIFAR_RESNET,
    # Srivastava et al. 2015 say no more than SGD with momentum and a rate that falls by fixed
    # steps; the augmentation is theirs.
    "cifar_highway": replace(CIFAR_RESNET, lr=0.05),
    # Images in folders are resized; shifts by up to 16 pixels where the papers crop 224x224 out of
    # 256x256.
    "alexnet": IMAGES,
    "zfnet": replace(IMAGES, epochs=70),  # Zeiler, Fergus 2013, section 3.1
    "vgg": replace(IMAGES, epochs=74, batch_size=256),  # Simonyan, Zisserman 2014, section 3.1
    # As BVLC's replication of Szegedy et al. 2014 was trained, but for the cosine: there the rate
    # falls with the square root of what is left; the paper lowers it by 4 % every 8 epochs.
    "googlenet": replace(IMAGES, epochs=60, batch_size=32, weight_decay=2e-4, schedule="cosine"),
    # He et al. 2015, section 3.4: 600,000 steps of 256 of 1.28 million images.
    "resnet": replace(IMAGES, epochs=120, batch_size=256, lr=0.1, weight_decay=1e-4),
    # Springenberg et al. 2014, section 3: rates of 0.25 to 0.01 were tried, the best was kept.
    **{
        f"all_cnn_{letter}": Recipe(
            "cifar10",
            epochs=350,
            batch_size=128,
            lr=0.05,
            weight_decay=1e-3,
            augment=CropAndFlip(padding=5),
            schedule="steps",
            milestones=(200 / 350, 250 / 350, 300 / 350),
        )
        for letter in "abc"
    },
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a network: under its name, or that without the depth or the variant.

    Examples
    --------
    >>> from fastconv.models.recipes import find_recipe
    >>> find_recipe("cifar_resnet20").epochs
    164
    """
    shorter = (name, name.rstrip("0123456789"), name.rpartition("_")[0])
    recipe = next((RECIPES[known] for known in shorter if known in RECIPES), None)
    if recipe is None:
        raise ValueError(
            f"there is no recipe to train {name!r}; there are recipes for "
            f"{', '.join(sorted(RECIPES))}"
        )
    return recipe
