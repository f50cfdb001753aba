"""PyTorch on the CPU (oneDNN underneath), float32, in both memory orders.

Weights are plain tensors in the order of the variant, as ``torch.nn`` layers hold them; oneDNN
reorders them inside each call, as fastconv packs them inside each call (but ahead where the
direction is ``forward_packed``). Gradients come from the
ATen functions that autograd itself would call, without the graph around them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from ..networks import program_of_network
from ..networks.torch_module import torch_module
from ..operations import Operands
from ..operations.convolution import Convolution
from ..operations.linear import Linear
from ..operations.network import Network
from ..operations.pooling import Pooling
from ..operations.training import SETTINGS, Training, labels
from ..problems import Problem
from . import Prepared, Settings

#: what limits ATen's own kernels and oneDNN's to an instruction set of ours; read at import
LIMITS: dict[str, dict[str, str]] = {
    "scalar": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {},  # oneDNN multiplies float32 by matrix tiles only where one asks for bfloat16
    "amx": {},
}

CHANNELS_LAST, C_ORDER = "channels_last", "C order"
COMPILED = "torch.compile"  # of a whole network, its weights frozen into it


class PyTorch:
    """Two rows a problem: channels_last and C order."""

    def __init__(self) -> None:
        self._torch: Any = None

    def start(self, settings: Settings) -> str | None:
        limits = LIMITS.get(settings.isa or "", {})
        if "torch" in sys.modules and any(os.environ.get(name) != limits[name] for name in limits):
            return f"torch was imported before it could be limited to {settings.isa}"
        os.environ.update(limits)
        # libgomp's workers spin after each region, for some 16 ms by default; 20,000 turns (about
        # 1 ms) bridge the gaps within a call and between calls, and the next sample waits less
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        try:
            import torch
        except ImportError:
            return "torch is not installed"
        torch.set_num_threads(settings.threads)
        torch.set_grad_enabled(False)
        torch.set_float32_matmul_precision("highest")
        self._torch = torch
        return None

    def versions(self) -> dict[str, str]:
        onednn = re.search(r"(?:MKL-DNN|oneDNN) (v[\d.]+)", self._torch.__config__.show())
        return {
            "torch": self._torch.__version__,
            "torch capability": self._torch.backends.cpu.get_cpu_capability(),
            "torch oneDNN": onednn.group(1) if onednn else "none",
        }

    def variants(self, problem: Problem) -> list[str]:
        if isinstance(problem.shape, Network):
            return [CHANNELS_LAST, COMPILED]
        if isinstance(problem.shape, Training):
            return [CHANNELS_LAST]
        # a matrix has one order only
        return [C_ORDER] if isinstance(problem.shape, Linear) else [CHANNELS_LAST, C_ORDER]

    def slowness(self, variant: str) -> float:
        return 0.0

    def prepare(self, problem: Problem, operands: Operands, variant: str) -> Prepared:
        torch, tensors = self._torch, {}
        if isinstance(problem.shape, Network):
            return self._network(problem.shape.name, operands["x"], variant)
        if isinstance(problem.shape, Training):
            return self._training(problem.shape.name, operands["x"])
        for name, operand in operands.items():
            tensor = torch.from_numpy(operand)
            if variant == CHANNELS_LAST and tensor.dim() == 4:
                tensor = tensor.to(memory_format=torch.channels_last)
            tensors[name] = tensor

        def arrays(result: Any) -> tuple[Any, ...]:
            parts = result if isinstance(result, (tuple, list)) else (result,)
            return tuple(part.numpy() for part in parts if part is not None)

        return Prepared(_CALLS[problem.shape.operation](torch, problem, tensors), arrays)

    def _network(self, name: str, x: Any, variant: str) -> Prepared:
        """The model as torchvision writes it; ``torch.compile`` needs a C++ compiler."""
        torch = self._torch
        module = torch_module(program_of_network(name, len(x), folded=False))
        image = torch.from_numpy(x).to(memory_format=torch.channels_last)
        if variant == COMPILED:
            import torch._inductor.config as inductor

            inductor.freezing = True
            module = torch.compile(module)
        return Prepared(lambda: module(image), lambda result: (result.numpy(),))

    def _training(self, name: str, x: Any) -> Prepared:
        torch = self._torch
        module = torch_module(program_of_network(name, len(x), folded=False), training=True)
        named = module.named_parameters()
        weights = [p for n, p in named if n.startswith("weight") and p.dim() > 1]
        optimizer = torch.optim.SGD(module.parameters(), **SETTINGS)
        image = torch.from_numpy(x).to(memory_format=torch.channels_last)

        def step() -> Any:
            with torch.enable_grad():
                optimizer.zero_grad()
                output = module(image)
                target = torch.from_numpy(labels(*output.shape))
                loss = torch.nn.functional.cross_entropy(output, target)
                loss.backward()
            optimizer.step()
            return loss.detach().reshape(1), weights[0].grad, weights[-1].grad

        return Prepared(step, lambda result: tuple(part.numpy() for part in result))


def _convolution(torch: Any, problem: Problem, tensors: dict[str, Any]) -> Callable[[], Any]:
    shape = problem.shape
    assert isinstance(shape, Convolution)
    x, weight = tensors["x"], tensors["weight"]
    layer = (shape.stride, shape.padding, shape.dilation)
    if problem.direction == "forward_packed":
        return _packed(torch, shape, tensors)
    if problem.direction == "forward":
        return lambda: torch.conv2d(x, weight, None, *layer, shape.groups)
    grad_output, backward = tensors["grad_output"], torch.ops.aten.convolution_backward
    wanted = (problem.direction != "grad_weight", problem.direction != "grad_input", False)
    rest = (*layer, False, (0, 0), shape.groups, wanted)
    return lambda: backward(grad_output, x, weight, None, *rest)


def _packed(torch: Any, shape: Convolution, tensors: dict[str, Any]) -> Callable[[], Any]:
    """What ``torch.compile`` calls for a frozen convolution with ReLU: the weight in the order that
    oneDNN asks for at this image, reordered here; bias and ReLU in its kernel."""
    if not torch.backends.mkldnn.is_available():
        raise LookupError("this build of PyTorch has no oneDNN")
    x, bias = tensors["x"], tensors["bias"]
    layer = (shape.padding, shape.stride, shape.dilation, shape.groups)
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
    weight = reorder(tensors["weight"].to_mkldnn(), *layer, x.shape)
    run = torch.ops.mkldnn._convolution_pointwise
    return lambda: run(x, weight, bias, *layer, "relu", [], "")


def _pooling(torch: Any, problem: Problem, tensors: dict[str, Any]) -> Callable[[], Any]:
    shape, x = problem.shape, tensors["x"]
    assert isinstance(shape, Pooling)
    window, ceil = (shape.kernel, shape.stride, shape.padding), shape.ceil_mode
    if shape.mode == "avg":
        if problem.direction == "forward":
            return lambda: torch.nn.functional.avg_pool2d(x, *window, ceil)
        grad_output, backward = tensors["grad_output"], torch.ops.aten.avg_pool2d_backward
        return lambda: backward(grad_output, x, *window, ceil, True, None)
    if problem.direction == "forward":
        return lambda: torch.max_pool2d(x, *window, 1, ceil)
    with_indices = torch.ops.aten.max_pool2d_with_indices
    if problem.direction == "forward_indices":
        return lambda: with_indices(x, *window, (1, 1), ceil)
    _, indices = with_indices(x, *window, (1, 1), ceil)
    grad_output, backward = tensors["grad_output"], torch.ops.aten.max_pool2d_with_indices_backward
    return lambda: backward(grad_output, x, *window, (1, 1), ceil, indices)


def _linear(torch: Any, problem: Problem, tensors: dict[str, Any]) -> Callable[[], Any]:
    x, weight = tensors["x"], tensors["weight"]
    if problem.direction == "forward":
        return lambda: torch.nn.functional.linear(x, weight)
    grad_output = tensors["grad_output"]
    return lambda: (grad_output @ weight, grad_output.t() @ x)


_CALLS = {"conv2d": _convolution, "pool2d": _pooling, "linear": _linear}


def peer() -> PyTorch:
    return PyTorch()
