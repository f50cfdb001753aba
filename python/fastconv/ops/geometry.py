"""stride, padding, dilation: from what a user may write to numbers, and the sizes of results.

The output-size formula itself is in csrc/core/problem.h; this module words its errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from .arguments import LARGEST

Pair = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]


class Geometry(NamedTuple):
    """How a window moves over an image and how many positions it has."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    dilation: tuple[int, int]
    output: tuple[int, int]

    def numbers(self, groups: int) -> tuple[int, ...]:
        """The nine numbers that _core takes."""
        return (*self.stride, *self.padding, *self.dilation, groups)


def pair(function: str, name: str, value: Pair, least: int) -> tuple[int, int]:
    """(height, width) from an int or a pair, each at least `least`."""
    both = (value, value) if hasattr(value, "__index__") else value
    try:
        height, width = (_integer(v) for v in both)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"{function}: {name} is {value!r}; wanted an int or (height, width)"
        ) from None
    if height < least or width < least:
        raise ValueError(f"{function}: {name} is {value!r}; wanted at least {least}")
    if height > LARGEST or width > LARGEST:
        raise ValueError(f"{function}: {name} is {value!r}; wanted at most {LARGEST}")
    return height, width


def _integer(value: Any) -> int:
    return int(value.__index__())


def paddings(
    function: str,
    value: Padding,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of any form of `padding`."""
    if isinstance(value, str):
        if value == "valid":
            return (0, 0, 0, 0)
        if value == "same":
            return (
                *_same(size[0], kernel[0], stride[0], dilation[0]),
                *_same(size[1], kernel[1], stride[1], dilation[1]),
            )
        raise ValueError(
            f'{function}: padding is {value!r}; the names are "valid" and "same", else give numbers'
        )
    try:
        if hasattr(value, "__index__"):
            height = width = (_integer(value), _integer(value))
        else:
            first, second = value
            height = _ends(first)
            width = _ends(second)
    except (TypeError, ValueError, AttributeError):
        raise TypeError(
            f"{function}: padding is {value!r}; wanted an int, (height, width), "
            f'((top, bottom), (left, right)), "valid" or "same"'
        ) from None
    if min(*height, *width) < 0:
        raise ValueError(f"{function}: padding is {value!r}; wanted 0 or more (slice x to crop it)")
    if max(*height, *width) > LARGEST:
        raise ValueError(f"{function}: padding is {value!r}; wanted at most {LARGEST}")
    return (*height, *width)


def _ends(value: Any) -> tuple[int, int]:
    if hasattr(value, "__index__"):
        return _integer(value), _integer(value)
    low, high = value
    return _integer(low), _integer(high)


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Keeps ceil(size / stride) positions; the odd pixel goes to the bottom and right."""
    positions = -(-size // stride)
    total = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def window_geometry(
    function: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool = False,
) -> Geometry:
    """The geometry of a window of `kernel` taps over an image of `size`.

    Raises
    ------
    ValueError
        If no window fits, with the arithmetic.
    """
    find = _known_geometry if are_keys(stride, padding, dilation) else _window_geometry
    return find(function, size, kernel, stride, padding, dilation, ceil_mode)


def are_keys(*values: Any) -> bool:
    """Whether a call can be remembered by `values`: what equals them means the same. Lists cannot
    be keys; nor may floats, since 1.0 equals 1, but is no stride."""
    for value in values:
        kind = type(value)
        if kind is tuple:
            for part in value:
                if type(part) is not int and not are_keys(part):
                    return False
        elif kind is not int and kind not in _KEYS and not isinstance(value, np.integer):
            return False
    return True


_KEYS = (str, bool, type(None))


def _window_geometry(
    function: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    ceil_mode: bool,
) -> Geometry:
    strides = pair(function, "stride", stride, 1)
    dilations = pair(function, "dilation", dilation, 1)
    pads = paddings(function, padding, size, kernel, strides, dilations)
    output = tuple(
        _core.output_size(
            size[a], kernel[a], strides[a], dilations[a], pads[2 * a], pads[2 * a + 1], ceil_mode
        )
        for a in (0, 1)
    )
    for a, axis in enumerate(("height", "width")):
        if output[a] < 1:
            extent = (kernel[a] - 1) * dilations[a] + 1
            low, high = pads[2 * a], pads[2 * a + 1]
            missing = extent - size[a] - low - high
            raise ValueError(
                f"{function}: no window fits along the {axis}: input {size[a]} + padding "
                f"{low} + {high} = {size[a] + low + high} is less than the kernel's extent "
                f"({kernel[a]} - 1) * {dilations[a]} + 1 = {extent}; needs {missing} more of input "
                f"or padding"
            )
    return Geometry(strides, pads, dilations, (output[0], output[1]))


_known_geometry = lru_cache(maxsize=1024)(_window_geometry)
