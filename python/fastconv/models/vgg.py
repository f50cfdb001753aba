"""VGG-11, 13, 16 and 19 (Simonyan, Zisserman 2014, table 1, columns A, B, D and E).

    224x224x3 -> five stages of 3x3 convolutions, a max pool 2/2 after each -> 7x7x512
              -> 4096 -> 4096 -> 1000

Names and dropout are torchvision's; its adaptive average pool to 7x7 does nothing at 224x224.
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
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.layers.arguments import positive

WIDTHS = (64, 128, 256, 512, 512)
# Depth with the three linear layers -> convolutions in each stage.
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg11(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """VGG with 8 convolutions (column A); parameters, result and errors are those of ``vgg16``.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     fc.models.vgg11().num_parameters
    132863336
    """
    return _vgg(11, num_classes, seed)


def vgg13(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """VGG with 10 convolutions (column B); parameters, result and errors are those of ``vgg16``.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     fc.models.vgg13().num_parameters
    133047848
    """
    return _vgg(13, num_classes, seed)


def vgg16(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """VGG with 13 convolutions (column D) for images (3, 224, 224), or other sizes from 32x32 on.

    Parameters
    ----------
    num_classes : int
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If ``num_classes`` is below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     model = fc.models.vgg16()
    >>> model.num_parameters, model.output_shape((1, 3, 224, 224))
    (138357544, (1, 1000))
    """
    return _vgg(16, num_classes, seed)


def vgg19(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """VGG with 16 convolutions (column E); parameters, result and errors are those of ``vgg16``.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     fc.models.vgg19().num_parameters
    143667240
    """
    return _vgg(19, num_classes, seed)


def _vgg(depth: int, num_classes: int, seed: int | None) -> Sequential:
    positive(f"vgg{depth}", num_classes=num_classes)
    with init.seeded(seed):
        features: list[Layer] = []
        channels = 3
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            for _ in range(count):
                features += [Conv2d(channels, width, 3, padding=1), ReLU()]
                channels = width
            features.append(MaxPool2d(2))
        linear = Sequential(
            Linear(channels * 7 * 7, 4096),
            ReLU(),
            Dropout(0.5),
            Linear(4096, 4096),
            ReLU(),
            Dropout(0.5),
            Linear(4096, num_classes),
        )
    model = Sequential(
        {
            "features": Sequential(*features),
            "avgpool": AdaptiveAvgPool2d(7),
            "flatten": Flatten(),
            "classifier": linear,
        }
    )
    model.caffe_layers = _caffe_layers(depth)
    return model


def _caffe_layers(depth: int) -> dict[str, str]:
    """Layers of the authors' networks in Caffe, conv1_1 to fc8 -> ours."""
    names = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
    place = 0
    for stage, count in enumerate(CONVOLUTIONS[depth], start=1):
        for index in range(1, count + 1):
            names[f"conv{stage}_{index}"] = f"features.{place}"
            place += 2  # a ReLU follows
        place += 1  # and a pool the stage
    return names
