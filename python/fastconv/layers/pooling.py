"""Pooling layers over images (N, C, H, W); windows, padding and ceil_mode as in
``fastconv.ops``."""

from __future__ import annotations

from typing import Any

from fastconv import ops
from fastconv.graph import Value
from fastconv.layers.arguments import arguments, as_typed, compact, pair
from fastconv.layers.base import Layer
from fastconv.layers.gradients import with_batch
from fastconv.ops.devices import on_device


class MaxPool2d(Layer):
    """Maximum over windows; ``stride`` defaults to ``kernel_size``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.MaxPool2d(3, stride=2).output_shape((1, 96, 55, 55))
    (1, 96, 27, 27)
    """

    def __init__(
        self,
        kernel_size: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = pair("MaxPool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("MaxPool2d", "stride", stride)
        self.padding = as_typed(padding)
        self.dilation = pair("MaxPool2d", "dilation", dilation)
        self.ceil_mode = bool(ceil_mode)

    def _geometry(self) -> dict[str, Any]:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Any) -> Any:
        if not self.training:
            return ops.max_pool2d(x, **self._geometry())
        y, indices = ops.max_pool2d(x, **self._geometry(), return_indices=True)
        self.save(indices, x.shape, None)
        return y

    def mask_by(self, y: Any) -> None:
        """Have backward do the part of the ReLU before this layer, whose output here was ``y``."""
        indices, input_shape, _ = self.saved()
        self.save(indices, input_shape, y)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        indices, input_shape, relu_output = self.saved()
        if not need_input:
            return None
        if relu_output is not None:
            grad_y = ops.relu_backward(grad_y, relu_output)
        shape = with_batch(input_shape)
        return ops.max_pool2d_backward(grad_y, indices, shape, **self._geometry())

    def lower(self, x: Value) -> Value:
        return x.graph.add("max_pool2d", (x,), **self._geometry())

    def extra_repr(self) -> str:
        return arguments(
            compact(self.kernel_size),
            stride=(compact(self.stride), compact(self.kernel_size)),
            padding=(compact(self.padding), 0),
            dilation=(compact(self.dilation), 1),
            ceil_mode=(self.ceil_mode, False),
        )


class AvgPool2d(Layer):
    """Average over windows; ``stride`` defaults to ``kernel_size``.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.AvgPool2d(2)
    AvgPool2d(2)
    """

    def __init__(
        self,
        kernel_size: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size = pair("AvgPool2d", "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("AvgPool2d", "stride", stride)
        self.padding = as_typed(padding)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        self.divisor_override = as_typed(divisor_override)

    def _geometry(self) -> dict[str, Any]:
        names = (
            "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Any) -> Any:
        self.save(x.shape)
        return ops.avg_pool2d(x, **self._geometry())

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (input_shape,) = self.saved()
        if not need_input:
            return None
        return ops.avg_pool2d_backward(grad_y, with_batch(input_shape), **self._geometry())

    def lower(self, x: Value) -> Value:
        return x.graph.add("avg_pool2d", (x,), **self._geometry())

    def extra_repr(self) -> str:
        return arguments(
            compact(self.kernel_size),
            stride=(compact(self.stride), compact(self.kernel_size)),
            padding=(compact(self.padding), 0),
            ceil_mode=(self.ceil_mode, False),
            count_include_pad=(self.count_include_pad, True),
            divisor_override=(self.divisor_override, None),
        )


class AdaptiveAvgPool2d(Layer):
    """Average over windows that cut each map into ``output_size``, an int or (height, width).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.AdaptiveAvgPool2d(6).output_shape((1, 256, 13, 13))
    (1, 256, 6, 6)
    """

    def __init__(self, output_size: Any) -> None:
        self.output_size = pair("AdaptiveAvgPool2d", "output_size", output_size)

    def forward(self, x: Any) -> Any:
        self.save(x.shape, ops.is_channels_last(x))
        return ops.adaptive_avg_pool2d(x, self.output_size)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        input_shape, was_channels_last = self.saved()
        if not need_input:
            return None
        grad_y = _with_order(grad_y, was_channels_last)
        return ops.adaptive_avg_pool2d_backward(grad_y, with_batch(input_shape))

    def lower(self, x: Value) -> Value:
        return x.graph.add("adaptive_avg_pool2d", (x,), output_size=self.output_size)

    def extra_repr(self) -> str:
        return arguments(compact(self.output_size))


class GlobalAvgPool2d(Layer):
    """Average of each map: (N, C, H, W) -> (N, C, 1, 1).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.GlobalAvgPool2d().output_shape((1, 512, 7, 7))
    (1, 512, 1, 1)
    """

    def forward(self, x: Any) -> Any:
        self.save(x.shape, ops.is_channels_last(x))
        return ops.global_avg_pool2d(x)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        input_shape, was_channels_last = self.saved()
        if not need_input:
            return None
        grad_y = _with_order(grad_y, was_channels_last)
        return ops.global_avg_pool2d_backward(grad_y, with_batch(input_shape))

    def lower(self, x: Value) -> Value:
        return x.graph.add("global_avg_pool2d", (x,))


def _with_order(grad_y: Any, channels_last: bool) -> Any:
    """A gradient (N, C, 1, 1) is in both memory orders at once: give it the strides of the one that
    its images had, which the gradient of pooling follows."""
    if tuple(grad_y.shape[-2:]) != (1, 1):
        return grad_y
    if len(grad_y.shape) == 3:
        return _with_order(grad_y[None], channels_last)[0]
    n, c = grad_y.shape[:2]
    vectors = grad_y.reshape(n, c)
    if not channels_last:
        return vectors[..., None, None]
    images = vectors.reshape(n, 1, 1, c)  # PyTorch's transpose takes two axes, ours all
    return images.transpose(0, 3, 2, 1) if on_device(images) else images.swapaxes(1, 3)
