"""The plan of a convolution on a CUDA device, there or imagined: what `explain` gives for one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .cuda_kernels import forced_kernel
from .ops.devices import ON_DEVICE, cuda_core
from .precision import get_float32_precision, precision_index


@dataclass(frozen=True)
class CudaExplanation:
    """A plan on a CUDA device in numbers; `str()` of it in words.

    Attributes
    ----------
    function, algorithm, kernel : str
        `kernel` names the target and the tile; `fc.cuda.kernel` forces one.
    arithmetic : str
        What it multiplies: float32, tf32, 3xtf32 (three tf32 products for one), float16, bfloat16.
    rejected : dict of algorithm or kernel to reason
    device : str
        Compute capability and multiprocessors that it was planned for.
    precision : str
        What `fc.float32_precision` allowed.
    input_shape, weight_shape, output_shape : tuple of int
    vector : bool
        Whether operands are read 16 bytes at a time.
    tiles, splits, cluster : int
        Tiles of the result; parts of the sum over depth, which another kernel adds in order; blocks
        that share the sum of a tile's part and add it up among themselves, in order too. There are
        `tiles * splits * cluster` pieces of work: a block each, but that kernels by TMA without
        clusters have a block a multiprocessor, which takes several in turn.
    waves : float
        Pieces of work a multiprocessor.
    workspace_bytes, packed_bytes : int
        Memory beside the operands, and what of it holds the weights in the kernel's order.
    macs, flops, bytes : int
        Multiply-adds, 2 * macs, and bytes of the operands touched once.
    intensity : float
        flops / bytes.
    plan : dict
        All that the planner said.
    """

    function: str
    algorithm: str
    kernel: str
    arithmetic: str
    rejected: dict[str, str]
    device: str
    dtype: str
    precision: str
    channels_last: bool
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    vector: bool
    tiles: int
    splits: int
    cluster: int
    multiprocessors: int
    workspace_bytes: int
    packed_bytes: int
    macs: int
    bytes: int
    plan: dict[str, Any]

    @property
    def flops(self) -> int:
        return 2 * self.macs

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def waves(self) -> float:
        return self.tiles * self.splits * self.cluster / self.multiprocessors

    def __str__(self) -> str:
        order = "channels last" if self.channels_last else "C order"
        precision = f" ({self.precision} precision)" if self.dtype == "float32" else ""
        reading = "16 bytes at a time" if self.vector else "element by element"
        splits = f" x {self.splits} parts of the depth" if self.splits > 1 else ""
        cluster = f" x {self.cluster} blocks of a cluster" if self.cluster > 1 else ""
        products = f" in {self.arithmetic}" if self.dtype == "float32" else ""
        lines = [
            f"{self.function} {self.dtype}{precision} {order}: x {self.input_shape}, "
            f"weight {self.weight_shape}, y {self.output_shape}",
            f"  plan       {self.algorithm}, kernel {self.kernel}{products}, on {self.device}",
            *(f"  rejected   {', '.join(names)}: {why}" for why, names in self._reasons().items()),
            f"  blocks     {self.tiles} tiles{splits}{cluster}, {self.waves:.2f} a multiprocessor; "
            f"operands read {reading}",
            f"  memory     {self.workspace_bytes / 1e6:.2f} MB workspace, of which packed weights "
            f"{self.packed_bytes / 1e6:.2f} MB",
            f"  work       {self.macs / 1e6:.2f} M multiply-adds, {self.bytes / 1e6:.2f} MB, "
            f"{self.intensity:.1f} FLOP/B",
        ]
        return "\n".join(lines)

    def _reasons(self) -> dict[str, list[str]]:
        """Why, and what was rejected for it."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.rejected.items():
            reasons.setdefault(why.removeprefix(f"{name}: "), []).append(name)
        return reasons


def explain_on_device(
    function: str,
    direction: int,
    device: str | int,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    y: tuple[int, ...],
    numbers: tuple[int, ...],
    dtype: str,
    channels_last: bool,
    algorithm: int,
    reads_aligned: bool = True,
    stores_aligned: bool = True,
) -> CudaExplanation:
    """`device` is a GPU's number, "cuda", "cuda:1", or "cuda:90x132": capability 9.0 and 132
    multiprocessors."""
    if dtype not in ON_DEVICE:
        raise TypeError(f"explain: dtype is {dtype}; on a CUDA device {', '.join(ON_DEVICE)} work")
    capability, multiprocessors = _device(device)
    plan = cuda_core.conv2d_plan(
        direction, x, weight, y, numbers, dtype, channels_last, algorithm, precision_index(),
        forced_kernel(), capability, multiprocessors, reads_aligned, stores_aligned,
    )  # fmt: skip
    same = ("algorithm", "kernel", "arithmetic", "rejected", "vector", "tiles", "splits", "cluster")
    return CudaExplanation(
        function=function, dtype=dtype, precision=get_float32_precision(),
        device=f"a GPU of capability {capability // 10}.{capability % 10} with {multiprocessors} "
        f"multiprocessors",
        channels_last=channels_last, input_shape=x, weight_shape=weight, output_shape=y,
        multiprocessors=multiprocessors, workspace_bytes=plan["workspace_bytes"],
        packed_bytes=plan["packed_bytes"], macs=plan["macs"], bytes=plan["bytes"], plan=plan,
        **{name: plan[name] for name in same},
    )  # fmt: skip


def _device(device: str | int) -> tuple[int, int]:
    """Capability (90 for 9.0) and multiprocessors."""
    imagined = re.fullmatch(r"cuda:(\d+)x(\d+)", device) if isinstance(device, str) else None
    if imagined:
        return int(imagined[1]), int(imagined[2])
    found = re.fullmatch(r"cuda(?::(\d+))?", device) if isinstance(device, str) else None
    if isinstance(device, str) and not found:
        raise ValueError(
            f'explain: device is {device!r}; wanted "cuda", "cuda:1" or, for a GPU that is not '
            f'here, capability x multiprocessors as in "cuda:90x132"'
        )
    facts = cuda_core.device(int(found[1] or 0) if found else device)
    major, minor = facts["compute_capability"]
    return 10 * major + minor, facts["multiprocessors"]
