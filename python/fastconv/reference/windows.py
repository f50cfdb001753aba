"""Where a sliding window stands along an axis, found by counting.

A window of `kernel` taps, `dilation` apart, covers `extent = (kernel - 1) * dilation + 1`
positions. Window i begins at `i * stride - low`, where position 0 is the first input element and
`low`, `high` count the padding before and after the input. Window i exists if it ends within the
padded input; with `ceil_mode` it may hang over by less than one stride, but must begin before the
input ends. There is no closed formula here on purpose: the compiled code has one, and this module
counts windows one after the other so that each checks the other.

Shapes: images (N, C, H, W), kernels (K, C // groups, R, S), outputs (N, K, P, Q).
Not handled: negative padding (cropping).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = int | str | Sequence[int] | Sequence[Sequence[int]]

P = ParamSpec("P")
R = TypeVar("R")


def no_warnings(function: Callable[P, R]) -> Callable[P, R]:
    """NaN and infinities are values here, as in the compiled kernels: NumPy need not warn."""

    @wraps(function)
    def silent(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return silent


@dataclass(frozen=True)
class Axis:
    """The windows along one axis: what the module's head says, as an object."""

    size: int
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int
    ceil_mode: bool = False

    @property
    def extent(self) -> int:
        """Positions from a window's first tap to its last, both included."""
        return (self.kernel - 1) * self.dilation + 1

    def has_window(self, index: int) -> bool:
        """Whether window `index` exists."""
        start = index * self.stride - self.low
        overhang = start + self.extent - (self.size + self.high)
        if self.ceil_mode:
            return overhang < self.stride and start < self.size
        return overhang <= 0

    @cached_property
    def count(self) -> int:
        """Number of windows, counted one by one."""
        count = 0
        while self.has_window(count):
            count += 1
        return count

    @cached_property
    def padded_size(self) -> int:
        """Length of an array that holds the padding and every window to its end."""
        last_window_end = (self.count - 1) * self.stride + self.extent
        return max(self.low + self.size + self.high, last_window_end)

    def tap(self, index: int) -> slice:
        """What tap `index` of all windows touches, in the padded array."""
        first = index * self.dilation
        return slice(first, first + (self.count - 1) * self.stride + 1, self.stride)

    @property
    def inside(self) -> slice:
        """The input within the padded array."""
        return slice(self.low, self.low + self.size)


def pair(value: Pair, name: str, least: int = 1) -> tuple[int, int]:
    """`value`, an int or (height, width), as (height, width)."""
    both = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(both) != 2 or any(int(v) != v or v < least for v in both):
        raise ValueError(f"{name}={value!r}: wanted an int or (height, width), each >= {least}")
    return int(both[0]), int(both[1])


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """The padding with which ceil(size / stride) windows fit; the odd one goes after the input."""
    wanted = len(range(0, size, stride))
    last_window_end = (wanted - 1) * stride + (kernel - 1) * dilation + 1
    total = max(0, last_window_end - size)
    return total // 2, total - total // 2


def axes(
    size: Sequence[int],
    kernel: tuple[int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair = 1,
    *,
    ceil_mode: bool = False,
) -> tuple[Axis, Axis]:
    """The two axes (rows, columns) of windows over an image of `size` = (H, W)."""
    strides, dilations = pair(stride, "stride"), pair(dilation, "dilation")
    both = []
    for i in range(2):
        if padding == "same":
            low, high = same_padding(size[i], kernel[i], strides[i], dilations[i])
        else:
            low, high = explicit_padding(padding)[i]
        both.append(Axis(size[i], kernel[i], strides[i], dilations[i], low, high, ceil_mode))
        if both[i].count < 1:
            raise ValueError(
                f"no window fits: input {size[i]} + padding {low} + {high} is less than the "
                f"window's extent {both[i].extent} along {('the height', 'the width')[i]}"
            )
    return both[0], both[1]


def explicit_padding(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """`padding` in any of its forms but "same" as ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f'padding={padding!r}: wanted "valid", "same" or numbers')
        return (0, 0), (0, 0)
    if isinstance(padding, (int, np.integer)):
        return pair(int(padding), "padding", 0), pair(int(padding), "padding", 0)
    if len(padding) != 2:
        raise ValueError(f"padding={padding!r}: wanted (height, width) or two pairs of them")
    # An int h stands for (h, h): (height, width) and ((top, bottom), (left, right)) are one form.
    rows, cols = padding
    return pair(rows, "padding", 0), pair(cols, "padding", 0)


def pad(x: Array, rows: Axis, cols: Axis, value: float = 0) -> Array:
    """(N, C, H, W) -> (N, C, rows.padded_size, cols.padded_size), `value` around the input."""
    shape = (*x.shape[:2], rows.padded_size, cols.padded_size)
    padded = np.full(shape, value, dtype=x.dtype)
    padded[:, :, rows.inside, cols.inside] = x
    return padded


def as_batch(x: Array, name: str = "x") -> Array:
    """(C, H, W) -> (1, C, H, W); a batch stays as it is."""
    x = np.asarray(x)
    if x.ndim not in (3, 4):
        raise ValueError(f"{name} has shape {x.shape}: wanted (N, C, H, W) or (C, H, W)")
    return x if x.ndim == 4 else x[None]


def like_batch(result: Array, given: Array) -> Array:
    """`result` (1, ...) without its batch axis if `given` had none."""
    return result if np.ndim(given) == 4 else result[0]


def check_grad(shape: Sequence[int], wanted: Sequence[int]) -> None:
    """Complain unless a gradient has the shape of what it is the gradient of."""
    if tuple(shape) != tuple(wanted):
        raise ValueError(f"grad_output has shape {tuple(shape)}: wanted {tuple(wanted)}")
