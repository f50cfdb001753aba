"""Inference runtimes that take whole networks only: ONNX Runtime, OpenVINO, MNN and ncnn.

Each gets the same weights in its own form (``benchmarks/networks``), float32 all the way, its
graph optimizations on, and as many threads as everybody. Their threads spin between calls, so the
suite drives each in a process of its own.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..networks import program_of_network
from ..networks.ncnn_model import NcnnModel
from ..networks.onnx_model import onnx_bytes
from ..operations import Operands
from ..operations.network import Network
from ..problems import Problem
from . import Prepared, Settings


class Runtime:
    """A library with one row a network; subclasses load a model and return the call."""

    packages: tuple[str, ...] = ()  # what is imported, the library itself first
    plan = ""

    def __init__(self) -> None:
        self._library: Any = None
        self._threads = 1

    def start(self, settings: Settings) -> str | None:
        if settings.isa:
            return f"cannot be limited to {settings.isa}"
        for package in self.packages:
            try:
                module = importlib.import_module(package)
            except ImportError:
                return f"{package} is not installed"
            self._library = self._library or module
        self._threads = settings.threads
        return None

    def versions(self) -> dict[str, str]:
        return {self.packages[0]: str(getattr(self._library, "__version__", "?"))}

    def variants(self, problem: Problem) -> list[str]:
        return ["float32"] if isinstance(problem.shape, Network) else []

    def slowness(self, variant: str) -> float:
        return 0.0

    def prepare(self, problem: Problem, operands: Operands, variant: str) -> Prepared:
        assert isinstance(problem.shape, Network)
        x = np.ascontiguousarray(operands["x"])
        call = self.load(problem.shape.name, x)
        return Prepared(call, lambda result: (np.asarray(result),), lambda: self.plan)

    def load(self, name: str, x: Any) -> Callable[[], Any]:
        """A call that gives the network's result for ``x`` as an array."""
        raise NotImplementedError


class OnnxRuntime(Runtime):
    packages = ("onnxruntime", "onnx")

    def load(self, name: str, x: Any) -> Callable[[], Any]:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        level = self._library.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.graph_optimization_level = level
        model = onnx_bytes(program_of_network(name, len(x), folded=True))
        session = self._library.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": x})[0]


class OpenVino(Runtime):
    packages = ("openvino", "onnx")

    def load(self, name: str, x: Any) -> Callable[[], Any]:
        core = self._library.Core()
        model = core.read_model(onnx_bytes(program_of_network(name, len(x), folded=True)))
        compiled = core.compile_model(
            model, "CPU",
            {"INFERENCE_NUM_THREADS": self._threads, "INFERENCE_PRECISION_HINT": "f32",
             "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1},
        )  # fmt: skip
        request = compiled.create_infer_request()
        tensor = self._library.Tensor(x, shared_memory=True)

        def call() -> Any:
            request.infer({0: tensor}, share_outputs=True)
            return request.get_output_tensor(0).data

        return call


class Mnn(Runtime):
    packages = ("MNN", "onnx")
    plan = "winograd where its cost model says"

    def versions(self) -> dict[str, str]:
        return {"MNN": str(self._library.version())}

    def load(self, name: str, x: Any) -> Callable[[], Any]:
        interpreter = self._interpreter(name, len(x))
        session = interpreter.createSession(
            {"numThread": self._threads, "precision": "high", "backend": "CPU"}
        )
        mnn, source = self._library, interpreter.getSessionInput(session)
        given = mnn.Tensor(x.shape, mnn.Halide_Type_Float, x, mnn.Tensor_DimensionType_Caffe)
        result = interpreter.getSessionOutput(session)
        shape = result.getShape()
        empty = np.empty(shape, np.float32)
        taken = mnn.Tensor(shape, mnn.Halide_Type_Float, empty, mnn.Tensor_DimensionType_Caffe)

        def call() -> Any:
            source.copyFrom(given)
            interpreter.runSession(session)
            result.copyToHostTensor(taken)
            return taken.getNumpyData()

        return call

    def _interpreter(self, name: str, batch: int) -> Any:
        # The converter itself: MNN.tools around it installs and calls a logging service at import.
        converter = importlib.import_module("_tools")
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "network.onnx"), Path(folder, "network.mnn")
            source.write_bytes(onnx_bytes(program_of_network(name, batch, folded=True)))
            arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel"]
            converter.mnnconvert([*arguments, str(target), "--bizCode", "MNN"])
            return self._library.Interpreter(str(target))


class Ncnn(Runtime):
    packages = ("ncnn",)
    plan = "winograd where its cost model says"

    def load(self, name: str, x: Any) -> Callable[[], Any]:
        ncnn, model = self._library, NcnnModel(program_of_network(name, 1, folded=True))
        net = ncnn.Net()
        net.opt.num_threads = self._threads
        for option in ("bf16_storage", "fp16_packed", "fp16_storage", "fp16_arithmetic"):
            setattr(net.opt, f"use_{option}", False)
        net.opt.use_vulkan_compute = False
        with tempfile.TemporaryDirectory() as folder:
            param, weights = Path(folder, "network.param"), Path(folder, "network.bin")
            param.write_text(model.param, encoding="ascii")
            weights.write_bytes(model.weights)
            if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
                raise RuntimeError("ncnn does not take the model")
        images = [ncnn.Mat(image) for image in x]

        def one(image: Any) -> Any:
            extractor = net.create_extractor()
            extractor.input("x", image)
            status, result = extractor.extract(model.output)
            if status != 0:
                raise RuntimeError(f"ncnn: extract gives {status}")
            return np.array(result)

        return lambda: np.stack([one(image) for image in images])
