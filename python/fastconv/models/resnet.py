"""ResNet-18, 34, 50, 101 and 152 (He, Zhang, Ren, Sun 2015, table 1).

    224x224x3 -> 64@7x7/2 -> max 3/2 p1 -> 56x56 -> stages of 64, 128, 256, 512 filters, from the
              second on /2 -> 7x7 -> average of each map -> 1000

    basic (18, 34)           3x3 -> 3x3            each with batch norm, ReLU between and
    bottleneck (from 50)     1x1 -> 3x3 -> 1x1     after the sum; the last 1x1 has 4 times the width

Names are torchvision's, and so is "v1.5": the 3x3 of a bottleneck has the stride, where the paper's
first 1x1 has it. A shortcut whose shape changes is a 1x1 convolution with batch norm ("option B").
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import (
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.layers.arguments import positive
from fastconv.models.parts import ResidualBlock

WIDTHS = (64, 128, 256, 512)
# Blocks in each stage.
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BOTTLENECKS = (50, 101, 152)
EXPANSION = 4


def resnet18(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """ResNet of basic blocks; parameters, result and errors are those of ``resnet50``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.resnet18().num_parameters
    11689512
    """
    return _resnet(18, num_classes, seed)


def resnet34(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """ResNet of basic blocks; parameters, result and errors are those of ``resnet50``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.resnet34().num_parameters
    21797672
    """
    return _resnet(34, num_classes, seed)


def resnet50(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """ResNet of bottlenecks for images (3, 224, 224), or other sizes from 32x32 on.

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
    >>> model = fc.models.resnet50()
    >>> model.num_parameters, model.output_shape((1, 3, 224, 224))
    (25557032, (1, 1000))
    """
    return _resnet(50, num_classes, seed)


def resnet101(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """ResNet of bottlenecks; parameters, result and errors are those of ``resnet50``.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     fc.models.resnet101().num_parameters
    44549160
    """
    return _resnet(101, num_classes, seed)


def resnet152(*, num_classes: int = 1000, seed: int | None = None) -> Sequential:
    """ResNet of bottlenecks; parameters, result and errors are those of ``resnet50``.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     fc.models.resnet152().num_parameters
    60192808
    """
    return _resnet(152, num_classes, seed)


def _resnet(depth: int, num_classes: int, seed: int | None) -> Sequential:
    positive(f"resnet{depth}", num_classes=num_classes)
    bottleneck = depth in BOTTLENECKS
    with init.seeded(seed):
        layers: dict[str, Layer] = {
            "conv1": Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            "bn1": BatchNorm2d(64),
            "relu": ReLU(),
            "maxpool": MaxPool2d(3, stride=2, padding=1),
        }
        channels = 64
        for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True), start=1):
            out_channels = EXPANSION * width if bottleneck else width
            stride = 1 if stage == 1 else 2
            first = _block(channels, width, out_channels, stride)
            others = [_block(out_channels, width, out_channels, 1) for _ in range(blocks - 1)]
            layers[f"layer{stage}"] = Sequential(first, *others)
            channels = out_channels
        layers["avgpool"] = GlobalAvgPool2d()
        layers["flatten"] = Flatten()
        layers["fc"] = Linear(channels, num_classes)
    return Sequential(layers)


def _block(in_channels: int, width: int, out_channels: int, stride: int) -> ResidualBlock:
    """A bottleneck where the block ends wider than its 3x3 is."""
    if out_channels == width:
        convolutions = [
            Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False),
            Conv2d(width, width, 3, padding=1, bias=False),
        ]
    else:
        convolutions = [
            Conv2d(in_channels, width, 1, bias=False),
            Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            Conv2d(width, out_channels, 1, bias=False),
        ]
    body: dict[str, Layer] = {}
    for index, conv in enumerate(convolutions, start=1):
        body[f"conv{index}"] = conv
        body[f"bn{index}"] = BatchNorm2d(conv.out_channels)
        if conv is not convolutions[-1]:
            body[f"relu{index}"] = ReLU()
    if (in_channels, stride) == (out_channels, 1):
        return ResidualBlock(body)
    projection = Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return ResidualBlock(body, ("downsample", Sequential(projection, BatchNorm2d(out_channels))))
