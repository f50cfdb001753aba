"""Arguments that are no arrays: checked once, with the value and what would be right in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# So that places in a padded image, up to twice this beyond it, fit 32 bits and their products 64.
LARGEST = 10**9
GRADIENTS = ("input", "weight", "bias")


def is_relu(function: str, activation: Any) -> bool:
    if activation is None:
        return False
    if not isinstance(activation, str) or activation != "relu":
        raise ValueError(f'{function}: activation is {activation!r}; wanted None or "relu"')
    return True


def take_groups(function: str, groups: Any) -> int:
    if type(groups) is int and 0 < groups <= LARGEST:
        return groups
    return take_integer(function, "groups", groups, 1)


def take_integer(function: str, name: str, value: Any, least: int) -> int:
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):
        raise TypeError(f"{function}: {name} is {value!r}; wanted an int") from None
    if not least <= number <= LARGEST:
        bound = f"at least {least}" if number < least else f"at most {LARGEST}"
        raise ValueError(f"{function}: {name} is {value!r}; wanted {bound}")
    return number


def take_flag(function: str, name: str, value: Any) -> bool:
    """A bool; 0 and 1 will do."""
    if type(value) is bool:
        return value
    if isinstance(value, int | np.bool_ | np.integer) and value in (0, 1):
        return bool(value)
    raise TypeError(f"{function}: {name} is {value!r}; wanted True or False")


def take_number(function: str, name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if not isinstance(value, str | bytes) and getattr(value, "ndim", 0) == 0:
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise TypeError(f"{function}: {name} is {value!r}; wanted a number")


def take_need(function: str, need: Any) -> Sequence[str]:
    """Which gradients to compute."""
    names = 'the names are "input", "weight", "bias"'
    if isinstance(need, str | bytes) or not isinstance(need, Sequence | set | frozenset):
        raise TypeError(f"{function}: need is {need!r}; wanted a tuple, {names}")
    unknown = [name for name in need if not isinstance(name, str) or name not in GRADIENTS]
    if unknown:
        raise ValueError(f"{function}: need has {unknown}; {names}")
    return tuple(need)
