"""THE list of problems: values, gradients and benchmarks take theirs from here.

A problem is written as its name, so that a line of a test's report can be pasted back:

    n2c3h9w7-k5r3s3-st2x1-pad1-dil2x1-g1
    N=2 C=3 H=9 W=7, K=5 filters of R=3 by S=3, stride (2, 1), padding 1, dilation (2, 1), 1 group

Padding: `pad1` all around, `pad1x2` (height, width), `pad0.1x2.0` ((0, 1), (2, 0)), `padsame`,
`padvalid`. What is left out has its default. Sizes are primes, or one less, equal and one more than
a tile: 6, 12 output columns; 8, 16, 32, 48, 64 filters; blocks of depth from 512 to 768. Every
problem is small: `full=True` marks the long products, which run with `--full` only.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]
Padding = str | tuple[Pair, Pair]


@dataclass(frozen=True)
class ConvCase:
    """A convolution; also the gradients of one."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    full: bool = False

    @property
    def id(self) -> str:
        """The problem's name."""
        sizes = f"n{self.n}c{self.c}h{self.h}w{self.w}-k{self.k}r{self.r}s{self.s}"
        return sizes + _window_name(self.stride, self.padding, self.dilation) + f"-g{self.groups}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.n, self.c, self.h, self.w

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(K, C // groups, R, S)."""
        return self.k, self.c // self.groups, self.r, self.s

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of conv2d and its gradients."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }


@dataclass(frozen=True)
class TransposeCase:
    """A transposed convolution: n2c4h5w6-k6r3s2-st2-pad1-op1-g2."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: Pair = (1, 1)
    padding: Padding = ((0, 0), (0, 0))
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    full: bool = False

    @property
    def id(self) -> str:
        """The problem's name."""
        sizes = f"n{self.n}c{self.c}h{self.h}w{self.w}-k{self.k}r{self.r}s{self.s}"
        extra = f"-op{_pair_name(self.output_padding)}" if self.output_padding != (0, 0) else ""
        window = _window_name(self.stride, self.padding, self.dilation)
        return sizes + window + extra + f"-g{self.groups}"

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.n, self.c, self.h, self.w

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(C, K // groups, R, S)."""
        return self.c, self.k // self.groups, self.r, self.s

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of conv_transpose2d and its backward."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }


@dataclass(frozen=True)
class PoolCase:
    """A pooling window: n2c3h9w7-k3x2-st2-pad1-dil1-ceil. Average pooling needs dilation 1."""

    n: int
    c: int
    h: int
    w: int
    kernel: Pair
    stride: Pair | None = None
    padding: Padding = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    ceil_mode: bool = False
    full: bool = False

    @property
    def id(self) -> str:
        """The problem's name."""
        sizes = f"n{self.n}c{self.c}h{self.h}w{self.w}-k{_pair_name(self.kernel)}"
        stride = self.kernel if self.stride is None else self.stride
        window = _window_name(stride, self.padding, self.dilation)
        return sizes + window + ("-ceil" if self.ceil_mode else "")

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return self.n, self.c, self.h, self.w

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that max and average pooling share."""
        return {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}

    @property
    def max_arguments(self) -> dict[str, Any]:
        """The keyword arguments of max_pool2d and its backward."""
        return self.arguments | {"dilation": self.dilation}


@dataclass(frozen=True)
class LinearCase:
    """A fully connected layer: n3c5-k7."""

    n: int
    c: int
    k: int
    full: bool = False

    @property
    def id(self) -> str:
        """The problem's name."""
        return f"n{self.n}c{self.c}-k{self.k}"


_FIELDS = {"st": "stride", "dil": "dilation", "op": "output_padding"}


def conv(name: str, full: bool = False) -> ConvCase:
    """The convolution of that name."""
    fields = _parse(name)
    return ConvCase(**fields, full=full)


def transpose(name: str, full: bool = False) -> TransposeCase:
    """The transposed convolution of that name."""
    return TransposeCase(**_parse(name), full=full)


def pool(name: str, full: bool = False) -> PoolCase:
    """The pooling problem of that name."""
    sizes, kernel, *rest = name.split("-")
    fields = _parse("-".join([sizes, *rest]))
    return PoolCase(**fields, kernel=_pair(kernel.removeprefix("k")), full=full)


def linear(name: str, full: bool = False) -> LinearCase:
    """The linear layer of that name."""
    return LinearCase(**_parse(name), full=full)


def _parse(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part in name.split("-"):
        word, value = re.match(r"([a-z]+)(.*)", part).groups()
        if part == "ceil":
            fields["ceil_mode"] = True
        elif part.startswith("pad"):
            fields["padding"] = _padding(part.removeprefix("pad"))
        elif word in _FIELDS:
            fields[_FIELDS[word]] = _pair(value)
        elif word == "g":
            fields["groups"] = int(value)
        else:
            fields |= {letter: int(size) for letter, size in re.findall(r"([a-z])(\d+)", part)}
    return fields


def _pair(text: str) -> Pair:
    numbers = [int(n) for n in text.split("x")]
    return (numbers[0], numbers[-1])


def _padding(text: str) -> Padding:
    if text in ("same", "valid"):
        return text
    sides = [[int(n) for n in axis.split(".")] for axis in text.split("x")]
    rows, cols = sides[0], sides[-1]
    return (rows[0], rows[-1]), (cols[0], cols[-1])


def _pair_name(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def _window_name(stride: Pair, padding: Padding, dilation: Pair) -> str:
    name = f"-st{_pair_name(stride)}"
    if isinstance(padding, str):
        name += f"-pad{padding}"
    else:
        axes = [str(low) if low == high else f"{low}.{high}" for low, high in padding]
        name += f"-pad{axes[0]}" if axes[0] == axes[1] else f"-pad{axes[0]}x{axes[1]}"
    return name if dilation == (1, 1) else name + f"-dil{_pair_name(dilation)}"


# Around the tiles: output columns, filters, depth.
_TILES = [
    *(conv(f"n1c5h4w{w}-k17r3s3-pad1") for w in (5, 6, 7, 11, 12, 13, 23, 25)),
    *(conv(f"n1c3h5w7-k{k}r3s3-pad1") for k in (1, 7, 8, 9, 15, 16, 31, 32, 33, 47, 48, 49)),
    *(conv(f"n1c2h3w7-k{k}r1s1") for k in (63, 64, 65, 97)),
    *(conv(f"n1c{c}h3w5-k9r1s1") for c in (1, 2, 4, 8, 17, 511, 512, 513, 769)),
    *(conv(f"n1c{c}h4w5-k10r3s3-pad1") for c in (56, 57, 86)),  # depth 504, 513, 774
    conv("n1c1030h3w3-k5r3s3-pad1"),
    conv("n1c1537h1w2-k7r1s1"),
]

# What a strange window does.
_WINDOWS = [
    conv("n2c3h9w7-k5r3s3-st2x1-pad1"),
    conv("n1c4h11w13-k6r3s3-st2-pad1"),
    conv("n1c4h11w13-k6r3s3-st3-pad0.1x2.0"),
    conv("n2c7h10w9-k8r5s5-pad2"),
    conv("n1c5h12w11-k7r5s3-st1x2-pad2x1"),
    conv("n1c3h7w19-k4r5s7-st2x3-pad4x1"),
    conv("n1c2h9w23-k3r5s20-st2-pad0x9"),  # DeepBench's shape of kernel
    conv("n1c6h9w8-k5r2s2-st2"),
    conv("n1c6h9w8-k5r4s4-st1-pad1.2x1.2"),
    conv("n1c3h23w23-k8r7s7-st2-pad3"),
    conv("n1c3h35w31-k9r11s11-st4"),
    conv("n1c3h27w30-k16r11s11-st4-pad2"),
    conv("n1c5h13w11-k4r3s3-st2-pad2-dil2"),
    conv("n1c5h13w11-k4r3s2-st2x3-pad2x1-dil2x3"),
    conv("n2c3h8w9-k4r3s3-dil2x1"),
    conv("n1c3h6w5-k4r3s3-pad3"),  # padding as large as the kernel
    conv("n1c3h5w4-k4r3s3-pad5x7"),  # and larger: windows that see padding alone
    conv("n1c3h2w3-k4r5s5-pad2"),  # a kernel larger than the input
    conv("n1c2h3w4-k3r7s6-st2-pad4.3x3.5"),
    conv("n2c5h6w7-k8r3s3-padsame"),
    conv("n2c5h7w8-k8r3s3-st2-padsame"),
    conv("n1c5h9w10-k8r4s2-st3x2-padsame-dil1x2"),
    conv("n1c5h6w7-k8r3s3-padvalid"),
    conv("n1c4h1w9-k5r1s3-pad0x1"),  # one row
    conv("n1c4h9w1-k5r3s1-pad1x0"),  # one column
    conv("n1c4h1w1-k5r3s3-pad1"),
    conv("n1c4h5w6-k5r5s6"),  # a window as large as the input
]

# 1x1 kernels: their own path unless stride or padding says otherwise.
_POINTWISE = [
    conv("n1c16h7w7-k32r1s1"),
    conv("n3c13h5w7-k19r1s1"),
    conv("n2c24h6w9-k40r1s1-st2"),
    conv("n1c9h4w5-k7r1s1-pad1"),
    conv("n1c9h4w5-k7r1s1-st2x3-pad3"),  # DeepBench: 1x1 with padding 3
    conv("n2c12h5w6-k18r1s1-g3"),
    conv("n1c64h1w1-k10r1s1"),
]

_GROUPS = [
    conv("n2c6h7w8-k4r3s3-pad1-g2"),
    conv("n1c12h9w7-k18r3s3-st2-pad1-g3"),
    conv("n1c96h5w5-k64r5s5-pad2-g2"),
    conv("n2c20h6w7-k20r3s3-pad1-g5"),
    *(conv(f"n1c{c}h7w9-k{c}r3s3-pad1-g{c}") for c in (1, 3, 7, 8, 9, 15, 16, 17, 33, 65)),
    conv("n2c16h9w11-k16r3s3-st2-pad1-g16"),
    conv("n1c10h9w11-k10r5s5-st1-pad2-g10"),
    conv("n1c9h8w13-k9r3s3-pad2-dil2-g9"),
    conv("n1c9h8w13-k9r3s5-st2x3-pad0.1x2.0-g9"),
    conv("n1c8h7w6-k24r3s3-pad1-g8"),  # depthwise, 3 filters a channel
    conv("n2c5h7w6-k10r3s3-st2-pad1-g5"),
    conv("n1c6h3w4-k6r1s1-g6"),
    conv("n1c3h3w4-k3r1s1-st2-g3"),  # grad_input where no tap reaches, a channel a group
]

_FIRST_LAYERS = [
    *(conv(f"n2c{c}h15w17-k12r3s3-pad1") for c in (1, 2, 3, 4)),
    conv("n2c1h28w28-k6r5s5-pad2"),
    conv("n1c3h19w21-k24r7s7-st2-pad3"),
    conv("n1c3h32w32-k17r3s3-pad1"),
]

# Small maps, several images a task: seven are four and three, eleven six and five, or one task's.
CONV_SMALL_MAPS = [
    conv("n11c17h7w7-k67r3s3-pad1"),  # the sides of all images' outer rings, then what is inside
    conv("n7c20h7w7-k16r3s3-pad2-dil2"),
    conv("n7c34h7w6-k36r3s3-pad1-g2"),
    conv("n3c16h9w12-k8r3s1-pad1x0"),  # lines
    conv("n6c32h11w13-k10r3s3-st2-pad1"),
    conv("n9c72h13w14-k20r1s1-st2"),  # grad_input: phases that no tap reaches
    conv("n7c3h7w7-k5r3s3-pad1"),  # strips
    conv("n2c130h5w6-k70r3s3-pad1"),  # depth blocks of some taps
    conv("n2c800h3w3-k35r2s1-pad1x0"),  # and of some channels
]

# One window, all of it inside the input: a matrix product over the batch.
_ONE_WINDOW = [
    conv("n5c16h5w5-k9r5s5"),
    conv("n3c17h4w6-k8r3s5-st2"),  # elements in no window
    conv("n70c16h3w1-k6r3s1"),
    conv("n4c32h5w3-k10r3s3-dil2x1-g2"),
    conv("n3c5h4w4-k20r4s4"),
    conv("n0c16h2w2-k4r2s2"),
]

_EMPTY = [
    conv("n0c3h8w9-k5r3s3-pad1"),
    conv("n0c4h8w9-k4r3s3-st2-g4"),
    conv("n0c4h8w9-k6r1s1"),
]

_MIDDLING = [
    conv("n2c32h14w14-k48r3s3-pad1"),
    conv("n5c19h8w7-k23r3s3-pad1"),
    conv("n1c64h13w13-k65r3s3-pad1"),
    conv("n3c8h26w25-k20r3s3-st2-pad1"),
]

# Every combination, for --full.
_FULL = [
    ConvCase(n, 6, h, w, k, r, s, (u, v), ((p, q), (q, p)), (d, e), g, full=True)
    for (n, k), (h, w), (r, s), (u, v), (p, q), (d, e), g in itertools.product(
        ((1, 6), (3, 18)),
        ((7, 13), (12, 6)),
        ((1, 1), (3, 3), (2, 5)),
        ((1, 1), (2, 2), (1, 3)),
        ((0, 0), (1, 1), (0, 2)),
        ((1, 1), (2, 1)),
        (1, 2, 6),
    )
]

CONV = [
    *_TILES,
    *_WINDOWS,
    *_POINTWISE,
    *_GROUPS,
    *_FIRST_LAYERS,
    *CONV_SMALL_MAPS,
    *_ONE_WINDOW,
    *_EMPTY,
    *_MIDDLING,
    *_FULL,
]

# A few that stand for all, where each is run in many ways (memory orders, threads, dtypes).
CONV_FEW = [
    conv("n2c3h9w7-k5r3s3-st2x1-pad1"),
    conv("n1c19h7w13-k17r3s3-pad1"),
    conv("n2c13h5w7-k19r1s1"),
    conv("n1c12h9w7-k18r3s3-st2-pad0.1x2.0-dil1x2-g3"),
    conv("n2c17h7w9-k17r3s3-pad1-g17"),
    conv("n1c513h3w5-k9r1s1"),
    conv("n0c3h8w9-k5r3s3-pad1"),
]

# For each CUDA kernel, whose tiles are some 64 to 128 rows and columns by 16 to 32 of depth. The
# emulated ones take their time: each problem is there for something.
CONV_CUDA = [
    conv("n2c16h9w8-k40r3s3-pad1"),  # rows 144, channels in whole 16 bytes
    conv("n1c24h8w16-k72r1s1"),  # rows 128
    conv("n1c72h8w16-k24r3s3-pad1"),  # whole tiles of 8x8; channels beyond 64
    conv("n3c16h10w10-k72r3s3"),  # the same without padding
    conv("n1c8h11w12-k136r3s3-pad1"),  # rows 132, cols 136: two tiles of 128 each way
    conv("n1c3h13w11-k9r3s3-st2-pad1"),  # a first layer: channels element by element
    conv("n1c19h7w13-k17r3s3-pad1"),
    conv("n2c16h9w7-k8r2s2-st2"),  # elements in no window; phases of grad_input
    conv("n1c8h7w7-k16r3s3-st3x2-pad0.1x2.0"),
    conv("n1c8h23w21-k16r3s3-st2-pad1"),  # phases of 132 to 110 rows: not all have as many tiles
    conv("n1c8h5w6-k520r3s3-st2-pad1"),  # nor as many splits: depth 2080 to 520
    conv("n1c16h9w9-k16r3s2-pad2x1-dil2x3"),
    conv("n1c520h3w4-k9r1s1"),  # depth in splits
    conv("n5c8h9w8-k16r3s3-pad1"),  # rows 360: grad_weight's depth in splits
    conv("n1c24h9w7-k48r3s3-st2-pad0.1x2.0-dil1x2-g3"),
    conv("n1c12h6w5-k18r3s3-pad1-g3"),
    conv("n2c17h7w9-k17r3s3-pad1-g17"),
    conv("n1c16h9w8-k32r3s3-st2-pad1-g16"),  # depthwise, 2 filters a channel
    conv("n1c8h5w4-k8r3s3-pad5x7"),  # windows that see padding alone
    conv("n1c8h1w1-k8r1s1"),
    conv("n0c8h8w9-k8r3s3-pad1"),
]

CONV_TRANSPOSE = [
    transpose("n1c1h1w2-k1r1s3-st2"),
    transpose("n2c4h5w6-k6r3s2-st2-pad1-op1-g2"),
    transpose("n1c3h4w5-k5r4s4-st2-pad1"),  # the usual doubling of DCGAN
    transpose("n1c8h5w5-k16r2s2-st2"),
    transpose("n1c17h3w7-k33r3s3-pad1"),
    transpose("n2c6h5w4-k4r3s3-st3x2-pad1x0-op2x1"),
    transpose("n1c6h5w4-k6r3s3-st2-pad1-op1-g6"),
    transpose("n1c4h4w3-k4r3s2-st1x2-pad1-op1x2-dil2x3-g2"),
    transpose("n1c5h4w6-k7r5s3-st2-pad1.0x0.2"),
    transpose("n1c5h3w3-k4r1s1-st2"),  # outputs that no input reaches
    transpose("n1c5h1w1-k4r4s4"),
    transpose("n1c5h3w4-k4r3s3-pad2"),
    transpose("n1c520h2w3-k9r2s2-st2"),
    transpose("n0c3h4w5-k4r3s3-st2-pad1"),
]

POOL = [
    pool("n2c3h8w9-k2"),
    pool("n1c5h9w7-k3-st2"),
    pool("n1c5h9w7-k3-st2-pad1"),
    pool("n1c5h10w8-k3-st2-ceil"),
    pool("n2c3h8w9-k3-st2-pad1-ceil"),
    pool("n1c4h7w7-k3-st1-pad1"),
    pool("n1c4h7w9-k3x2-st2x3-pad1x0"),
    pool("n1c4h7w9-k2x5-st1x2-pad0.1x2.0"),
    pool("n1c4h9w11-k4-st3-pad2.1x0.3-ceil"),
    pool("n1c4h5w6-k5-st2-pad4-ceil"),
    pool("n1c3h6w7-k2-st3"),  # elements in no window
    pool("n1c3h6w7-k2-st3-ceil"),
    pool("n1c3h5w5-k4-st4-pad3-ceil"),  # a last window that would begin in the padding: dropped
    pool("n1c3h4w4-k6-st2-pad1-ceil"),
    pool("n1c3h5w6-k5x6"),
    pool("n2c70h7w7-k7-st1"),  # one window holds the image
    pool("n2c18h10w12-k9-st1"),  # elements in the middle share all their windows
    pool("n1c3h1w9-k1x3-st1x2"),
    pool("n1c3h9w1-k3x1-st2x1"),
    pool("n1c3h5w4-k1-st2"),
    pool("n1c3h7w8-k3-st2-padsame"),
    pool("n1c3h7w8-k2-st1-padsame"),
    pool("n0c3h8w9-k2"),
    *(pool(f"n1c{c}h5w6-k3-st2-pad1") for c in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 65)),
    *(pool(f"n1c2h4w{w}-k2-st1-pad1") for w in (1, 2, 3, 7, 8, 9, 15, 16, 17, 33)),
    pool("n1c64h13w13-k3-st2"),
    pool("n3c6h28w28-k2-st2"),
]

# Dilated windows: max pooling only.
MAX_POOL = [
    *POOL,
    pool("n1c4h9w8-k3-st1-pad2-dil2"),
    pool("n1c4h9w8-k2x3-st2x1-pad1x4-dil2x3"),
    pool("n2c9h11w10-k3-st2-pad0.3x4.1-dil2-ceil"),
    pool("n1c3h5w5-k2-st4-pad3-dil3-ceil"),
    pool("n1c2h2w2-k2-st1-pad2-dil3"),  # windows whose taps all miss the input
]

LINEAR = [
    linear("n1c1-k1"),
    linear("n3c5-k7"),
    linear("n1c784-k10"),
    linear("n6c16-k8"),
    linear("n7c17-k9"),
    linear("n12c64-k48"),
    linear("n13c65-k49"),
    linear("n2c513-k33"),
    linear("n5c1030-k31"),
    linear("n64c120-k84"),
    linear("n0c5-k7"),
]

# Images for what treats elements, channels or pixels alike: (N, C, H, W).
IMAGES = [
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (3, 8, 4, 4),
    (2, 17, 3, 5),
    (1, 33, 7, 2),
    (4, 65, 1, 1),
    (2, 16, 6, 31),
    (1, 2, 1, 257),
    (0, 3, 4, 5),
]
