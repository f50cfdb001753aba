"""Highway networks (Srivastava, Greff, Schmidhuber 2015, "Training very deep networks").

    y = H(x) T(x) + x (1 - T(x)),   H = relu(W x + b),   T = sigmoid(V x + c)

The gate's bias c starts below zero, so that at first a layer passes most of its input on, and
gradients reach the first layers of any depth.

    fully connected   784 -> 50 -> highway layers of 50 -> 10
    convolutional     three stages at 32x32, 16x16 and 8x8: a 3x3 convolution that sets the width,
                      then highway layers of 3x3 convolutions; max pool 2/2 between stages, average
                      of each map, 10
"""

from __future__ import annotations

from typing import Any

from fastconv import init
from fastconv.layers import (
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Highway,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.layers.arguments import as_int, positive

# Fitnet 4's (Romero et al. 2014), on which the paper builds: 19 layers are 2.3 M parameters.
WIDTHS = (32, 80, 128)


def highway_mlp(
    depth: int,
    *,
    num_classes: int = 10,
    in_features: int = 784,
    width: int = 50,
    gate_bias: float = -2.0,
    seed: int | None = None,
) -> Sequential:
    """A fully connected highway network for images of ``in_features`` values, as MNIST's.

    Parameters
    ----------
    depth : int
        Layers: one that sets the width, highway layers, the output; at least 3. The paper has 10
        to 100.
    num_classes, in_features : int
    width : int
        Of the highway layers; the paper has 50.
    gate_bias : float
        Initial bias of the gates; the paper has -1 to -4, lower for deeper networks.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Takes (N, in_features) or images of as many values, gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If ``depth`` is below 3 or another size below 1.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.highway_mlp(10)
    >>> model.num_parameters, model.output_shape((8, 1, 28, 28))
    (80560, (8, 10))
    """
    num_classes, in_features, width = positive(
        "highway_mlp", num_classes=num_classes, in_features=in_features, width=width
    )
    layers_deep = as_int(depth)
    if layers_deep is None or layers_deep < 3:
        raise ValueError(
            f"highway_mlp: depth={depth!r}, but a whole number of at least 3 is needed"
        )
    with init.seeded(seed):
        layers: dict[str, Layer] = {
            "flatten": Flatten(),
            "input": Linear(in_features, width),
            "relu": ReLU(),
        }
        for index in range(1, layers_deep - 1):
            layers[f"highway{index}"] = _gated(Linear, gate_bias, width, width)
        layers["output"] = Linear(width, num_classes)
    return Sequential(layers)


def cifar_highway(
    depth: int, *, num_classes: int = 10, gate_bias: float = -2.0, seed: int | None = None
) -> Sequential:
    """A convolutional highway network for images (3, 32, 32).

    Parameters
    ----------
    depth : int
        3 n + 4: in each stage a convolution and n highway layers, and the output. The paper has 19.
    num_classes : int
    gate_bias : float
        Initial bias of the gates; the paper has -1 to -4, lower for deeper networks.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Raises
    ------
    ValueError
        If ``depth`` is not 3 n + 4, or ``num_classes`` is below 1.

    Notes
    -----
    The paper gives depth and parameters, not every layer; the widths and their order are Fitnet
    4's.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.cifar_highway(19)
    >>> model.num_parameters, model.output_shape((8, 3, 32, 32))
    (2262714, (8, 10))
    """
    depth, num_classes = positive("cifar_highway", depth=depth, num_classes=num_classes)
    count, rest = divmod(depth - 4, 3)
    if rest or count < 1:
        raise ValueError(
            f"cifar_highway: depth={depth}, but 3 n + 4 with n of at least 1 is needed, such as "
            f"{3 * max(1, count) + 4}"
        )
    with init.seeded(seed):
        layers: dict[str, Layer] = {}
        channels = 3
        for stage, width in enumerate(WIDTHS, start=1):
            if stage > 1:
                layers[f"pool{stage - 1}"] = MaxPool2d(2)
            layers[f"conv{stage}"] = Conv2d(channels, width, 3, padding=1)
            layers[f"relu{stage}"] = ReLU()
            gated = [_gated(Conv2d, gate_bias, width, width, 3, padding=1) for _ in range(count)]
            layers[f"stage{stage}"] = Sequential(*gated)
            channels = width
        layers["avgpool"] = GlobalAvgPool2d()
        layers["flatten"] = Flatten()
        layers["output"] = Linear(channels, num_classes)
    return Sequential(layers)


def _gated(layer: Any, gate_bias: float, *sizes: int, **options: Any) -> Highway:
    """A highway layer whose transform and gate are layers of the same kind and size."""
    transform, gate = Sequential(layer(*sizes, **options), ReLU()), layer(*sizes, **options)
    gate.bias.data[...] = gate_bias
    return Highway(transform, gate)
