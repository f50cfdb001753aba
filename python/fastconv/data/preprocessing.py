"""From an image file to a network's input, as the program that trained the weights did it.

A network's weights work only with the resizing, the order of the channels and the numbers that they
were trained with. None of that is in a file of weights: it belongs to who published them.
``PREPROCESSINGS`` has what is common. Resizing is Pillow's bilinear filter, which averages when it
makes an image smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from fastconv.data.cifar10 import MEAN as CIFAR10_MEAN
from fastconv.data.cifar10 import STD as CIFAR10_STD
from fastconv.data.imagenet import MEAN as IMAGENET_MEAN
from fastconv.data.imagenet import STD as IMAGENET_STD
from fastconv.data.images import open_image, pillow
from fastconv.data.mnist import MEAN as MNIST_MEAN
from fastconv.data.mnist import STD as MNIST_STD

# A longer image, its shorter side made 256, would take gigabytes.
MAX_PROPORTION = 100
ORDERS = ("RGB", "BGR", "L")


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """``(pixel * scale - mean) / std`` of an image resized and cut to ``size``.

    Parameters
    ----------
    size : (height, width)
        Of the network's input: the middle of the resized image.
    resize : int or (height, width), optional
        Before that: the shorter side, or both sides whatever their proportion. By default straight
        to ``size``.
    order : "RGB", "BGR" or "L"
        The order of the channels; L is grey.
    scale : float
        Of pixels, which are 0 to 255.
    mean, std : float, one for each channel in ``order``, or an array (C, height, width)
        Of scaled pixels.

    Raises
    ------
    ValueError
        If ``order`` is unknown, ``std`` is not positive, ``resize`` is smaller than ``size``, or
        ``mean`` or ``std`` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> prepare = fc.data.Preprocessing((2, 2), order="BGR", scale=1.0, mean=(104, 117, 123))
    >>> prepare.array(np.full((2, 2, 3), [255, 0, 0], np.uint8))[:, 0, 0].tolist()
    [-104.0, -117.0, 132.0]
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None = None
    order: str = "RGB"
    scale: float = 1 / 255
    mean: Any = 0.0
    std: Any = 1.0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"Preprocessing: order={self.order!r}, but {ORDERS} are known")
        if not (np.asarray(self.std) > 0).all():
            raise ValueError(f"Preprocessing: std={self.std!r}, but positive numbers are needed")
        resize = self.size if self.resize is None else self.resize
        height, width = resize if isinstance(resize, tuple) else (resize, resize)
        if height < self.size[0] or width < self.size[1]:
            raise ValueError(
                f"Preprocessing: resize={self.resize} is smaller than size={self.size}, which is "
                f"cut out of it"
            )
        self._per_channel("mean")
        self._per_channel("std")

    def __call__(self, image: str | PathLike[str] | Any) -> Any:
        """The input (C, height, width), float32, of an image file or a ``PIL.Image.Image``."""
        image_module, _ = pillow("Preprocessing")
        mode = "L" if self.order == "L" else "RGB"
        is_image = isinstance(image, image_module.Image)
        picture: Any = image
        picture = picture.convert(mode) if is_image else open_image(image, mode)
        if max(picture.size) > MAX_PROPORTION * min(picture.size):
            raise ValueError(f"{image}: an image of {picture.height}x{picture.width} is too narrow")
        height, width = self._resized(picture.height, picture.width)
        if (picture.height, picture.width) != (height, width):
            picture = picture.resize((width, height), image_module.Resampling.BILINEAR)
        # Half pixels are rounded to even numbers, as torchvision does.
        top, left = (round((full - cut) / 2) for full, cut in zip((height, width), self.size))
        picture = picture.crop((left, top, left + self.size[1], top + self.size[0]))
        return self.array(np.asarray(picture).reshape(*self.size, -1))

    def array(self, pixels: Any) -> Any:
        """The input (C, height, width) of pixels (height, width, C), uint8, red first."""
        if self.order == "BGR":
            pixels = pixels[:, :, ::-1]
        scaled = pixels.transpose(2, 0, 1) * np.float32(self.scale)
        return ((scaled - self._per_channel("mean")) / self._per_channel("std")).astype(np.float32)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return self.size
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = min(height, width)  # the longer side is rounded down, as torchvision's is
        return self.resize * height // shorter, self.resize * width // shorter

    def _per_channel(self, name: str) -> Any:
        """``mean`` or ``std``, so that it broadcasts over (C, height, width)."""
        value = np.asarray(getattr(self, name), np.float32)
        channels = 1 if self.order == "L" else 3
        if value.shape in ((), (channels, *self.size)):
            return value
        if value.shape == (channels,):
            return value[:, None, None]
        raise ValueError(
            f"Preprocessing: {name} has shape {value.shape}, but one number, {channels} or "
            f"{(channels, *self.size)} are needed"
        )


def _imagenet(**what: Any) -> Preprocessing:
    return Preprocessing((224, 224), **what)


# By name, for `python -m fastconv classify`. Sizes are replaced by the network's own.
PREPROCESSINGS = {
    # torchvision's weights; https://pytorch.org/vision/stable/models.html
    "torchvision": _imagenet(resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # torchvision's GoogLeNet, whose `transform_input` makes this of the former.
    "inception": _imagenet(resize=256, mean=0.5, std=0.5),
    # BVLC's GoogLeNet, AlexNet and CaffeNet: the whole image, not in proportion.
    "caffe": _imagenet(resize=(256, 256), order="BGR", scale=1.0, mean=(104, 117, 123)),
    # The VGG nets as their authors published them for Caffe.
    "caffe_vgg": _imagenet(resize=256, order="BGR", scale=1.0, mean=(103.939, 116.779, 123.68)),
    # What `fc.data.load_cifar10` and `load_mnist` give, and so what `fastconv train` trains with.
    "cifar10": Preprocessing((32, 32), mean=CIFAR10_MEAN, std=CIFAR10_STD),
    "mnist": Preprocessing((28, 28), order="L", mean=MNIST_MEAN, std=MNIST_STD),
    # What `fc.data.load_image_splits` gives; and akamaster/pytorch_resnet_cifar10.
    "image_folder": _imagenet(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # Caffe's examples: CIFAR-10 is not scaled (and has red first); the mean image is better.
    "caffe_cifar10": Preprocessing(
        (32, 32), scale=1.0, mean=tuple(255 * mean for mean in CIFAR10_MEAN)
    ),
    "caffe_mnist": Preprocessing((28, 28), order="L", scale=1 / 256),
}
