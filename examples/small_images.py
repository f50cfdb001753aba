"""What the examples train on: MNIST where it is, else bars in eight directions, made here."""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np

DIRECTIONS, SIZE = 8, 28


def bars(count: int, seed: int) -> fc.data.Dataset:
    """Noisy 28x28 images of one bar each, somewhere; the class is its direction."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, DIRECTIONS, count)
    angle = (np.pi / DIRECTIONS * labels)[:, None, None]
    rows, cols = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    row, col = (rng.uniform(9, 19, (count, 1, 1)) for _ in range(2))
    along = (cols - col) * np.cos(angle) + (rows - row) * np.sin(angle)
    across = (rows - row) * np.cos(angle) - (cols - col) * np.sin(angle)
    ink = np.clip(2 - np.abs(across), 0, 1) * np.clip(9 - np.abs(along), 0, 1)
    pixels = np.clip(ink + rng.normal(0, 0.25, ink.shape), 0, 1)
    images = (255 * pixels).astype(np.uint8)[:, None]
    classes = tuple(f"{180 * k / DIRECTIONS:g} degrees" for k in range(DIRECTIONS))
    return fc.data.Dataset(images, labels, mean=0.2, std=0.3, classes=classes)


def small_images(settings: figures.Settings, count: int) -> tuple[Any, Any, str]:
    """(training set of at most `count` images, test set, what it is)."""
    folder = settings.find("mnist")
    if folder is not None:
        train, test = fc.data.load_mnist(folder)
        return train.subset(slice(count)), test.subset(slice(count)), "MNIST"
    return bars(count, seed=1), bars(min(count, 2000), seed=2), "synthetic bars"


def train(
    model: fc.layers.Layer, data: Any, test: Any, *, epochs: int, lr: float, seed: int = 0
) -> float:
    """`fc.fit` with the settings that all examples share; the part of `test` that is right then."""
    optimizer = fc.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = fc.optim.CosineAnnealingLR(optimizer, T_max=epochs)
    fc.fit(
        model, data, epochs=epochs, batch_size=64, optimizer=optimizer, schedule=schedule,
        seed=seed, progress=False,
    )  # fmt: skip
    model.eval()
    batches = fc.data.batches(test, 250, shuffle=False)
    return sum(int((model(x).argmax(axis=1) == y).sum()) for x, y in batches) / len(test)
