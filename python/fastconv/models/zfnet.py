"""ZFNet (Zeiler, Fergus 2013, "Visualizing and understanding convolutional networks", figure 3):
AlexNet in one group, with smaller filters and strides at first.

    224x224x3 -> 96@7x7/2 p1 -> 110x110 -> max 3/2 p1 -> norm -> 55x55
              -> 256@5x5/2   -> 26x26   -> max 3/2 p1 -> norm -> 13x13
              -> 384@3x3 -> 384@3x3 -> 256@3x3 -> max 3/2 -> 6x6
              -> 4096 -> 4096 -> 1000

The lecture's slide widens the last three convolutions to 512, 1024 and 512, as the paper tries in
its table 3. The paper says "contrast normalized across feature maps" without constants: AlexNet's
are taken.
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import Conv2d, Layer, LocalResponseNorm, MaxPool2d, ReLU, Sequential
from fastconv.models.alexnet import RESPONSE_NORMS
from fastconv.models.parts import check_arguments, classifier

WIDTHS = {"paper": (384, 384, 256), "lecture": (512, 1024, 512)}


def zfnet(
    *,
    num_classes: int = 1000,
    variant: str = "paper",
    response_norm: bool = True,
    seed: int | None = None,
) -> Sequential:
    """ZFNet for images (3, 224, 224).

    Parameters
    ----------
    num_classes : int
    variant : "paper" or "lecture"
        Filters of the third to fifth convolution: 384, 384, 256 or 512, 1024, 512.
    response_norm : bool
        Whether to normalise across maps after the first two pools.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If ``variant`` is unknown or ``num_classes`` is below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.zfnet().num_parameters, fc.models.zfnet(variant="lecture").num_parameters
    (62357608, 107627624)
    """
    check_arguments("zfnet", variant, tuple(WIDTHS), num_classes=num_classes)
    third, fourth, fifth = WIDTHS[variant]

    def norm(index: int) -> dict[str, Layer]:
        constants = RESPONSE_NORMS["paper"]
        return {f"norm{index}": LocalResponseNorm(5, **constants)} if response_norm else {}

    with init.seeded(seed):
        return Sequential(
            {
                "conv1": Conv2d(3, 96, 7, stride=2, padding=1),
                "relu1": ReLU(),
                "pool1": MaxPool2d(3, stride=2, padding=1),
                **norm(1),
                "conv2": Conv2d(96, 256, 5, stride=2),
                "relu2": ReLU(),
                "pool2": MaxPool2d(3, stride=2, padding=1),
                **norm(2),
                "conv3": Conv2d(256, third, 3, padding=1),
                "relu3": ReLU(),
                "conv4": Conv2d(third, fourth, 3, padding=1),
                "relu4": ReLU(),
                "conv5": Conv2d(fourth, fifth, 3, padding=1),
                "relu5": ReLU(),
                "pool5": MaxPool2d(3, stride=2),
                **classifier(fifth * 6 * 6, num_classes),
            }
        )
