"""Which plan a call takes, why, and what bounds it: `explain`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import _core
from .described_call import arguments_of, describe, is_shape
from .explanation_cuda import CudaExplanation, explain_on_device
from .ops.arguments import take_integer
from .ops.arrays import take
from .ops.conv_problem import ALGORITHMS, PackedWeight
from .ops.devices import on_device

_DIRECTIONS = ("conv2d", "conv2d_grad_input", "conv2d_grad_weight")
_ORDER = (
    "depthwise",
    "pointwise",
    "winograd6",
    "winograd4",
    "winograd2",
    "direct",
    "im2col",
    "naive",
)


@dataclass(frozen=True)
class Explanation:
    """A plan in numbers; `str()` of it in words.

    Attributes
    ----------
    function, algorithm, isa : str
    rejected : dict of algorithm to reason
        What the problem does not allow.
    declined : dict of algorithm to reason
        What is possible but passed by: by the cost model, or for its workspace. `auto` takes the
        first in its order that is neither.
    input_shape, weight_shape, output_shape : tuple of int
    threads, tasks : int
        Threads planned for, and the pieces of work they share.
    efficiency : float
        Mean over maximum of the threads' shares of the tasks.
    workspace_bytes, scratch_bytes_per_thread : int
    macs, flops, bytes : int
        Multiply-adds, 2 * macs, and bytes of the operands touched once.
    intensity : float
        flops / bytes.
    peak_flops, read_bytes_per_second : float
        Measured on this machine with `threads` threads when it was first asked (0.1 s).
    bound_seconds : float
        The roofline: the larger of flops / peak_flops and bytes / read_bytes_per_second.
    phases : list of dict
        The dense correlations that direct, pointwise and im2col run, with their blocking.
    winograd : dict, or None
        Tiles, subkernels and blocks of a Winograd plan; `products` of one image for each filter and
        each of its `channels`, more than the weight's where a stride is `folded` into them.
    col2im : dict, or None
        Bands, chunks and blocks of a grad_input that direct computes as a product and col2im.
    packed : bool
        Whether the weight is a `PackedWeight`, and read as such.
    """

    function: str
    algorithm: str
    rejected: dict[str, str]
    declined: dict[str, str]
    isa: str
    dtype: str
    channels_last: bool
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    threads: int
    tasks: int
    efficiency: float
    workspace_bytes: int
    scratch_bytes_per_thread: int
    macs: int
    bytes: int
    peak_flops: float
    read_bytes_per_second: float
    phases: list[dict[str, Any]]
    winograd: dict[str, Any] | None = None
    col2im: dict[str, Any] | None = None
    packed: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def bound_seconds(self) -> float:
        return max(self.flops / self.peak_flops, self.bytes / self.read_bytes_per_second)

    @property
    def limited_by(self) -> str:
        compute = self.flops / self.peak_flops
        return "arithmetic" if compute >= self.bytes / self.read_bytes_per_second else "memory"

    def __str__(self) -> str:
        order = "channels last" if self.channels_last else "C order"
        lines = [
            f"{self.function} {self.dtype} {order}: x {self.input_shape}, "
            f"weight {self.weight_shape}, y {self.output_shape}",
            f"  plan       {self.algorithm} on {self.isa}"
            + (", weight packed ahead" if self.packed else ""),
        ]
        for name in _ORDER:
            if name in self.rejected:
                reason = self.rejected[name].removeprefix(f"{name}: ")
                lines.append(f"  rejected   {name}: {reason}")
            elif name in self.declined:
                lines.append(f"  not taken  {name}: {self.declined[name]}")
            elif name != self.algorithm:
                lines.append(f"  not taken  {name}: possible, but after {self.algorithm} in order")
        if self.winograd:
            lines.append(_describe_winograd(self.winograd, self.packed))
        elif self.col2im:
            lines.append(_describe_col2im(self.col2im, self.weight_shape, self.output_shape))
        else:
            lines += [_describe_phase(phase) for phase in self.phases]
        lines += [
            f"  threads    {self.threads} share {self.tasks} tasks, efficiency "
            f"{self.efficiency:.2f}",
            f"  memory     {self.workspace_bytes / 1e6:.2f} MB workspace, "
            f"{self.scratch_bytes_per_thread / 1e6:.2f} MB scratch a thread",
            f"  work       {self.macs / 1e6:.2f} M multiply-adds, {self.bytes / 1e6:.2f} MB, "
            f"{self.intensity:.1f} FLOP/B",
            f"  roofline   {self.bound_seconds * 1e3:.3f} ms, limited by {self.limited_by} "
            f"(measured here: {self.peak_flops / 1e9:.0f} GFLOP/s, "
            f"{self.read_bytes_per_second / 1e9:.0f} GB/s)",
        ]
        return "\n".join(lines)


def explain(
    function: Callable[..., Any], *operands: Any, **arguments: Any
) -> Explanation | CudaExplanation:
    """How a call would be computed.

    Parameters
    ----------
    function : conv2d, conv2d_grad_input or conv2d_grad_weight
    *operands, **arguments
        The call's own, by position or by name; in the place of arrays their shapes will do. Where
        they lie in memory has a say: shapes are taken to lie in the first operand's order. On a
        CUDA device it also matters whether their addresses are multiples of 16 bytes.
    threads : int, optional
        Plan for that many instead of `fc.get_num_threads()`.
    dtype, channels_last
        Where all operands are shapes: float32 and True unless said otherwise.
    device : str
        Where all operands are shapes: "cpu", "cuda", "cuda:1", or a GPU that need not be here by
        its compute capability and its multiprocessors, "cuda:90x132". `fc.float32_precision` and
        `fc.cuda.kernel` have their say there.

    Returns
    -------
    Explanation, or CudaExplanation for a CUDA device

    Raises
    ------
    ValueError, TypeError
        As the call would.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.explain(fc.conv2d, (1, 64, 56, 56), (64, 64, 3, 3), padding=2, dilation=2).algorithm
    'direct'
    """
    name = getattr(function, "__name__", repr(function))
    if name not in _DIRECTIONS:
        raise ValueError(f"explain: {name} has no plans; these have: {', '.join(_DIRECTIONS)}")
    options = {key: arguments.pop(key) for key in _OPTIONS if key in arguments}
    threads = _take_threads(options.pop("threads", None))
    given = arguments_of("explain", name, operands, arguments)
    call = describe(name, given, **options)
    if call.device != "cpu":
        return explain_on_device(
            name, call.direction, call.device, call.input, call.weight, call.output, call.numbers,
            call.dtype, call.channels_last, call.index,
            reads_aligned=all(_is_aligned(given.get(n)) for n in ("x", "weight", "grad_output")),
            stores_aligned=all(_is_aligned(given.get(n)) for n in ("out", "residual")),
        )  # fmt: skip
    plan = call.plan(threads)
    peak, bandwidth = _machine(threads, call.dtype, plan["isa"])
    if any(phase["split"] for phase in plan["phases"]):
        peak *= MATRIX_TILES
    tasks = plan["tasks"]
    rounds = -(-tasks // threads)
    cuts = [*plan["phases"], plan["col2im"]] if "col2im" in plan else plan["phases"]
    return Explanation(
        function=name, algorithm=plan["algorithm"], rejected=plan["rejected"],
        declined=plan["declined"], isa=plan["isa"],
        dtype=call.dtype, channels_last=call.channels_last,
        input_shape=call.input, weight_shape=call.weight, output_shape=call.output,
        threads=threads, tasks=tasks, efficiency=tasks / (rounds * threads) if tasks else 1.0,
        workspace_bytes=plan["workspace_bytes"],
        scratch_bytes_per_thread=max((cut["scratch_bytes"] for cut in cuts), default=0),
        macs=plan["macs"], bytes=plan["bytes"], peak_flops=peak, read_bytes_per_second=bandwidth,
        phases=plan["phases"],
        winograd=plan.get("winograd"), col2im=plan.get("col2im"), packed=plan["packed"],
    )  # fmt: skip


#: float32 products on matrix tiles against multiply-adds: 16 times the rate, for six products each
MATRIX_TILES = 16 / 6

_OPTIONS = ("threads", "dtype", "channels_last", "device")
_MOST_THREADS = 256


def _is_aligned(operand: Any) -> bool:
    """Whether the address is a multiple of 16 bytes, as that of what is not there would be."""
    if operand is None or type(operand) is PackedWeight or is_shape(operand):
        return True
    array: Any = take("explain", "operand", operand)
    return not on_device(array) or array.ptr % 16 == 0


def _take_threads(threads: Any) -> int:
    if threads is None:
        return _core.num_threads()
    number = take_integer("explain", "threads", threads, 1)
    if number > _MOST_THREADS:
        raise ValueError(f"explain: threads is {threads!r}; wanted at most {_MOST_THREADS}")
    return number


@lru_cache(maxsize=32)
def _machine(threads: int, dtype: str, isa: str) -> tuple[float, float]:
    """FLOP/s and bytes/s: measured with the threads there are, scaled to those asked for."""
    there = min(threads, _core.num_threads())
    peak = _core.probe_fma(0.05, there, dtype) * threads / there
    return peak, _core.probe_read(0.05, there)


def _describe_winograd(plan: dict[str, Any], packed: bool) -> str:
    height, width = plan["tiles"]
    r, count = plan["r"], plan["subkernels"]
    cut = f"; {count} subkernels of {r} x {r}" if count > 1 else ""
    if plan["folded"]:
        cut = f"; the stride folded into {plan['channels']} channels{cut}"
    blocks = (
        f"  blocking   {height} x {width} tiles of {plan['m']} x {plan['m']} an image{cut}; "
        f"{plan['blocks']} blocks of up to {plan['block_tiles']} tiles"
    )
    if "sums" in plan:  # of grad_weight
        return f"{blocks} in {plan['sums']} sums; {plan['parts']} parts of the weight"
    weights = "by each task" if plan["weights_by_task"] else "once a call"
    if packed:
        weights = "ahead"
    parts = f" x {plan['parts']} parts of the columns" if plan["parts"] > 1 else ""
    return f"{blocks}{parts}; weights transformed {weights}"


def _describe_col2im(plan: dict[str, Any], w: tuple[int, ...], y: tuple[int, ...]) -> str:
    height, width = plan["chunk"]
    return (
        f"  blocking   product and col2im: rows {y[0] * y[2] * y[3]} x cols {w[2]} x {w[3]} x "
        f"{w[1]} x depth {w[0]}, depth blocks of {plan['depth_per_block']}; {plan['bands']} bands "
        f"of the input's rows; chunks of {height} x {width} positions, blocks of "
        f"{plan['block_h']} rows"
    )


def _describe_phase(phase: dict[str, Any]) -> str:
    source = "strips copied to scratch" if phase["gather"] else "read in place"
    if phase["planes"]:
        source = "planes copied to scratch, vectors of positions"
    elif phase["merge"]:
        source += ", a kernel row a segment"
    if phase["split"]:
        source += ", float32 as three bfloat16 on matrix tiles"
    images, height, width = phase["block"]
    several = f"{images} images of " if images > 1 else ""
    parts = f" x {phase['parts']} parts of the columns" if phase["parts"] > 1 else ""
    return (
        f"  blocking   rows {phase['rows']} x cols {phase['cols']} x depth {phase['taps'][0]} x "
        f"{phase['taps'][1]} x {phase['channels']}; "
        f"tasks of {several}{height} x {width} positions{parts}; "
        f"depth blocks of {phase['segments_per_block'] * phase['depth_per_block']}; source {source}"
    )


assert set(_ORDER) <= set(ALGORITHMS)
