"""Checking layers' and optimisers' arguments, and reprs that can be typed back."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


def arguments(*positional: Any, **named: tuple[Any, Any]) -> str:
    """``3, 64, kernel_size=7``: positional values, then ``name=(value, default)`` that differ."""
    shown = [repr(value) for value in positional]
    shown += [f"{name}={value!r}" for name, (value, default) in named.items() if value != default]
    return ", ".join(shown)


def pair(owner: str, name: str, value: Any, minimum: int = 1) -> tuple[int, int]:
    """An int (NumPy's too) or (height, width), each at least ``minimum``."""
    number = as_int(value)
    values = value if number is None else (number, number)
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


def as_int(value: Any) -> int | None:
    """A whole number of any kind as Python's; None for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def number(owner: str, name: str, value: Any) -> int | float:
    """``value``, a number of any kind, as Python's int or float: a checkpoint can hold those."""
    if type(value) in (int, float, bool):
        return value
    if not isinstance(value, (str, bytes)) and getattr(value, "ndim", 0) == 0:
        try:
            whole = as_int(value)
            return float(value) if whole is None else whole
        except (TypeError, ValueError, OverflowError):
            pass
    raise TypeError(f"{owner}: {name}={value!r}, but a number is needed")


def as_typed(value: Any) -> Any:
    """``value`` with NumPy's integers, alone or in tuples, as they would be typed."""
    if isinstance(value, tuple):
        return tuple(map(as_typed, value))
    return int(value) if isinstance(value, np.integer) else value


def compact(value: Any) -> Any:
    """(3, 3) -> 3, as it would be typed."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0] if isinstance(value[0], int) else value
    return value


def positive(owner: str, **values: Any) -> list[int]:
    """The values as ints, each checked to be a positive whole number."""
    numbers = []
    for name, value in values.items():
        number = None if isinstance(value, bool) else as_int(value)
        if number is None or number < 1:
            raise ValueError(
                f"{owner}: {name}={value!r}, but a whole number of at least 1 is needed"
            )
        numbers.append(number)
    return numbers
