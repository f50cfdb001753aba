"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document
recognition", section II.B): 61,706 parameters, 0.42 M multiply-adds an image.

    32x32 -> C1 6@5x5 -> 28x28 -> S2 2x2 -> 14x14 -> C3 16@5x5 -> 10x10 -> S4 2x2 -> 5x5
          -> C5 120@5x5 -> 1x1 -> F6 84 -> 10

Two things are not the paper's, as in every present-day LeNet-5: C3 sees all six maps (the paper
leaves out some connections), and the output is a linear layer (the paper has radial basis
functions).
"""

from __future__ import annotations

from typing import Any

from fastconv import init
from fastconv.layers import (
    AvgPool2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
)
from fastconv.layers.parameter import Parameter


class FirstConv2d(Conv2d):
    """C1: an image of 28x28 is padded by 2 to the paper's 32x32; one of 32x32 is taken as it is."""

    def geometry(self, input_shape: tuple[int, ...]) -> dict[str, Any]:
        size = tuple(input_shape[-2:])
        if size not in ((28, 28), (32, 32)):
            raise ValueError(
                f"LeNet-5 takes images of (1, 28, 28) or (1, 32, 32), but the input has shape "
                f"{tuple(input_shape)}"
            )
        return {**super().geometry(input_shape), "padding": 2 if size == (28, 28) else 0}


def lenet5(*, num_classes: int = 10, variant: str = "relu", seed: int | None = None) -> Sequential:
    """LeNet-5 for images (1, 28, 28) or (1, 32, 32).

    Parameters
    ----------
    num_classes : int
    variant : "relu" or "paper"
        ReLU and max pooling; or tanh and average pooling, as in 1998.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.lenet5()
    >>> model.num_parameters, model.output_shape((8, 1, 28, 28))
    (61706, (8, 10))
    """
    if variant not in ("relu", "paper"):
        raise ValueError(f"lenet5: variant={variant!r}, but 'relu' or 'paper' is needed")
    modern = variant == "relu"

    def activation() -> Layer:
        return ReLU() if modern else Tanh()

    def pool() -> Layer:
        return MaxPool2d(2) if modern else AvgPool2d(2)

    with init.seeded(seed):
        model = Sequential(
            {
                "c1": FirstConv2d(1, 6, 5),
                "act1": activation(),
                "s2": pool(),
                "c3": Conv2d(6, 16, 5),
                "act3": activation(),
                "s4": pool(),
                "c5": Conv2d(16, 120, 5),
                "act5": activation(),
                "flatten": Flatten(),
                "f6": Linear(120, 84),
                "act6": activation(),
                "output": Linear(84, num_classes),
            }
        )
        if not modern:
            _for_tanh(model)
    return model


def _for_tanh(model: Sequential) -> None:
    """Xavier's variance in place of He's, which is for ReLU."""
    for _, layer in model.named_layers():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Parameter):
            weight.data = init.xavier_normal(weight.shape)
