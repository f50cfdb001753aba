"""Checking layers' arguments, and reprs that can be typed back."""

from __future__ import annotations

from typing import Any


def arguments(*positional: Any, **named: tuple[Any, Any]) -> str:
    """``3, 64, kernel_size=7``: positional values, then ``name=(value, default)`` that differ."""
    shown = [repr(value) for value in positional]
    shown += [f"{name}={value!r}" for name, (value, default) in named.items() if value != default]
    return ", ".join(shown)


def pair(owner: str, name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """An int or (height, width), each at least ``minimum``."""
    values = (value, value) if isinstance(value, int) else value
    try:
        height, width = (int(v) for v in values)
        whole = all(int(v) == v for v in values)
    except (TypeError, ValueError):
        raise TypeError(
            f"{owner}: {name}={value!r}, but an int or a pair (height, width) of ints is needed"
        ) from None
    if not whole or min(height, width) < minimum:
        raise ValueError(
            f"{owner}: {name}={value!r}, but whole numbers of at least {minimum} are needed"
        )
    return height, width


def compact(value: Any) -> Any:
    """(3, 3) -> 3, as it would be typed."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0] if isinstance(value[0], int) else value
    return value


def positive(owner: str, **values: Any) -> None:
    """Check that each value is a positive whole number."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{owner}: {name}={value!r}, but a whole number of at least 1 is needed"
            )
