"""The two small networks that Caffe publishes with weights: LeNet for MNIST and CIFAR-10 quick.

    LeNet           28x28x1 -> 20@5x5 -> max 2/2 -> 50@5x5 -> max 2/2 -> 4x4x50 -> 500 -> 10
    CIFAR-10 quick  32x32x3 -> 32@5x5 -> max 3/2 -> 32@5x5 -> avg 3/2 -> 64@5x5 -> avg 3/2 -> 4x4x64
                            -> 64 -> 10

Layers have Caffe's names (examples/mnist/lenet.prototxt, examples/cifar10/cifar10_quick.prototxt),
so that its weights load unchanged. Pools round up, as Caffe's do.
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import (
    AvgPool2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.layers.arguments import positive


def caffe_lenet(*, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """Caffe's LeNet for images (1, 28, 28): wider than LeNet-5, and ReLU only before the last
    layer.

    Parameters
    ----------
    num_classes : int
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Notes
    -----
    Caffe's weights want pixels of 0 to 255 divided by 256, white digits on black.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.caffe_lenet()
    >>> model.num_parameters, model.output_shape((2, 1, 28, 28))
    (431080, (2, 10))
    """
    positive("caffe_lenet", num_classes=num_classes)
    with init.seeded(seed):
        return Sequential(
            {
                "conv1": Conv2d(1, 20, 5),
                "pool1": MaxPool2d(2),
                "conv2": Conv2d(20, 50, 5),
                "pool2": MaxPool2d(2),
                "flatten": Flatten(),
                "ip1": Linear(50 * 4 * 4, 500),
                "relu1": ReLU(),
                "ip2": Linear(500, num_classes),
            }
        )


def cifar10_quick(*, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """Caffe's "quick" network for CIFAR-10, images (3, 32, 32).

    Parameters
    ----------
    num_classes : int
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    Sequential
        Gives logits (N, num_classes).

    Notes
    -----
    Caffe's weights want pixels of 0 to 255, red first, minus the training set's mean image.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.cifar10_quick()
    >>> model.num_parameters, model.output_shape((2, 3, 32, 32))
    (145578, (2, 10))
    """
    positive("cifar10_quick", num_classes=num_classes)
    with init.seeded(seed):
        return Sequential(
            {
                "conv1": Conv2d(3, 32, 5, padding=2),
                "pool1": MaxPool2d(3, stride=2, ceil_mode=True),
                "relu1": ReLU(),
                "conv2": Conv2d(32, 32, 5, padding=2),
                "relu2": ReLU(),
                "pool2": AvgPool2d(3, stride=2, ceil_mode=True),
                "conv3": Conv2d(32, 64, 5, padding=2),
                "relu3": ReLU(),
                "pool3": AvgPool2d(3, stride=2, ceil_mode=True),
                "flatten": Flatten(),
                "ip1": Linear(64 * 4 * 4, 64),
                "ip2": Linear(64, num_classes),
            }
        )
