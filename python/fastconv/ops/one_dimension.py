"""What functions over (N, C, L) share: they are those over images of height 1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .arguments import LARGEST

# Shapes of height 1, and strides with that axis's 0, as images have them: three numbers or more.
_OF_IMAGES = re.compile(r"\((-?\d+(?:, -?\d+)*), [01], (-?\d+)\)")
_OF_ROWS = r"(\1, \2)"


@contextmanager
def named(function: str, inner: str, padding: Any = 0) -> Iterator[None]:
    """Errors of `inner`, the function over images, bear the name of the one that was called, and
    its shapes and `padding`: the user's, who knows of no height."""
    try:
        yield
    except (TypeError, ValueError, MemoryError) as error:
        text = str(error)
        if not text.startswith(inner + ":"):
            raise
        text = function + text.removeprefix(inner)
        text = text.replace("along the width", "along L")
        if not isinstance(padding, str):
            text = text.replace(repr(beside(function, padding)), repr(padding))
        raise type(error)(_OF_IMAGES.sub(_OF_ROWS, text)) from None


def beside(function: str, padding: Any) -> Any:
    """Padding along L as padding along W, none along H."""
    if isinstance(padding, str):
        return padding
    try:
        if hasattr(padding, "__index__"):
            low = high = int(padding.__index__())
        else:
            low, high = (int(side.__index__()) for side in padding)
    except (AttributeError, TypeError, ValueError):
        raise TypeError(
            f'{function}: padding is {padding!r}; wanted an int, (left, right), "valid" or "same"'
        ) from None
    if min(low, high) < 0:
        raise ValueError(
            f"{function}: padding is {padding!r}; wanted 0 or more (slice x to crop it)"
        )
    if max(low, high) > LARGEST:
        raise ValueError(f"{function}: padding is {padding!r}; wanted at most {LARGEST}")
    return (0, 0), (low, high)
