"""A program as ncnn's two files: the layers as text, the weights as bytes.

ncnn's convolutions and inner products take bias and ReLU; a blob that several layers read goes
through a Split. Layer types and the numbers of their parameters: ncnn's wiki, "operation param
weight table". One image a run: ncnn has no batch.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from . import pads_of, pair, windows_of_adaptive

MAGIC = 7767517


class NcnnModel:
    """``param`` and ``weights`` as ncnn loads them; the blobs are ``x`` and ``output``."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self._lines: list[str] = []
        self._chunks: list[bytes] = []
        self._blobs = 0
        reads = Counter(value for step in program.steps for value in step.reads)
        self._reads = Counter({program.views.get(v, v): n for v, n in reads.items()})
        self._copies: dict[int, list[str]] = {}
        self._add("Input", [], "x", 0)
        for step in program.steps:
            self._add_step(step)
        last = program.outputs[0]
        self.output = self._copies[program.views.get(last, last)][0]

    @property
    def param(self) -> str:
        return "\n".join([str(MAGIC), f"{len(self._lines)} {self._blobs}", *self._lines, ""])

    @property
    def weights(self) -> bytes:
        return b"".join(self._chunks)

    def _add(
        self, kind: str, inputs: list[str], output: str, value: int | None = None,
        numbers: dict[int, int] | None = None,
    ) -> None:  # fmt: skip
        """A layer; where ``output`` is a value of the program, with as many copies as are read."""
        self._line(kind, inputs, [output], numbers or {})
        if value is None:
            return
        copies = [output]
        if self._reads[value] > 1:
            copies = [f"{output}_{number}" for number in range(self._reads[value])]
            self._line("Split", [output], copies, {})
        self._copies[value] = copies

    def _line(
        self, kind: str, inputs: list[str], outputs: list[str], numbers: dict[int, int]
    ) -> None:
        parts = [kind, f"l{len(self._lines)}", str(len(inputs)), str(len(outputs))]
        parts += [*inputs, *outputs, *(f"{key}={number}" for key, number in numbers.items())]
        self._lines.append(" ".join(parts))
        self._blobs += len(outputs)

    def _take(self, value: int) -> str:
        """One of the copies of a value that nobody has read yet."""
        return self._copies[self._program.views.get(value, value)].pop()

    def _add_step(self, step: Any) -> None:
        inputs, output = [self._take(value) for value in step.inputs], f"v{step.output}"
        if step.residual is None:
            self._add_own(step, inputs, output, step.output, step.relu)
            return
        self._add_own(step, inputs, f"{output}_own", None, False)
        both = [f"{output}_own", self._take(step.residual)]
        if step.relu:
            self._add("BinaryOp", both, f"{output}_sum", None, {0: 0})
            self._add("ReLU", [f"{output}_sum"], output, step.output)
        else:
            self._add("BinaryOp", both, output, step.output, {0: 0})

    def _add_own(
        self, step: Any, inputs: list[str], output: str, value: int | None, relu: bool
    ) -> None:
        if step.op == "conv2d":
            self._add(*self._convolution(step, relu, inputs, output, value))
        elif step.op == "linear":
            weight = step.constants["weight"]
            numbers = {0: weight.shape[0], 1: int("bias" in step.constants), 2: weight.size}
            self._add("InnerProduct", inputs, output, value, {**numbers, 9: int(relu)})
            self._add_weights(step)
        elif step.op in ("max_pool2d", "avg_pool2d"):
            self._add("Pooling", inputs, output, value, self._pooling(step))
        elif step.op == "adaptive_avg_pool2d":
            high, wide = windows_of_adaptive(step, self._program.shapes[step.inputs[0]])
            numbers = {0: 1, 1: wide, 11: high, 2: wide, 12: high, 5: 1}
            self._add("Pooling", inputs, output, value, numbers)
        elif step.op == "global_avg_pool2d":
            self._add("Pooling", inputs, output, value, {0: 1, 4: 1})
        elif step.op in _PLAIN:
            kind, numbers = _PLAIN[step.op]
            self._add(kind, inputs, output, value, numbers)
        else:
            raise LookupError(f"no rule to write {step.op} for ncnn")

    def _convolution(
        self, step: Any, relu: bool, inputs: list[str], output: str, value: int | None
    ) -> tuple[str, list[str], str, int | None, dict[int, int]]:
        weight, groups = step.constants["weight"], int(step.attributes["groups"])
        (high, wide), (down, right) = weight.shape[2:], pair(step.attributes["stride"])
        dilation = pair(step.attributes["dilation"])
        pads = pads_of(step, self._program.shapes[step.inputs[0]])
        numbers = {
            0: weight.shape[0], 1: wide, 11: high, 2: dilation[1], 12: dilation[0], 3: right,
            13: down, 4: pads[2], 15: pads[3], 14: pads[0], 16: pads[1],
            5: int("bias" in step.constants), 6: weight.size, 9: int(relu),
        }  # fmt: skip
        self._add_weights(step)
        if groups == 1:
            return "Convolution", inputs, output, value, numbers
        return "ConvolutionDepthWise", inputs, output, value, {**numbers, 7: groups}

    def _pooling(self, step: Any) -> dict[int, int]:
        options = step.attributes
        high, wide = pair(options["kernel_size"])
        down, right = (high, wide) if options["stride"] is None else pair(options["stride"])
        pads = pads_of(step, self._program.shapes[step.inputs[0]])
        average = step.op == "avg_pool2d"
        return {
            0: int(average), 1: wide, 11: high, 2: right, 12: down, 3: pads[2], 14: pads[3],
            13: pads[0], 15: pads[1], 5: 0 if options["ceil_mode"] else 1,
            6: int(average and options["count_include_pad"]),
        }  # fmt: skip

    def _add_weights(self, step: Any) -> None:
        """float32 is tag 0 before a weight; a bias has no tag."""
        weight = np.ascontiguousarray(step.constants["weight"], np.float32)
        self._chunks += [bytes(4), weight.tobytes()]
        if "bias" in step.constants:
            self._chunks.append(np.ascontiguousarray(step.constants["bias"], np.float32).tobytes())


_PLAIN: dict[str, tuple[str, dict[int, int]]] = {
    "relu": ("ReLU", {}),
    "add": ("BinaryOp", {0: 0}),
    "concat": ("Concat", {0: 0}),
    "flatten": ("Flatten", {}),
}
