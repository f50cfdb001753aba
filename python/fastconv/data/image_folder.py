"""Image folders: one folder a class, image files in it. Needs Pillow (the extra ``images``).

All images are held in memory, as bytes: 150 KB each at 224x224.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.data.dataset import Dataset
from fastconv.data.imagenet import MEAN, STD
from fastconv.data.images import check_mode, open_image, pillow

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm")


def load_image_folder(
    directory: str | PathLike[str],
    *,
    size: int | tuple[int, int],
    mode: str = "RGB",
    mean: Any = 0.0,
    std: Any = 1.0,
) -> Dataset:
    """All images below ``directory``, each resized to ``size`` (height, width).

    Parameters
    ----------
    directory : str or path
        With one folder a class; classes are numbered in the order of their names.
    size : int or (height, width)
    mode : "RGB" or "L"
        Three channels or grey.

    Raises
    ------
    ImportError
        Without Pillow.
    ValueError
        If there are no images, or one cannot be read.
    """
    image_module, _ = pillow("load_image_folder")
    check_mode("load_image_folder", mode)
    height, width = (size, size) if isinstance(size, int) else size
    classes = sorted(entry.name for entry in Path(directory).iterdir() if entry.is_dir())
    files = [
        (file, number)
        for number, name in enumerate(classes)
        for file in sorted((Path(directory) / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise ValueError(f"{directory}: no images in folders of classes")
    channels = 3 if mode == "RGB" else 1
    stored = np.empty((len(files), height, width, channels), np.uint8)
    for index, (file, _) in enumerate(files):
        bilinear = image_module.Resampling.BILINEAR
        picture = open_image(file, mode).resize((width, height), bilinear)
        stored[index] = np.asarray(picture).reshape(height, width, channels)
    labels = np.array([number for _, number in files], np.int64)
    return Dataset(stored.transpose(0, 3, 1, 2), labels, mean=mean, std=std, classes=classes)


def load_image_splits(
    directory: str | PathLike[str], *, size: int | tuple[int, int], mode: str = "RGB"
) -> tuple[Dataset, Dataset]:
    """(training, validation) sets: the folders ``train`` and ``val`` below ``directory``.

    Colours are normalised by ImageNet's mean and deviation, grey by 0.5 and 0.5.

    Parameters
    ----------
    directory : str or path
    size, mode
        As of ``load_image_folder``.

    Raises
    ------
    ValueError
        If a folder is missing, or their classes differ.
    """
    folders = [Path(directory) / name for name in ("train", "val")]
    if not all(folder.is_dir() for folder in folders):
        raise ValueError(
            f"{directory}: folders train and val, each with one folder of images a class, are "
            f"needed"
        )
    mean, std = (MEAN, STD) if mode == "RGB" else (0.5, 0.5)
    train, held = (
        load_image_folder(folder, size=size, mode=mode, mean=mean, std=std) for folder in folders
    )
    if train.classes != held.classes:
        odd = sorted(set(train.classes) ^ set(held.classes))
        raise ValueError(f"{directory}: train and val differ in the classes {', '.join(odd[:5])}")
    return train, held
