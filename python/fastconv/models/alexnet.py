"""AlexNet (Krizhevsky, Sutskever, Hinton 2012, figure 2 and sections 3.3 to 4.2).

    227x227x3 -> 96@11x11/4  -> norm -> max 3/2 -> 27x27
              -> 256@5x5, 2 groups -> norm -> max 3/2 -> 13x13
              -> 384@3x3 -> 384@3x3, 2 groups -> 256@3x3, 2 groups -> max 3/2 -> 6x6
              -> 4096 -> 4096 -> 1000

The paper says 224x224, but its 55x55 maps need 227: (227 - 11) / 4 + 1 = 55. The two groups are its
two GPUs. torchvision's form is "one weird trick" (Krizhevsky 2014): one group, 64 and 192 filters
at first, no normalisation.
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import (
    AdaptiveAvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.models.parts import check_arguments, choice, classifier

# alpha is divided by the size here and in Caffe, not in the paper: its 1e-4 is 5e-4.
RESPONSE_NORMS = {
    "paper": {"alpha": 5e-4, "beta": 0.75, "k": 2.0},
    "caffe": {"alpha": 1e-4, "beta": 0.75, "k": 1.0},
}


def alexnet(
    *,
    num_classes: int = 1000,
    variant: str = "paper",
    response_norm: str | None = "paper",
    seed: int | None = None,
) -> Sequential:
    """AlexNet for images (3, 227, 227); torchvision's for (3, 224, 224).

    Parameters
    ----------
    num_classes : int
    variant : "paper" or "torchvision"
        The paper's, with Caffe's names (``conv1`` to ``fc8``); or torchvision's, whose checkpoints
        load unchanged.
    response_norm : "paper", "caffe" or None
        Local response norm of the paper's variant: with the paper's constants, with those that
        Caffe's published weights were trained with, or none (the paper reports a gain of 1.4 % by
        it; Simonyan and Zisserman 2014 found none).
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If ``variant`` or ``response_norm`` is unknown, or ``num_classes`` is below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.alexnet()
    >>> model.num_parameters, model.output_shape((1, 3, 227, 227))
    (60965224, (1, 1000))
    """
    check_arguments("alexnet", variant, ("paper", "torchvision"), num_classes=num_classes)
    choice("alexnet", "response_norm", response_norm, (*RESPONSE_NORMS, None))
    with init.seeded(seed):
        if variant == "torchvision":
            return _torchvision(num_classes)
        return Sequential(_paper(num_classes, response_norm))


def _paper(num_classes: int, response_norm: str | None) -> dict[str, Layer]:
    def norm(index: int) -> dict[str, Layer]:
        if response_norm is None:
            return {}
        return {f"norm{index}": LocalResponseNorm(5, **RESPONSE_NORMS[response_norm])}

    return {
        "conv1": Conv2d(3, 96, 11, stride=4),
        "relu1": ReLU(),
        **norm(1),
        "pool1": MaxPool2d(3, stride=2),
        "conv2": Conv2d(96, 256, 5, padding=2, groups=2),
        "relu2": ReLU(),
        **norm(2),
        "pool2": MaxPool2d(3, stride=2),
        "conv3": Conv2d(256, 384, 3, padding=1),
        "relu3": ReLU(),
        "conv4": Conv2d(384, 384, 3, padding=1, groups=2),
        "relu4": ReLU(),
        "conv5": Conv2d(384, 256, 3, padding=1, groups=2),
        "relu5": ReLU(),
        "pool5": MaxPool2d(3, stride=2),
        **classifier(256 * 6 * 6, num_classes),
    }


def _torchvision(num_classes: int) -> Sequential:
    features = Sequential(
        Conv2d(3, 64, 11, stride=4, padding=2),
        ReLU(),
        MaxPool2d(3, stride=2),
        Conv2d(64, 192, 5, padding=2),
        ReLU(),
        MaxPool2d(3, stride=2),
        Conv2d(192, 384, 3, padding=1),
        ReLU(),
        Conv2d(384, 256, 3, padding=1),
        ReLU(),
        Conv2d(256, 256, 3, padding=1),
        ReLU(),
        MaxPool2d(3, stride=2),
    )
    linear = Sequential(
        Dropout(0.5),
        Linear(256 * 6 * 6, 4096),
        ReLU(),
        Dropout(0.5),
        Linear(4096, 4096),
        ReLU(),
        Linear(4096, num_classes),
    )
    return Sequential(
        {
            "features": features,
            "avgpool": AdaptiveAvgPool2d(6),
            "flatten": Flatten(),
            "classifier": linear,
        }
    )
