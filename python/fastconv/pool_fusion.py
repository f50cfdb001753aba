"""Max pooling in the call of the convolution before it: `fuse_max_pools`, after `fusion.fuse`.

    conv2d + batch_norm + add + relu -> max_pool2d      one call, that writes a quarter as much

A tile of F(m x m, r x r) has whole windows of 2x2, m being even, and its output transform writes
their maxima. So a pooling joins its convolution where that runs by Winograd's algorithm on the CPU,
the windows are of 2x2, side by side and without padding, and nothing else reads what they pool.
Others keep steps of their own.
"""

from __future__ import annotations

from collections import Counter

from fastconv.bound_calls import pools
from fastconv.fusion import Program, Step
from fastconv.graph import Shape
from fastconv.ops.pool_arguments import windows_over

_WINDOWS = (2, 2, 1, 0, 0) * 2  # kernel, stride, dilation, padding; height, width


def fuse_max_pools(program: Program, dtype: str) -> Program:
    """The program with poolings in their convolutions; its steps are changed in place.

    Which algorithm a convolution takes is asked now: by the instruction set and
    `fc.float32_precision` of now.
    """
    uses = Counter(value for step in program.steps for value in step.reads)
    uses.update([*program.views.values(), *program.outputs])
    makers: dict[int, Step] = {}
    for step in program.steps:
        into = makers.get(step.inputs[0]) if step.op == "max_pool2d" else None
        if into is not None and (
            into.op != "conv2d"
            or into.pooled
            or uses[into.output] != 1
            or not _has_whole_windows(step, into.shape)
            or not pools(into, program.shapes[into.inputs[0]], dtype)
        ):
            into = None
        if into is None:
            makers[step.output] = step
            continue
        del makers[into.output]
        into.output, into.shape, into.pooled = step.output, step.shape, True
        into.path = f"{into.path} + {step.path}"
        into.fused.append(step.op)
        makers[into.output] = into  # last: a dict keeps the order of insertion
    return Program(list(makers.values()), program.outputs, program.shapes, program.views)


def _has_whole_windows(step: Step, size: Shape) -> bool:
    """Windows of 2x2 side by side over images of `size`, none of which hangs over."""
    options = step.attributes
    windows = windows_over(
        step.op, size, options["kernel_size"], options["stride"], options["padding"],
        options["dilation"], options["ceil_mode"],
    )  # fmt: skip
    whole = (size[2] // 2, size[3] // 2)
    return windows.numbers == _WINDOWS and windows.output[2:] == whole
