"""All-CNN-A, B and C (Springenberg, Dosovitskiy, Brox, Riedmiller 2014, "Striving for simplicity:
the all convolutional net", tables 1 and 2): pooling replaced by convolutions of stride 2.

              A         B              C
    32x32     96@5x5    96@5x5, 1x1    96@3x3, 3x3
              96@3x3/2                                  in place of a max pool 3/2
    16x16     192@5x5   192@5x5, 1x1   192@3x3, 3x3
              192@3x3/2                                 in place of a max pool 3/2
    8x8       192@3x3 (no padding, 6x6), 192@1x1, num_classes@1x1, average of each map

ReLU after every convolution, the last too, as in the paper's table 1. Dropout: 20 % of the input,
50 % after each reduction.
"""

from __future__ import annotations

from fastconv import init
from fastconv.layers import Conv2d, Dropout, Flatten, GlobalAvgPool2d, Layer, ReLU, Sequential
from fastconv.layers.arguments import positive

# Filter sizes of the convolutions before each reduction.
SIZES = {"a": (5,), "b": (5, 1), "c": (3, 3)}


def all_cnn_a(*, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """All-CNN-A; parameters, result and errors are those of ``all_cnn_c``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.all_cnn_a().num_parameters
    1254250
    """
    return _all_cnn("a", num_classes, seed)


def all_cnn_b(*, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """All-CNN-B; parameters, result and errors are those of ``all_cnn_c``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.models.all_cnn_b().num_parameters
    1300618
    """
    return _all_cnn("b", num_classes, seed)


def all_cnn_c(*, num_classes: int = 10, seed: int | None = None) -> Sequential:
    """All-CNN-C for images (3, 32, 32), or other sizes from 12x12 on.

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
    >>> model = fc.models.all_cnn_c()
    >>> model.num_parameters, model.output_shape((8, 3, 32, 32))
    (1369738, (8, 10))
    """
    return _all_cnn("c", num_classes, seed)


def _all_cnn(letter: str, num_classes: int, seed: int | None) -> Sequential:
    positive(f"all_cnn_{letter}", num_classes=num_classes)
    with init.seeded(seed):
        layers: list[Layer] = [Dropout(0.2)]
        channels = 3
        for width in (96, 192):
            for size in SIZES[letter]:
                layers += [Conv2d(channels, width, size, padding=size // 2), ReLU()]
                channels = width
            layers += [Conv2d(width, width, 3, stride=2, padding=1), ReLU(), Dropout(0.5)]
        layers += [Conv2d(192, 192, 3), ReLU(), Conv2d(192, 192, 1), ReLU()]
        layers += [Conv2d(192, num_classes, 1), ReLU()]
        return Sequential(*layers, GlobalAvgPool2d(), Flatten())
