"""Image folders: one folder a class, image files in it. Needs Pillow (``pip install pillow``)."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.data.dataset import Dataset

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
    try:
        from PIL import Image  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ImportError("load_image_folder needs Pillow: pip install pillow") from None
    if mode not in ("RGB", "L"):
        raise ValueError(f"load_image_folder: mode={mode!r}, but 'RGB' or 'L' is needed")
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
        try:
            with Image.open(file) as image:
                picture = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, Image.DecompressionBombError, SyntaxError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        stored[index] = np.asarray(picture).reshape(height, width, channels)
    labels = np.array([number for _, number in files], np.int64)
    return Dataset(stored.transpose(0, 3, 1, 2), labels, mean=mean, std=std, classes=classes)
