"""Convolution layers: y = conv(x, weight) + bias, weight (K, C // groups, R, S) as PyTorch's.

In eval mode the weight is packed once for the kernels; in training every call packs it anew,
because the optimiser changes it in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv import init, ops
from fastconv.graph import Value
from fastconv.layers.activation import ReLU
from fastconv.layers.arguments import arguments, as_typed, compact, pair, positive
from fastconv.layers.base import Layer
from fastconv.layers.gradients import accumulate, accumulate_bias, needed, with_batch
from fastconv.layers.parameter import Parameter
from fastconv.ops.devices import on_device


def _take_channels(owner: str, in_channels: int, out_channels: int, groups: int) -> list[int]:
    in_channels, out_channels, groups = positive(
        owner, in_channels=in_channels, out_channels=out_channels, groups=groups
    )
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value % groups:
            raise ValueError(
                f"{owner}: groups={groups} does not divide {name}={value} "
                f"({value} = {value // groups} x {groups} + {value % groups})"
            )
    return [in_channels, out_channels, groups]


class Conv2d(Layer):
    """Convolution of images, as the field means it (cross-correlation).

    Parameters
    ----------
    in_channels, out_channels : int
        C and K.
    kernel_size, stride, dilation : int or (height, width)
    padding : int, (height, width), ((top, bottom), (left, right)), "valid" or "same"
    groups : int
        Divides C and K; each group of filters sees its own C // groups channels.
    bias : bool
        Whether to add one value per filter.

    Attributes
    ----------
    weight : Parameter, shape (K, C // groups, R, S)
        He initialised (He et al. 2015).
    bias : Parameter, shape (K,), or None
        Zero at first.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.Conv2d(3, 8, 3, padding=1).output_shape((1, 3, 32, 32))
    (1, 8, 32, 32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        in_channels, out_channels, groups = _take_channels(
            "Conv2d", in_channels, out_channels, groups
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("Conv2d", "kernel_size", kernel_size)
        self.stride = pair("Conv2d", "stride", stride)
        self.dilation = pair("Conv2d", "dilation", dilation)
        self.padding = as_typed(padding)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(init.he_normal(shape))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None

    def geometry(self, input_shape: tuple[int, ...]) -> dict[str, Any]:
        """The keyword arguments of ``ops.conv2d``; a subclass may let them depend on the input."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def forward(self, x: Any) -> Any:
        return self._convolve(x, None)

    def forward_relu(self, x: Any, relu: ReLU) -> Any:
        y = self._convolve(x, "relu")
        relu.save(y)
        return y

    def _convolve(self, x: Any, activation: str | None) -> Any:
        geometry = self.geometry(x.shape)
        weight = self.weight.data
        if self.training:
            self.save(x)
        elif not on_device(weight):  # there, packing ahead gains nothing
            # Two threads may both pack at first; either result is right, and one is kept.
            if self._packed is None:
                self.__dict__["_packed"] = ops.pack_weight(self.weight.data, groups=self.groups)
            weight = self._packed
        return ops.conv2d(x, weight, _data(self.bias), **geometry, activation=activation)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        self._accumulate(grad_y)
        return self._grad_input(grad_y) if need_input else None

    def backward_plus(self, grad_y: Any, other: Any) -> Any:
        """backward(grad_y) + other, in one pass (layers/fused.py)."""
        self._accumulate(grad_y)
        return self._grad_input(grad_y, residual=other)

    def _grad_input(self, grad_y: Any, **options: Any) -> Any:
        (x,) = self.saved()
        options |= self.geometry(x.shape)
        return ops.conv2d_grad_input(grad_y, self.weight.data, with_batch(x.shape), **options)

    def _accumulate(self, grad_y: Any) -> None:
        (x,) = self.saved()
        geometry = self.geometry(x.shape)
        weight, bias = self.weight, self.bias
        if weight.requires_grad:
            weight.accumulate_from(
                lambda out, accumulate: ops.conv2d_grad_weight(
                    grad_y, x, weight.shape, **geometry, out=out, accumulate=accumulate
                )
            )
        accumulate_bias(bias, grad_y)

    def lower(self, x: Value) -> Value:
        names = {"weight": "weight"} | ({"bias": "bias"} if self.bias is not None else {})
        return x.graph.add(
            "conv2d", (x,), names, weight_shape=self.weight.shape, **self.geometry(x.shape)
        )

    def extra_repr(self) -> str:
        return arguments(
            self.in_channels,
            self.out_channels,
            kernel_size=(compact(self.kernel_size), None),
            stride=(compact(self.stride), 1),
            padding=(compact(self.padding), 0),
            dilation=(compact(self.dilation), 1),
            groups=(self.groups, 1),
            bias=(self.bias is not None, True),
        )


class ConvTranspose2d(Layer):
    """Transposed convolution: the gradient of a convolution with respect to its input, used
    forward.

    Parameters are those of ``Conv2d`` with ``output_padding`` (rows and columns added at the bottom
    and right); ``weight`` has shape (in_channels, out_channels // groups, R, S).

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.layers.ConvTranspose2d(8, 4, 2, stride=2).output_shape((1, 8, 14, 14))
    (1, 4, 28, 28)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        *,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        name = "ConvTranspose2d"
        in_channels, out_channels, groups = _take_channels(name, in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(name, "kernel_size", kernel_size)
        self.stride = pair(name, "stride", stride)
        self.padding = pair(name, "padding", padding, minimum=0)
        self.output_padding = pair(name, "output_padding", output_padding, minimum=0)
        self.dilation = pair(name, "dilation", dilation)
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        # An output element meets about R S / (stride_h stride_w) taps of C // groups channels.
        meets = self.kernel_size[0] * self.kernel_size[1] / (self.stride[0] * self.stride[1])
        fan_in = max(1.0, in_channels // groups * meets)
        self.weight = Parameter(init.normal(shape, std=(2.0 / fan_in) ** 0.5))
        self.bias = Parameter(np.zeros(out_channels, np.float32)) if bias else None

    def _geometry(self) -> dict[str, Any]:
        names = ("stride", "padding", "output_padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def forward(self, x: Any) -> Any:
        self.save(x)
        return ops.conv_transpose2d(x, self.weight.data, _data(self.bias), **self._geometry())

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (x,) = self.saved()
        need = needed(need_input, self.weight, self.bias)
        grad_x, grad_weight, grad_bias = ops.conv_transpose2d_backward(
            grad_y, x, self.weight.data, **self._geometry(), need=need
        )
        accumulate(self.weight, grad_weight)
        accumulate(self.bias, grad_bias)
        return grad_x

    def lower(self, x: Value) -> Value:
        names = {"weight": "weight"} | ({"bias": "bias"} if self.bias is not None else {})
        return x.graph.add(
            "conv_transpose2d", (x,), names, weight_shape=self.weight.shape, **self._geometry()
        )

    def extra_repr(self) -> str:
        return arguments(
            self.in_channels,
            self.out_channels,
            kernel_size=(compact(self.kernel_size), None),
            stride=(compact(self.stride), 1),
            padding=(compact(self.padding), 0),
            output_padding=(compact(self.output_padding), 0),
            dilation=(compact(self.dilation), 1),
            groups=(self.groups, 1),
            bias=(self.bias is not None, True),
        )


def _data(parameter: Parameter | None) -> Any:
    return None if parameter is None else parameter.data
