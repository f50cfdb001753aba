"""Images with labels in memory, batches of them in a seeded order, and augmentation.

Pixels stay as they were read (uint8) and are scaled batch by batch: value / 255, minus ``mean``,
over ``std``, per channel. The order of an epoch depends on (seed, epoch) alone, and the
augmentation of a batch on (seed, epoch, batch) alone, so that a run can be taken up anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Separates the streams of random numbers that come from one seed.
ORDER, AUGMENT = 1, 2


class Dataset:
    """Images (M, C, H, W) and their labels (M,).

    Parameters
    ----------
    images : array, shape (M, C, H, W) or (M, features)
        uint8 (scaled to 0..1 in batches) or floating (taken as it is).
    labels : array, shape (M,)
        Class numbers, or any array with M rows.
    mean, std : float or one float per channel
        Subtracted from and divided into the scaled values.
    classes : sequence of str
        Names of the classes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> data = fc.data.Dataset(np.zeros((4, 1, 2, 2), np.uint8), np.arange(4), mean=0.5, std=0.5)
    >>> x, y = data.batch([0, 3])
    >>> x.shape, float(x[0, 0, 0, 0]), y
    ((2, 1, 2, 2), -1.0, array([0, 3]))
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        *,
        mean: Any = 0.0,
        std: Any = 1.0,
        classes: Sequence[str] = (),
    ) -> None:
        self.images, self.labels = np.asarray(images), np.asarray(labels)
        if len(self.images) != len(self.labels):
            raise ValueError(f"Dataset: {len(self.images)} images, but {len(self.labels)} labels")
        if self.images.dtype != np.uint8 and self.images.dtype.kind != "f":
            raise TypeError(
                f"Dataset: images have dtype {self.images.dtype}, but uint8 or floating is needed"
            )
        channels = self.images.shape[1] if self.images.ndim > 1 else 1
        self.mean = np.broadcast_to(np.asarray(mean, np.float64), (channels,))
        self.std = np.broadcast_to(np.asarray(std, np.float64), (channels,))
        if not (self.std > 0).all():
            raise ValueError(f"Dataset: std={std!r}, but positive numbers are needed")
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: Any) -> Dataset:
        """The images at ``indices`` (a slice, or an array of numbers)."""
        return Dataset(
            self.images[indices],
            self.labels[indices],
            mean=self.mean,
            std=self.std,
            classes=self.classes,
        )

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """What a training epoch takes from ``batch``, in this order: ``len(self)`` numbers.

        A function of (seed, epoch) alone. A data set whose epochs are parts of a large whole, or
        that numbers transformed copies with labels of their own, overrides it.
        """
        return epoch_order(len(self), seed, epoch)

    def batch(self, indices: Any, dtype: Any = np.float32) -> tuple[Any, Any]:
        """(x, labels) of some images: x scaled, of ``dtype``, images channels last in memory."""
        picked = self.images[indices]
        if picked.ndim == 4:
            return self._scaled(picked.transpose(0, 2, 3, 1), dtype).transpose(
                0, 3, 1, 2
            ), self.labels[indices]
        return self._scaled(picked, dtype), self.labels[indices]

    def _scaled(self, pixels: Any, dtype: Any) -> Any:
        """Pixels (..., C) scaled per channel."""
        if pixels.dtype == np.uint8:
            factor, shift = 1 / (255 * self.std), -self.mean / self.std
        else:
            factor, shift = 1 / self.std, -self.mean / self.std
        if not shift.any() and (factor == 1).all():
            return np.ascontiguousarray(pixels, dtype)
        scaled = np.multiply(pixels, factor.astype(dtype), dtype=dtype, order="C")
        scaled += shift.astype(dtype)
        return scaled

    def __repr__(self) -> str:
        return f"Dataset({len(self)} images of {self.shape}, {self.images.dtype})"


def as_dataset(value: Any) -> Dataset:
    """A ``Dataset``, or one made of (floating images, labels)."""
    if isinstance(value, Dataset):
        return value
    try:
        images, labels = value
    except (TypeError, ValueError):
        raise TypeError(
            f"a fc.data.Dataset or (images, labels) is needed, not a {type(value).__name__}"
        ) from None
    if np.asarray(images).dtype.kind != "f":
        raise TypeError(
            f"images have dtype {np.asarray(images).dtype}: give floating ones, or "
            f"fc.data.Dataset(images, labels, mean=..., std=...), which scales uint8"
        )
    return Dataset(images, labels)


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch takes ``count`` images."""
    return np.random.default_rng([ORDER, seed, epoch]).permutation(count)


def batches(
    dataset: Any,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    augment: Any = None,
    dtype: Any = np.float32,
) -> Iterator[tuple[Any, Any]]:
    """Batches (x, labels) of an epoch, from batch number ``start``; the last may be smaller.

    Parameters
    ----------
    dataset : Dataset or (images, labels)
    batch_size : int
    shuffle : bool
        Take the images in the data set's ``order`` for (seed, epoch).
    augment : callable, optional
        ``augment(x, rng) -> x`` with a generator that depends on (seed, epoch, batch number).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> data = fc.data.Dataset(np.zeros((5, 1, 2, 2), np.uint8), np.arange(5))
    >>> [len(y) for _, y in fc.data.batches(data, 2)]
    [2, 2, 1]
    """
    source = as_dataset(dataset)
    if batch_size < 1:
        raise ValueError(f"batches: batch_size={batch_size!r}, but at least 1 is needed")
    order = source.order(seed, epoch) if shuffle else np.arange(len(source))
    for number in range(start, -(-len(source) // batch_size)):
        x, labels = source.batch(order[number * batch_size : (number + 1) * batch_size], dtype)
        if augment is not None:
            x = augment(x, np.random.default_rng([AUGMENT, seed, epoch, number]))
        yield x, labels


class CropAndFlip:
    """Pad by ``padding`` zeros, crop a random window of the old size, mirror half of the images.

    The augmentation of He et al. 2015, section 4.2. Zeros are those of the scaled values.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> augment = fc.data.CropAndFlip(padding=4)
    >>> augment(np.ones((2, 3, 32, 32), np.float32), np.random.default_rng(0)).shape
    (2, 3, 32, 32)
    """

    def __init__(self, padding: int = 4, flip: bool = True) -> None:
        if padding < 0:
            raise ValueError(f"CropAndFlip: padding={padding!r}, but at least 0 is needed")
        self.padding, self.flip = padding, flip

    def __call__(self, x: Any, rng: np.random.Generator) -> Any:
        count, channels, height, width = x.shape
        pad = self.padding
        rows, cols = rng.integers(0, 2 * pad + 1, size=(2, count))
        mirrored = rng.random(count) < 0.5 if self.flip else np.zeros(count, bool)
        padded = np.zeros((count, height + 2 * pad, width + 2 * pad, channels), x.dtype)
        padded[:, pad : pad + height, pad : pad + width] = x.transpose(0, 2, 3, 1)
        result = np.empty((count, height, width, channels), x.dtype)
        for index in range(count):
            row, col = rows[index], cols[index]
            window = padded[index, row : row + height, col : col + width]
            result[index] = window[:, ::-1] if mirrored[index] else window
        return result.transpose(0, 3, 1, 2)

    def __repr__(self) -> str:
        return f"CropAndFlip(padding={self.padding}, flip={self.flip})"
