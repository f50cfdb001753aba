"""What every function of a convolution does first and last: checks of its operands in words, the
packed weight, the one call into _core.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..cuda_kernels import forced_kernel
from ..precision import allows_wide_tiles, precision_index
from .arguments import take_groups
from .arrays import Array, check_shape, empty_like_order, take, take_like
from .devices import contiguous, cuda_core
from .geometry import Padding, Pair, are_keys, window_geometry

FORWARD, GRAD_INPUT, GRAD_WEIGHT = range(3)
AUTOMATIC = -1  # the index of "auto"
ALGORITHMS = {name: index for index, name in enumerate(_core.conv2d_algorithms)}


class PackedWeight:
    """A convolution's kernel, packed once as an algorithm reads it; see `pack_weight`.

    Holds its own read-only copy of the weight, for algorithms that read it unpacked: on a CUDA
    device that is all, since kernels there read the weight in place or pack it as they go.

    Attributes
    ----------
    shape, dtype, groups
        Of the weight.
    isa : str
        The instruction set that the packing is for; a call on another one packs anew.
    formats : tuple of str
        What is held so far: "panels", which `direct`, `pointwise` and `im2col` read; "split", the
        bfloat16 parts that the first two read where they go through matrix tiles; "F(4,3)",
        "F(3,4)", "F(2,3)" or "F(2,5)", the weight as Winograd transforms it, and with a stride
        "F(4,3) of stride 2x2".
    nbytes : int
        Their size, without the copy of the weight.
    """

    def __init__(self, weight: Array, groups: int) -> None:
        self.weight = empty_like_order(weight.shape, weight)
        self.weight[...] = weight
        self.groups = groups
        self.isa, self.packed = "cuda", None
        if type(weight) is np.ndarray:
            self.weight.flags.writeable = False
            self.isa = _core.current_isa()
            self.packed = _core.PackedConvWeight(self.weight, groups)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.weight.dtype

    @property
    def formats(self) -> tuple[str, ...]:
        return () if self.packed is None else self.packed.formats

    @property
    def nbytes(self) -> int:
        return 0 if self.packed is None else self.packed.nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The weight, for NumPy and so for `fastconv.reference`."""
        return np.array(self.weight, dtype, copy=copy)

    def __repr__(self) -> str:
        return (
            f"PackedWeight(shape={self.shape}, dtype={self.dtype}, isa={self.isa!r}, "
            f"formats={self.formats})"
        )


def pack_weight(
    weight: Any,
    *,
    groups: int = 1,
    input_shape: Sequence[int] | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    algorithm: str = "auto",
) -> PackedWeight:
    """Pack a kernel for many forward convolutions; the result is accepted wherever `weight` is.

    Parameters
    ----------
    weight : array (K, C // groups, R, S), or a `PackedWeight`, whose weight is packed anew
    groups : int
        As in the convolutions it will be used for.
    input_shape : (N, C, H, W), optional
        Packs at once what `conv2d` of such images reads, with the arguments below. Without it the
        first call packs. A call that reads another format packs that one beside.
    stride, padding, dilation, algorithm
        As `conv2d`'s, for `input_shape`.

    Returns
    -------
    PackedWeight
        A snapshot: later changes of `weight` do not reach it. Results have the same bits as with
        `weight` itself.

    Raises
    ------
    ValueError
        If shapes do not fit, or the algorithm named cannot do the problem.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> packed = fc.pack_weight(np.ones((8, 3, 3, 3), np.float32))
    >>> float(fc.conv2d(np.ones((1, 3, 5, 5), np.float32), packed)[0, 0, 0, 0])
    27.0
    >>> packed.formats
    ('panels',)
    """
    if type(weight) is PackedWeight:
        weight = weight.weight
    array = take("pack_weight", "weight", weight)
    _check_weight("pack_weight", array.shape)
    groups = take_groups("pack_weight", groups)
    if array.shape[0] % groups:
        raise ValueError(
            f"pack_weight: {array.shape[0]} filters cannot be cut into groups={groups}"
        )
    index = algorithm_index("pack_weight", algorithm)
    if input_shape is None:
        return PackedWeight(array, groups)
    shape = shape4("pack_weight", "input_shape", input_shape)
    sizes = sizes_of("pack_weight", shape, array.shape, stride, padding, dilation, groups)
    result = PackedWeight(array, groups)
    if result.packed is not None:
        try:
            result.packed.pack(
                result.weight, shape, sizes.output, sizes.numbers, index, allows_wide_tiles()
            )
        except ValueError as error:
            raise refused("pack_weight", algorithm, error) from None
    return result


def shape4(function: str, name: str, shape: Sequence[int]) -> tuple[int, int, int, int]:
    if type(shape) is tuple and len(shape) == 4:  # an array's own: 0.5 us less
        n, c, h, w = shape
        if type(n) is type(c) is type(h) is type(w) is int and min(shape) >= 0:
            return shape
    try:
        sizes = tuple(int(size.__index__()) for size in shape)
    except (TypeError, AttributeError):
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 0:
        raise ValueError(f"{function}: {name} is {shape!r}; wanted four sizes of 0 or more")
    return sizes


def take_weight(
    function: str, weight: Any, x: Array, beside_name: str = "x"
) -> tuple[Array, _core.PackedConvWeight | None]:
    """The kernel as an array of whatever shape, and its packed form if it has one."""
    packed = None
    if type(weight) is PackedWeight:  # which passes its packing by where it does not fit the call
        weight, packed = weight.weight, weight.packed
    return take_like(function, "weight", weight, x, beside_name), packed


class Sizes(NamedTuple):
    """What the shapes of a convolution and its window come to."""

    output: tuple[int, int, int, int]  # (N, K, P, Q)
    numbers: tuple[int, ...]  # stride, padding, dilation and groups, as _core takes them


def sizes_of(
    function: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Sizes:
    """The sizes of a convolution, checked, and remembered."""
    plain = type(stride) is type(padding) is type(dilation) is type(groups) is int
    known = plain or are_keys(stride, padding, dilation, groups)
    find = _known_sizes if known else _sizes_of
    return find(function, x_shape, weight_shape, stride, padding, dilation, groups)


def _sizes_of(
    function: str,
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Sizes:
    _check_weight(function, weight_shape)
    groups = take_groups(function, groups)
    _check_channels(function, x_shape, weight_shape, groups)
    size, kernel = (x_shape[2], x_shape[3]), (weight_shape[2], weight_shape[3])
    geometry = window_geometry(function, size, kernel, stride, padding, dilation)
    output = (x_shape[0], weight_shape[0], *geometry.output)
    return Sizes(output, geometry.numbers(groups))


_known_sizes = lru_cache(maxsize=1024)(_sizes_of)


def _check_weight(function: str, shape: Sequence[int]) -> None:
    if len(shape) != 4:
        raise ValueError(
            f"{function}: weight has {len(shape)} dimensions (shape {tuple(shape)}); "
            f"wanted (K, C // groups, R, S)"
        )
    if shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{function}: weight has shape {tuple(shape)}: a kernel without taps")


def _check_channels(
    function: str, x_shape: Sequence[int], weight_shape: Sequence[int], groups: int
) -> None:
    channels, filters = x_shape[1], weight_shape[0]
    if weight_shape[1] * groups != channels:
        plural = "group" if groups == 1 else "groups"
        raise ValueError(
            f"{function}: weight has {weight_shape[1]} input channels x {groups} {plural}, but x "
            f"has {channels} channels (shape {tuple(x_shape)})"
        )
    if filters % groups:
        raise ValueError(
            f"{function}: weight has {filters} filters, which {groups} groups do not divide"
        )


def take_bias(function: str, bias: Any, x: Array, filters: int) -> Array:
    vector = take_like(function, "bias", bias, x, "x")
    check_shape(function, "bias", vector, (filters,), "(K,) of the weight")
    return contiguous(vector)


def algorithm_index(function: str, algorithm: str) -> int:
    if isinstance(algorithm, str):  # before ==, which NumPy arrays answer in their own ways
        if algorithm == "auto":
            return AUTOMATIC
        if algorithm in ALGORITHMS:
            return ALGORITHMS[algorithm]
    names = ", ".join(ALGORITHMS)
    raise ValueError(f"{function}: algorithm is {algorithm!r}; the names are auto, {names}")


def run(
    function: str,
    direction: int,
    x: Array,
    weight: Array,
    y: Array,
    numbers: tuple[int, ...],
    index: int,
    algorithm: str,
    packed: _core.PackedConvWeight | None = None,
    bias: Array | None = None,
    residual: Array | None = None,
    relu: bool = False,
    accumulate: bool = False,
) -> None:
    try:
        if type(x) is np.ndarray:
            _core.conv2d(
                direction, x, weight, y, packed, bias, residual, numbers, relu, accumulate, index,
                allows_wide_tiles(),
            )  # fmt: skip
        else:
            cuda_core.conv2d(
                direction, x, weight, y, None, bias, residual, numbers, relu, accumulate, index,
                precision_index(), forced_kernel(),
            )  # fmt: skip
    except ValueError as error:
        raise refused(function, algorithm, error) from None
    except MemoryError as error:  # of the workspace; on a device with numbers
        raise MemoryError(f"{function}: no memory for the workspace: {error}") from None


def refused(function: str, algorithm: str, error: ValueError) -> ValueError:
    """What C++ says of a problem, in the function's name."""
    if str(error).startswith("environment variable"):  # of threads, ISA or workspace
        return ValueError(f"{function}: {error}")
    return ValueError(f"{function}: algorithm {algorithm!r} cannot do this problem: {error}")
