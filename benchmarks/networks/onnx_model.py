"""A program as an ONNX model (opset 17), for ONNX Runtime, OpenVINO and MNN's converter."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import pads_of, pair, windows_of_adaptive

OPSET = 17


def onnx_bytes(program: Any) -> bytes:
    """The serialized model, its input ``x`` and output ``y``. ``LookupError`` where a step has no
    rule."""
    import onnx
    from onnx import TensorProto, helper

    writer = _Writer(program)
    for step in program.steps:
        writer.add_step(step)
    output = writer.name(program.outputs[0])
    writer.nodes.append(helper.make_node("Identity", [output], ["y"]))
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, program.shapes[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, program.shapes[program.outputs[0]])],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class _Writer:
    def __init__(self, program: Any) -> None:
        from onnx import helper

        self._helper, self._program = helper, program
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._flat: set[int] = set()

    def name(self, value: int) -> str:
        """A value's name; an image seen as a vector becomes a node at its first use."""
        if value == 0:
            return "x"
        source = self._program.views.get(value)
        if source is not None and value not in self._flat:
            self._flat.add(value)
            self._add("Flatten", [self.name(source)], f"v{value}", axis=1)
        return f"v{value}"

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self._helper.make_node(kind, inputs, [output], **attributes))

    def _constant(self, name: str, array: Any) -> str:
        from onnx import numpy_helper

        contiguous = np.ascontiguousarray(array, np.float32)
        self.constants.append(numpy_helper.from_array(contiguous, name))
        return name

    def add_step(self, step: Any) -> None:
        inputs = [self.name(value) for value in step.inputs]
        output = f"v{step.output}"
        after = []  # what is fused into a convolution, as nodes of its own
        if step.residual is not None:
            after.append(("Add", [self.name(step.residual)]))
        if step.relu:
            after.append(("Relu", []))
        names = [f"{output}_{number}" for number in range(len(after))] + [output]
        self._add_own(step, inputs, names[0])
        for (kind, others), source, target in zip(after, names, names[1:], strict=False):
            self._add(kind, [source, *others], target)

    def _add_own(self, step: Any, inputs: list[str], output: str) -> None:
        plain = {"relu": "Relu", "add": "Add", "global_avg_pool2d": "GlobalAveragePool"}
        if step.op in ("conv2d", "linear"):
            self._add_weighted(step, inputs, output)
        elif step.op in ("max_pool2d", "avg_pool2d"):
            self._add_pool(step, inputs, output)
        elif step.op == "adaptive_avg_pool2d":
            window = windows_of_adaptive(step, self._program.shapes[step.inputs[0]])
            self._add("AveragePool", inputs, output, kernel_shape=window, strides=window)
        elif step.op == "flatten":
            self._add("Flatten", inputs, output, axis=1)
        elif step.op == "concat":
            self._add("Concat", inputs, output, axis=1)
        elif step.op in plain:
            self._add(plain[step.op], inputs, output)
        else:
            raise LookupError(f"no rule to write {step.op} as ONNX")

    def _add_weighted(self, step: Any, inputs: list[str], output: str) -> None:
        constants = [
            self._constant(f"{output}_{role}", step.constants[role])
            for role in ("weight", "bias")
            if role in step.constants
        ]
        if step.op == "linear":
            self._add("Gemm", [*inputs, *constants], output, transB=1)
            return
        options, kernel = step.attributes, step.constants["weight"].shape[2:]
        top, bottom, left, right = pads_of(step, self._program.shapes[step.inputs[0]])
        self._add(
            "Conv", [*inputs, *constants], output, kernel_shape=kernel,
            strides=pair(options["stride"]), pads=(top, left, bottom, right),
            dilations=pair(options["dilation"]), group=int(options["groups"]),
        )  # fmt: skip

    def _add_pool(self, step: Any, inputs: list[str], output: str) -> None:
        options = step.attributes
        kernel = pair(options["kernel_size"])
        stride = kernel if options["stride"] is None else pair(options["stride"])
        top, bottom, left, right = pads_of(step, self._program.shapes[step.inputs[0]])
        more: dict[str, Any] = {}
        if step.op == "avg_pool2d":
            if options["divisor_override"]:
                raise LookupError("no rule to write divisor_override as ONNX")
            more["count_include_pad"] = int(options["count_include_pad"])
        self._add(
            "MaxPool" if step.op == "max_pool2d" else "AveragePool", inputs, output,
            kernel_shape=kernel, strides=stride, pads=(top, left, bottom, right),
            ceil_mode=int(options["ceil_mode"]), **more,
        )  # fmt: skip
