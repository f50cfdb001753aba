"""Image files as arrays. Needs Pillow, the extra ``images``: ``pip install fastconv[images]``."""

from __future__ import annotations

from os import PathLike
from typing import Any

MODES = ("RGB", "L")


def open_image(path: str | PathLike[str], mode: str) -> Any:
    """The picture in a file as a ``PIL.Image.Image`` of ``mode``, turned as its camera was held.

    Raises
    ------
    ImportError
        Without Pillow.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no image, or is damaged; the message names the file.
    """
    image_module, operations = pillow("open_image")
    try:
        with image_module.open(path) as image:
            return operations.exif_transpose(image).convert(mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # each format's decoder raises kinds of its own
        raise ValueError(f"{path} cannot be read: {error}") from error


def pillow(function: str) -> tuple[Any, Any]:
    """The modules ``PIL.Image`` and ``PIL.ImageOps``; ``ImportError`` says how to get them."""
    try:
        from PIL import Image, ImageOps  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise ImportError(
            f"{function} needs Pillow: pip install pillow (or fastconv[images])"
        ) from None
    return Image, ImageOps


def check_mode(function: str, mode: str) -> None:
    """Refuse what is neither "RGB" nor "L" (grey)."""
    if mode not in MODES:
        raise ValueError(f"{function}: mode={mode!r}, but 'RGB' or 'L' is needed")
