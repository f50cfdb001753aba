"""A classifier's linear layers as convolutions, or replaced by an average of each map.

    maps (C, H, W) -> flatten -> linear K x C H W    =    convolution K@HxW -> (K, 1, 1)
    vector K       -> linear K' x K                  =    convolution K'@1x1

The same numbers at the size that the classifier was made for; on a larger image the convolutions
give a map of scores, one for each place where the classifier fits, whose average is the result
(Sermanet et al. 2013, OverFeat; Simonyan, Zisserman 2014, section 3.2).

``average_pooled`` drops the linear layers instead: the average of each of the last maps, and one
linear layer (Lin, Chen, Yan 2013, "Network in network"; GoogLeNet and ResNet do so).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fastconv import init
from fastconv.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    Sequential,
)
from fastconv.layers.arguments import positive


def fully_convolutional(model: Layer, image_shape: Sequence[int]) -> Sequential:
    """The same classifier without linear layers, for images of any size from its own on.

    Parameters
    ----------
    model : Sequential
        Layers, then ``Flatten``, then linear layers with what acts on each value; ``Sequential``
        may be nested. It is not changed, and its weights are copied.
    image_shape : tuple of int
        (C, H, W) of the images it was made for.

    Returns
    -------
    Sequential
        In the mode of ``model``: "features", "classifier" (convolutions: a map of scores),
        "average" and "flatten". Its parts make heat maps: ``net.classifier(net.features(x))``.

    Raises
    ------
    TypeError
        If ``model`` is no ``Sequential``.
    ValueError
        If there is no ``Flatten``, a layer behind it is neither linear nor element-wise, or an
        adaptive pool before it changes the size.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     net = fc.models.fully_convolutional(fc.models.vgg11(), (3, 224, 224))
    >>> net.output_shape((1, 3, 256, 320)), net[:2].output_shape((1, 3, 256, 320))
    ((1, 1000), (1, 1000, 2, 4))
    """
    features, linear = _split("fully_convolutional", model, image_shape)
    c, h, w = Sequential(*features).output_shape((1, *image_shape))[1:]
    pooled = bool(features) and isinstance(features[-1], GlobalAvgPool2d)
    if pooled and sum(isinstance(layer, Linear) for layer in linear) == 1:
        features = features[:-1]  # the average of linear scores is the score of the average
    layers = []
    for layer in linear:
        layers.append(_convolution(layer, (c, h, w)) if isinstance(layer, Linear) else layer)
        if isinstance(layer, Linear):
            c, h, w = layer.out_features, 1, 1
    return Sequential(
        {
            "features": Sequential(*features),
            "classifier": Sequential(*layers),
            "average": GlobalAvgPool2d(),
            "flatten": Flatten(),
        }
    ).train(model.training)


def average_pooled(
    model: Layer, image_shape: Sequence[int], *, num_classes: int = 1000, seed: int | None = None
) -> Sequential:
    """The classifier's convolutions, the average of each of their maps, and one new linear layer.

    Parameters
    ----------
    model, image_shape
        As of ``fully_convolutional``; the weights before ``Flatten`` are copied.
    num_classes : int
    seed : int, optional
        Of the linear layer's weights, which are to be trained.

    Returns
    -------
    Sequential
        "features", "average", "flatten" and "classifier", for images of any size that they take.

    Raises
    ------
    TypeError, ValueError
        As ``fully_convolutional``, or if ``num_classes`` is below 1.

    Examples
    --------
    VGG-16 with a tenth of its parameters:

    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     net = fc.models.average_pooled(fc.models.vgg16(), (3, 224, 224))
    >>> net.num_parameters
    15227688
    """
    positive("average_pooled", num_classes=num_classes)
    features, _ = _split("average_pooled", model, image_shape)
    channels = Sequential(*features).output_shape((1, *image_shape))[1]
    with init.seeded(seed):
        classifier = Linear(channels, num_classes)
    return Sequential(
        {
            "features": Sequential(*features),
            "average": GlobalAvgPool2d(),
            "flatten": Flatten(),
            "classifier": classifier,
        }
    ).train(model.training)


def _split(
    function: str, model: Layer, image_shape: Sequence[int]
) -> tuple[list[Layer], list[Layer]]:
    """The layers before and behind the first ``Flatten``, without an idle adaptive pool; copies,
    but for the linear ones."""
    if not isinstance(model, Sequential):
        raise TypeError(
            f"{function}: model is a {type(model).__name__}, but a Sequential of layers is needed"
        )
    layers = _leaves(model)
    places = [i for i, layer in enumerate(layers) if isinstance(layer, Flatten)]
    if not places:
        raise ValueError(f"{function}: model has no Flatten, so no linear layers to replace")
    features, linear = copy.deepcopy(layers[: places[0]]), layers[places[0] + 1 :]
    if features and isinstance(features[-1], AdaptiveAvgPool2d):
        pool = features.pop()
        before = Sequential(*features).output_shape((1, *image_shape))
        after = pool.output_shape(before)
        if after != before:
            raise ValueError(
                f"{function}: {pool!r} turns {before[2]}x{before[3]} maps into "
                f"{after[2]}x{after[3]} for images {tuple(image_shape)}; give the image_shape at "
                f"which it does nothing"
            )
    _check_element_wise(function, linear)
    return features, [
        layer if isinstance(layer, Linear) else copy.deepcopy(layer) for layer in linear
    ]


def _leaves(model: Sequential) -> list[Layer]:
    leaves: list[Layer] = []
    for layer in model:
        leaves += _leaves(layer) if isinstance(layer, Sequential) else [layer]
    return leaves


def _check_element_wise(function: str, layers: list[Layer]) -> None:
    """Refuse what would act otherwise on a map of vectors than on one."""
    for layer in layers:
        if isinstance(layer, (Linear, BatchNorm2d)):
            continue
        try:
            same = layer.output_shape((1, 4, 3, 2)) == (1, 4, 3, 2)
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"{function}: {layer!r} behind Flatten is neither linear nor element-wise"
            )


def _convolution(linear: Linear, window: tuple[int, int, int]) -> Conv2d:
    """The convolution over ``window`` (C, H, W) with the linear layer's weights."""
    channels, height, width = window
    shape = (linear.out_features, channels, height, width)
    with init.skipped():
        conv = Conv2d(channels, linear.out_features, (height, width), bias=linear.bias is not None)
    conv.weight.data = linear.weight.data.reshape(shape)
    if conv.bias is not None and linear.bias is not None:
        conv.bias.data = linear.bias.data
    return conv
