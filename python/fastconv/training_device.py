"""Batches to the device of a model, losses back: with no wait between the steps of an epoch.

A step on a GPU is enqueued faster than it runs. Reading a loss waits for its step, so that losses
and predictions stay on the device and are read many at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import cuda, ops
from fastconv.cuda_streams import on_device as current
from fastconv.layers.base import Layer
from fastconv.layers.placement import HALVES, device_of, host
from fastconv.ops.devices import on_device
from fastconv.ops.families import import_any

STEPS_BETWEEN_READS = 64


class Feed:
    """Takes batches to where a model's parameters are, in their dtype.

    Through two pinned buffers each for images and labels, so that a batch is copied while the step
    before runs; a buffer is written again when its copy is done.
    """

    def __init__(self, model: Layer) -> None:
        arrays = [parameter.data for parameter in model.parameters()]
        halves = [array for array in arrays if array.dtype.name in HALVES]
        first = (halves or arrays or [np.empty(0, np.float32)])[0]
        self.device, self.dtype = device_of(first), first.dtype.name
        self._images, self._labels = _Staging(), _Staging()

    @property
    def host_dtype(self) -> np.dtype[Any]:
        """Of the batches before they go to the device."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def send(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """(x, labels) on the device; as they are on the host."""
        if self.device is None:
            return x, labels
        if labels.dtype.kind in "iu":
            numbers, dtype = labels.astype(np.int64, copy=False), "int64"
        else:
            numbers, dtype = labels.astype(np.float32, copy=False), self.dtype
        with current(self.device):
            return self._images.send(x, self.dtype), self._labels.send(numbers, dtype)


class _Staging:
    """Pinned buffers that take turns."""

    def __init__(self) -> None:
        self._turns: list[tuple[Any, Any]] = []  # a flat buffer, and the end of its last copy
        self._next = 0

    def send(self, array: Any, dtype: str) -> Any:
        """A copy on the current device, in the same memory order, enqueued."""
        if len(self._turns) < 2:
            self._turns.append((cuda.pinned(array.size, array.dtype), None))
            self._next = len(self._turns) - 1
        buffer, copied = self._turns[self._next]
        if copied is not None:
            copied.elapsed(copied)  # waits for it
        if buffer.size < array.size or buffer.dtype != array.dtype:
            buffer = cuda.pinned(array.size, array.dtype)
        last = array.ndim == 4 and ops.is_channels_last(array)
        dense = array.transpose(0, 2, 3, 1) if last else array
        staged = buffer[: array.size].reshape(dense.shape)
        np.copyto(staged, dense)
        sent = cuda.asarray(staged.transpose(0, 3, 1, 2) if last else staged, dtype=dtype)
        self._turns[self._next] = (buffer, cuda.Event().record())
        self._next = 1 - self._next
        return sent


class Totals:
    """Running sums of an epoch."""

    def __init__(
        self,
        loss_sum: float = 0.0,
        correct: int | None = 0,
        images: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self.loss_sum, self.correct, self.images, self.seconds = loss_sum, correct, images, seconds
        self._unread: list[tuple[Any, Any, Any]] = []  # loss, predictions, labels

    def add(self, loss: Any, output: Any, labels: Any, seconds: float) -> None:
        """Count a batch: its mean loss, and how many classes were right, where there are classes.

        What lies on a device is read later.
        """
        logits = output[0] if isinstance(output, tuple) else output
        if labels.ndim == 1 and logits.ndim == 2 and labels.dtype.kind in "iu":
            self._unread.append((loss, _predictions(logits), labels))
        else:
            self._unread.append((loss, None, labels))
        self.images += len(labels)
        self.seconds += seconds
        if not on_device(loss) or len(self._unread) >= STEPS_BETWEEN_READS:
            self.read()

    def read(self) -> None:
        """Wait for what was counted so far."""
        for loss, predictions, labels in self._unread:
            self.loss_sum += float(loss) * len(labels)
            if predictions is None or self.correct is None:
                self.correct = None
            else:
                self.correct += int((host(predictions) == labels).sum())
        self._unread.clear()

    def numbers(self) -> dict[str, Any]:
        """The arguments that give these totals again."""
        self.read()
        names = ("loss_sum", "correct", "images", "seconds")
        return {name: getattr(self, name) for name in names}

    @property
    def _read_images(self) -> int:
        return max(self.images - sum(len(labels) for *_, labels in self._unread), 1)

    @property
    def loss(self) -> float:
        """The mean over the images read so far."""
        return self.loss_sum / self._read_images

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self._read_images


def _predictions(logits: Any) -> Any:
    """(N, C) -> the classes (N,) with the largest logits."""
    if not hasattr(logits, "argmax"):
        array = import_any("fit", "output", logits)
        images = array[:, None, None, :]  # the place of an image's maximum is an argmax
        _, places = ops.adaptive_max_pool2d(images, 1, return_indices=True)
        return places[:, 0, 0, 0]
    return logits.argmax(axis=1)
