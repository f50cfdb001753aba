"""What functions over (N, C, L) share: they are those over images of height 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def named(function: str, inner: str) -> Iterator[None]:
    """Errors of `inner`, the function over images, bear the name of the one that was called."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        if not text.startswith(inner + ":"):
            raise
        raise type(error)(function + text.removeprefix(inner)) from None


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
    return (0, 0), (low, high)
