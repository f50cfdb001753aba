"""Each step of a compiled network: its work, the floor that this machine sets under it, its time.

    floor = max(2 multiply-adds / peak, weights / bandwidth(run) + activations / bandwidth(step))

The multiply-adds are those that the step's own algorithm does. F(m x m, r x r) does
``(m + r - 1)^2 C K`` for a tile of m x m positions, at the edges for whole tiles too; its
transforms' additions are left out, so that the floor stays one. Direct algorithms multiply the
padding, ours too.

Bytes are counted where they lie when the step begins. Its weights, as they are packed, were last
read one run ago and everything else since: their bandwidth is that of reading as many bytes as a
run touches, all weights and all activations, again and again. What the step reads besides was
written by the steps before it, and what it writes the next will read: the bandwidth of a working
set of just these bytes. Writes count as reads; both bandwidths are the machine's at that moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .machine import Probes
from .networks import model_of, program_of_network
from .operations.network import Network
from .problems import Problem
from .quiet import others_running, wait_until_quiet
from .timing import Limits, Round, ping_border, states, used_rounds

ITEM_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What one step has to do, for all images of the batch."""

    layer: str
    operation: str
    algorithm: str
    macs: int  # multiply-adds of the direct algorithm
    macs_done: int  # of the step's own
    weight_bytes: int  # as packed, with the bias
    activation_bytes: int  # read and written, each once


@dataclass(frozen=True)
class LayerTime:
    """A step's work, the seconds that its arithmetic and its bytes need, and its median."""

    work: Work
    arithmetic: float
    memory: float
    seconds: float

    @property
    def floor(self) -> float:
        return max(self.arithmetic, self.memory)

    @property
    def flops(self) -> float:
        """Operations a second as if the algorithm were the direct one."""
        return 2 * self.work.macs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class LayerTimes:
    """All steps of a plan. Rates a second, times in seconds, bandwidths by working set in bytes."""

    steps: tuple[LayerTime, ...]
    run_seconds: float  # of whole runs, with the copies of the input and the result
    run_bytes: int  # that a run touches
    peak: float
    bandwidths: dict[int, float]
    rounds: tuple[Round, ...]
    state: str


def works(plan: Any, program: Any) -> list[Work]:
    """The work of each step of ``fastconv.compile``'s plan for the program that it was made of."""
    return [_work(step, row, program) for step, row in zip(program.steps, plan.rows, strict=True)]


def _work(step: Any, row: Any, program: Any) -> Work:
    constants = ITEM_BYTES * sum(array.size for array in step.constants.values())
    done, weights = row.multiply_adds, constants
    if step.op == "conv2d":
        done, packed = _convolution(step, program.shapes[step.inputs[0]])
        weights += packed - ITEM_BYTES * step.constants["weight"].size if packed else 0
    return Work(
        row.layer, row.operation, row.kernel, row.multiply_adds, done, weights,
        row.bytes - constants,
    )  # fmt: skip


def _convolution(step: Any, x_shape: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds that the plan does, and bytes of the packed weight, 0 where it reads it raw."""
    import fastconv as fc

    weight, groups = step.constants["weight"], int(step.attributes["groups"])
    window = {name: step.attributes[name] for name in ("stride", "padding", "dilation")}
    packed = fc.pack_weight(
        fc.channels_last(weight.astype(np.float32)), groups=groups, input_shape=x_shape, **window
    )
    plan = fc.explain(fc.conv2d, x_shape, weight.shape, groups=groups, **window)
    if plan.winograd is None:
        # On matrix tiles as many multiply-adds as take the time of the six products.
        on_tiles = any(phase["split"] for phase in plan.phases)
        return step.multiply_adds * 6 // 16 if on_tiles else step.multiply_adds, packed.nbytes
    if step.pooled:  # an odd last row or column is in no window, and needs no tile of its own
        (y, x), pace, m = plan.output_shape[2:], step.attributes["stride"], plan.winograd["m"]
        needed = (
            *x_shape[:2], x_shape[2] - (y % m == 1) * pace[0], x_shape[3] - (x % m == 1) * pace[1]
        )  # fmt: skip
        plan = fc.explain(
            fc.conv2d, needed, weight.shape, groups=groups, algorithm=plan.algorithm, **window
        )
    products = plan.winograd["products"] * plan.winograd["channels"]
    return x_shape[0] * products * weight.shape[0], packed.nbytes


def measure(
    problem: Problem,
    probes: Probes,
    limits: Limits,
    earlier: Sequence[Round] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> LayerTimes:
    """Compile the network as its checked row did, and time its steps.

    A round is two runs that leave the caches as a run does, one that is timed as a whole, one that
    is timed step by step; the peak is the larger of one before and one after, since whatever else
    runs can only lower it. ``earlier`` rounds help to tell the machine's states.
    """
    import fastconv as fc
    from fastconv.pool_fusion import fuse_max_pools

    assert isinstance(problem.shape, Network)
    x = problem.operands()["x"]
    plan = fc.compile(model_of(problem.shape.name), x.shape)
    program = program_of_network(problem.shape.name, len(x), folded=True)
    found = works(plan, fuse_max_pools(program, "float32"))
    run_bytes = plan.activation_bytes + sum(work.weight_bytes for work in found)
    sizes = sorted({run_bytes, *(work.activation_bytes for work in found)} - {0})
    before = {size: probes.read_bandwidth(size) for size in sizes}
    rounds, profiles, began = [], [], time.perf_counter()
    while len(rounds) < limits.most_rounds:
        spent = time.perf_counter() - began
        if len(rounds) >= limits.least_rounds and spent > limits.seconds:
            break
        progress(f"steps, round {len(rounds) + 1}")
        wait_until_quiet()
        this = Round(probes.ping(), peak=probes.peak_flops(), others=others_running())
        profile = plan.profile(x, repeats=1)
        this.peak, this.ping_after = max(this.peak, profile.peak_flops), probes.ping()
        rounds.append(this)
        profiles.append(profile)
    bandwidths = {size: max(rate, probes.read_bandwidth(size)) for size, rate in before.items()}
    named = states(rounds, ping_border([*earlier, *rounds]))
    state, used = used_rounds(named)
    peak = float(np.median([rounds[number].peak for number in used]))
    times = np.median(
        [[step.seconds for step in profiles[number].steps] for number in used], axis=0
    )
    return LayerTimes(
        tuple(
            _against(work, float(seconds), peak, bandwidths, run_bytes)
            for work, seconds in zip(found, times, strict=True)
        ),
        float(np.median([profiles[number].seconds for number in used])),
        run_bytes, peak, bandwidths, tuple(rounds), state,
    )  # fmt: skip


def _against(
    work: Work, seconds: float, peak: float, bandwidths: dict[int, float], run_bytes: int
) -> LayerTime:
    memory = work.weight_bytes / bandwidths[run_bytes]
    if work.activation_bytes:
        memory += work.activation_bytes / bandwidths[work.activation_bytes]
    return LayerTime(work, 2 * work.macs_done / peak, memory, seconds)
