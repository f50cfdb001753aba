"""Residual and plain networks for CIFAR-10 (He, Zhang, Ren, Sun 2015, section 4.2).

    32x32x3 -> 16@3x3 -> n blocks of 16 -> n of 32, the first /2 -> n of 64, the first /2
            -> average of each map -> 10

A block is two 3x3 convolutions, each with batch norm; depth = 6 n + 2. Shortcuts are identities;
where the map shrinks they take every other pixel and fill new channels with zeros ("option A"), so
that residual and plain networks have the same parameters.
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
    ReLU,
    Sequential,
    ZeroPaddedShortcut,
)
from fastconv.layers.arguments import positive
from fastconv.models.parts import ResidualBlock

WIDTHS = (16, 32, 64)


def cifar_resnet(depth: int, *, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """The residual network of ``depth`` layers for images (3, 32, 32).

    ``state_dict`` has the names of github.com/akamaster/pytorch_resnet_cifar10, whose checkpoints
    load unchanged.

    Parameters
    ----------
    depth : int
        6 n + 2: the paper has 20, 32, 44, 56, 110 and 1202.
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
        If ``depth`` is not 6 n + 2, or ``num_classes`` is below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.cifar_resnet(20)
    >>> model.num_parameters, model.output_shape((8, 3, 32, 32))
    (269722, (8, 10))
    """
    return _network("cifar_resnet", depth, num_classes, seed, residual=True)


def cifar_plain(depth: int, *, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """``cifar_resnet`` without its shortcuts: deeper is worse, in training and test alike.

    Parameters, names and errors are those of ``cifar_resnet``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.cifar_plain(56).num_parameters == fc.models.cifar_resnet(56).num_parameters
    True
    """
    return _network("cifar_plain", depth, num_classes, seed, residual=False)


def _network(
    function: str, depth: int, num_classes: int, seed: int | None, *, residual: bool
) -> Sequential:
    depth, num_classes = positive(function, depth=depth, num_classes=num_classes)
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(
            f"{function}: depth={depth}, but 6 n + 2 with n of at least 1 is needed, such as "
            f"{6 * max(1, blocks) + 2}"
        )
    with init.seeded(seed):
        layers: dict[str, Layer] = {
            "conv1": Conv2d(3, WIDTHS[0], 3, padding=1, bias=False),
            "bn1": BatchNorm2d(WIDTHS[0]),
            "relu": ReLU(),
        }
        channels = WIDTHS[0]
        for stage, width in enumerate(WIDTHS, start=1):
            stride = 1 if stage == 1 else 2
            firsts = [_block(channels, width, stride, residual)]
            others = [_block(width, width, 1, residual) for _ in range(blocks - 1)]
            layers[f"layer{stage}"] = Sequential(*firsts, *others)
            channels = width
        layers["avgpool"] = GlobalAvgPool2d()
        layers["flatten"] = Flatten()
        layers["linear"] = Linear(channels, num_classes)
    return Sequential(layers)


def _block(in_channels: int, channels: int, stride: int, residual: bool) -> Layer:
    body: dict[str, Layer] = {
        "conv1": Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
        "bn1": BatchNorm2d(channels),
        "relu1": ReLU(),
        "conv2": Conv2d(channels, channels, 3, padding=1, bias=False),
        "bn2": BatchNorm2d(channels),
    }
    if not residual:
        return Sequential({**body, "relu2": ReLU()})
    if (in_channels, stride) == (channels, 1):
        return ResidualBlock(body)
    return ResidualBlock(
        body, ("shortcut", ZeroPaddedShortcut(in_channels, channels, stride=stride))
    )
