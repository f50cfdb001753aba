"""ZeroPaddedShortcut: the shortcut without parameters of He et al. 2015, section 4.2 ("option A").

y[:, before : before + C] = x[:, :, ::stride, ::stride], other channels zero
"""

from __future__ import annotations

from typing import Any

from fastconv.graph import Value
from fastconv.layers.arguments import arguments, positive
from fastconv.layers.base import Layer
from fastconv.ops.arrays import empty, take
from fastconv.ops.families import give


class ZeroPaddedShortcut(Layer):
    """The input itself, every ``stride``-th row and column, with channels of zeros around its own.

    Parameters
    ----------
    in_channels, out_channels : int
        Half of the new channels come before the input's, rounded down.
    stride : int

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.ZeroPaddedShortcut(16, 32, stride=2).output_shape((1, 16, 32, 32))
    (1, 32, 16, 16)
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        in_channels, out_channels, stride = positive(
            "ZeroPaddedShortcut", in_channels=in_channels, out_channels=out_channels, stride=stride
        )
        if out_channels < in_channels:
            raise ValueError(
                f"ZeroPaddedShortcut: out_channels={out_channels}, but at least "
                f"in_channels={in_channels} are needed"
            )
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.before = (out_channels - in_channels) // 2

    def _check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4 or shape[1] != self.in_channels:
            raise ValueError(
                f"images (N, {self.in_channels}, H, W) are needed, but the input has shape "
                f"{tuple(shape)}"
            )

    def forward(self, x: Any) -> Any:
        given, step = take("ZeroPaddedShortcut", "x", x), self.stride
        array = given[None] if given.ndim == 3 else given
        self._check(array.shape)
        self.save(array.shape)
        sampled = array[:, :, ::step, ::step]
        n, _, h, w = sampled.shape
        y = empty((n, self.out_channels, h, w), array.dtype, array)
        y[...] = 0
        y[:, self.before : self.before + self.in_channels] = sampled
        return give(y if array is given else y[0], x)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (shape,) = self.saved()
        if not need_input:
            return None
        given, step = take("ZeroPaddedShortcut", "grad_y", grad_y), self.stride
        array = given[None] if given.ndim == 3 else given
        grad_x = empty(shape, array.dtype, array)
        grad_x[...] = 0
        grad_x[:, :, ::step, ::step] = array[:, self.before : self.before + self.in_channels]
        return give(grad_x if array is given else grad_x[0], grad_y)

    def lower(self, x: Value) -> Value:
        self._check(x.shape)
        return x.graph.add(
            "zero_padded_shortcut",
            (x,),
            channels=self.out_channels,
            before=self.before,
            stride=self.stride,
        )

    def extra_repr(self) -> str:
        return arguments(self.in_channels, self.out_channels, stride=(self.stride, 1))
