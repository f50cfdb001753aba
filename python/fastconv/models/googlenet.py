"""GoogLeNet (Szegedy et al. 2014, "Going deeper with convolutions", table 1).

    224x224 -> 64@7x7/2 -> max 3/2 -> 64@1x1, 192@3x3 -> max 3/2 -> 28x28 -> 3a, 3b -> max 3/2
            -> 14x14 -> 4a to 4e -> max 3/2 -> 7x7 -> 5a, 5b -> average of each map -> 1000

An Inception module runs four branches side by side, whose channels it concatenates:

    1x1  |  1x1 -> 3x3  |  1x1 -> 5x5  |  max pool 3x3 -> 1x1

While training two auxiliary heads classify from the maps of 4a and 4d; the paper adds their losses
times 0.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastconv import init, ops
from fastconv.graph import Value
from fastconv.layers import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    Concat,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    LocalResponseNorm,
    MaxPool2d,
    ReLU,
    Sequential,
)
from fastconv.layers.arithmetic import add
from fastconv.models.parts import check_arguments, conv_norm_relu, conv_relu

# Table 1: channels of 1x1, 3x3's reduction, 3x3, 5x5's reduction, 5x5, the pool's projection.
MODULES = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
HEADS = {"inception4a": "aux1", "inception4d": "aux2"}  # the module a head sees -> its name

# Layers of BVLC's GoogLeNet in Caffe -> ours with the same weight and bias.
CAFFE_LAYERS = {
    "conv1/7x7_s2": "conv1.conv",
    "conv2/3x3_reduce": "conv2.conv",
    "conv2/3x3": "conv3.conv",
    **{
        f"inception_{module[-2:]}/{caffe}": f"{module}.{ours}.conv"
        for module in MODULES
        for caffe, ours in {
            "1x1": "branch1",
            "3x3_reduce": "branch2.0",
            "3x3": "branch2.1",
            "5x5_reduce": "branch3.0",
            "5x5": "branch3.1",
            "pool_proj": "branch4.1",
        }.items()
    },
    **{
        f"loss{head}/{caffe}": f"aux{head}.{ours}"
        for head in (1, 2)
        for caffe, ours in {"conv": "conv.conv", "fc": "fc1", "classifier": "fc2"}.items()
    },
    "loss3/classifier": "fc",
}


class GoogLeNet(Layer):
    """Layers one after another, off which heads branch in training mode.

    Parameters
    ----------
    trunk : dict of name -> Layer
    heads : dict of name -> Layer
        By the name of the trunk's layer whose output a head sees.

    Notes
    -----
    In training mode a call returns (logits, each head's logits) and ``backward`` takes the same
    tuple, where None stands for a head without a gradient. In eval mode, and without heads, it is
    the logits alone.
    """

    def __init__(self, trunk: Mapping[str, Layer], heads: Mapping[str, Layer]) -> None:
        self._trunk = tuple(trunk)
        self._heads = {place: HEADS[place] for place in heads}
        for name, layer in trunk.items():
            setattr(self, name, layer)
        for place, head in heads.items():
            setattr(self, HEADS[place], head)

    def _run(self, x: Any, training: bool) -> Any:
        """On arrays or on a graph's values."""
        outputs = []
        for name in self._trunk:
            x = self._layers[name](x)
            if training and name in self._heads:
                outputs.append(self._layers[self._heads[name]](x))
        return (x, *outputs) if outputs else x

    def forward(self, x: Any) -> Any:
        single = getattr(x, "ndim", 0) == 3
        self.save(single)
        y = self._run(ops.channels_last(x[None] if single else x), self.training)
        if not single:
            return y
        return tuple(part[0] for part in y) if isinstance(y, tuple) else y[0]

    def lower(self, x: Value) -> Any:
        return self._run(x, x.graph.training)

    def backward(self, grad_y: Any, *, need_input: bool = True) -> Any:
        (single,) = self.saved()
        grads = list(grad_y) if isinstance(grad_y, (tuple, list)) else [grad_y]
        if len(grads) != 1 + len(self._heads):
            wanted = "the logits' gradient" + "".join(f", {h}'s" for h in self._heads.values())
            raise ValueError(
                f"backward: grad_y has {len(grads)} gradient{'s' * (len(grads) > 1)}, but "
                f"a tuple of {1 + len(self._heads)} is needed ({wanted}; None for a head without)"
            )
        if grads[0] is None:
            raise ValueError(
                "backward: the logits' gradient is None, but only a head may be without; pass zeros"
            )
        if single:
            grads = [None if grad is None else grad[None] for grad in grads]
        grad = grads[0]
        for name in reversed(self._trunk):
            if name in self._heads and (of_head := grads.pop()) is not None:
                grad = add(grad, self._layers[self._heads[name]].backward(of_head))
            first = name == self._trunk[0]
            grad = self._layers[name].backward(grad, need_input=need_input or not first)
        return grad[0] if single and grad is not None else grad


def googlenet(
    *,
    num_classes: int = 1000,
    variant: str = "paper",
    aux_logits: bool = True,
    seed: int | None = None,
) -> GoogLeNet:
    """GoogLeNet for images (3, 224, 224); without heads any size from 32x32 on.

    Parameters
    ----------
    num_classes : int
    variant : "paper" or "torchvision"
        The paper's as BVLC trained it: biases, local response norm, 5x5 filters, max pools 3/2
        that round up. Or torchvision's, whose checkpoints load unchanged: batch norm, and 3x3
        filters where the paper has 5x5.
    aux_logits : bool
        Whether to make the auxiliary heads, which only training uses. Published weights of BVLC
        lack them.
    seed : int, optional
        Of the initial weights; by default they come from ``fc.init``'s generator.

    Returns
    -------
    GoogLeNet
        Gives logits (N, num_classes); in training mode with heads (logits, aux1, aux2), and
        ``backward`` takes a tuple of their gradients.

    Raises
    ------
    ValueError
        If ``variant`` is unknown or ``num_classes`` is below 1.

    Notes
    -----
    torchvision's own weights want images scaled to -1 to 1 in each channel (mean 0.5, deviation
    0.5), which torchvision hides in ``transform_input=True``.

    Examples
    --------
    >>> import fastconv as fc
    >>> model = fc.models.googlenet(aux_logits=False, variant="torchvision")
    >>> model.num_parameters, model.output_shape((2, 3, 224, 224))
    (6624904, (2, 1000))
    """
    check_arguments("googlenet", variant, ("paper", "torchvision"), num_classes=num_classes)
    paper = variant == "paper"
    with init.seeded(seed):
        trunk = _stem(paper)
        channels = 192
        heads = {}
        for name in MODULES:
            trunk[name] = _inception(channels, *MODULES[name], paper=paper)
            channels = sum(MODULES[name][i] for i in (0, 2, 4, 5))
            if name == "inception3b":
                trunk["maxpool3"] = MaxPool2d(3, stride=2, ceil_mode=True)
            if name == "inception4e":
                trunk["maxpool4"] = MaxPool2d(3 if paper else 2, stride=2, ceil_mode=True)
            if aux_logits and name in HEADS:
                heads[name] = _head(channels, num_classes, paper)
        trunk["avgpool"] = GlobalAvgPool2d()
        trunk["flatten"] = Flatten()
        trunk["dropout"] = Dropout(0.4 if paper else 0.2)
        trunk["fc"] = Linear(channels, num_classes)
    model = GoogLeNet(trunk, heads)
    if paper:
        model.caffe_layers = CAFFE_LAYERS
    return model


def _unit(paper: bool, in_channels: int, out_channels: int, size: int, **window: Any) -> Layer:
    if paper:
        return conv_relu(in_channels, out_channels, size, **window)
    return conv_norm_relu(in_channels, out_channels, size, eps=1e-3, **window)


def _stem(paper: bool) -> dict[str, Layer]:
    """224x224x3 -> 28x28x192."""
    stem: dict[str, Layer] = {
        "conv1": _unit(paper, 3, 64, 7, stride=2, padding=3),
        "maxpool1": MaxPool2d(3, stride=2, ceil_mode=True),
    }
    if paper:
        stem["norm1"] = LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    stem["conv2"] = _unit(paper, 64, 64, 1)
    stem["conv3"] = _unit(paper, 64, 192, 3, padding=1)
    if paper:
        stem["norm2"] = LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    stem["maxpool2"] = MaxPool2d(3, stride=2, ceil_mode=True)
    return stem


def _inception(
    channels: int, ones: int, reduce3: int, threes: int, reduce5: int, fives: int, project: int,
    *, paper: bool,
) -> Concat:  # fmt: skip
    large = 5 if paper else 3
    return Concat(
        {
            "branch1": _unit(paper, channels, ones, 1),
            "branch2": Sequential(
                _unit(paper, channels, reduce3, 1), _unit(paper, reduce3, threes, 3, padding=1)
            ),
            "branch3": Sequential(
                _unit(paper, channels, reduce5, 1),
                _unit(paper, reduce5, fives, large, padding=large // 2),
            ),
            "branch4": Sequential(
                MaxPool2d(3, stride=1, padding=1), _unit(paper, channels, project, 1)
            ),
        }
    )


def _head(channels: int, num_classes: int, paper: bool) -> Sequential:
    """14x14 -> 4x4 -> 128@1x1 -> 1024 -> num_classes."""
    return Sequential(
        {
            "pool": AvgPool2d(5, stride=3) if paper else AdaptiveAvgPool2d(4),
            "conv": _unit(paper, channels, 128, 1),
            "flatten": Flatten(),
            "fc1": Linear(128 * 4 * 4, 1024),
            "relu": ReLU(),
            "dropout": Dropout(0.7),
            "fc2": Linear(1024, num_classes),
        }
    )
