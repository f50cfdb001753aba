"""Whole networks on the device: inference as one captured graph, and training steps.

Inference: `fc.compile`'s plan beside the same network in PyTorch (channels last, a captured graph;
with ``--max-autotune`` also by torch.compile). All copy their input in. Training: one step of
forward, loss, backward and SGD with float32 masters, in fastconv as a user writes it and as a
captured graph (`fc.cuda.capture`), beside PyTorch's autocast (float32 weights, which its products
read as 16 bits), by itself and as a graph, and a graph of PyTorch with 16-bit weights and no
masters, which does less. Times are of calls that follow each other, so the host's part shows where
the device waits for it. Results are held against PyTorch's in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import fastconv as fc
import torch

from ..networks import build_model, image_shape, model_of, program_of_network
from ..networks.torch_module import torch_module
from ..operations.training import SETTINGS, labels
from ..operations.training import Training as TrainingShape
from ..problems import Problem
from .checks import PRECISIONS, allow_tf32, distance, for_json, torch_dtype
from .rows import device

Call = Callable[[], Any]

#: relative L2 distance that a network's result may have, or twice PyTorch's own if that is more
TOLERANCE = {"bfloat16": 0.05, "float16": 0.02, "float32": 1e-3, "high": 1e-3, "tf32": 0.02}


def measure(problem: Problem, dtype: str, clock: Any, options: Any) -> dict[str, Any]:
    """The rest of a row: times, errors, what was wrong."""
    began = time.monotonic()
    prepare = _training if isinstance(problem.shape, TrainingShape) else _inference
    precision = PRECISIONS.get(dtype, "highest")
    with fc.float32_precision(precision):
        calls, expected = prepare(problem.shape.key, problem.batch, dtype, options)
        errors = {name: distance(call(), expected) for name, call in calls.items()}
        times = clock.steady(list(calls.values()), options.samples)
    bound = max(TOLERANCE[dtype], 2 * errors["pytorch"])
    return {
        "bytes": problem.bytes_moved,
        "flops": 2 * problem.macs,
        "times": dict(zip(calls, times, strict=True)),
        "errors": {name: for_json(error) for name, error in errors.items()},
        "refused": {},
        "graph": {},
        "wrong": [f"{name}: {error:.3g}" for name, error in errors.items()
                  if name.startswith("fastconv") and not error <= bound],
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _inference(
    name: str, batch: int, dtype: str, options: Any
) -> tuple[dict[str, Call], torch.Tensor]:
    """Name -> call that returns the result; and that result in float32."""
    shape = (batch, *image_shape(name))
    kind = torch_dtype(dtype)
    exact = torch.randn(shape, device=device()).to(kind).float()
    exact = exact.contiguous(memory_format=torch.channels_last)
    x = exact.to(kind)
    plan_dtype = str(kind).partition(".")[2]
    plan = fc.compile(model_of(name), shape, dtype=plan_dtype, device="cuda")
    given = _array(x)
    out = plan(given)
    calls: dict[str, Call] = {"fastconv": lambda: plan.run(given, out=out)}
    module = torch_module(program_of_network(name, batch, folded=False)).to(device())
    with torch.no_grad():
        expected = _in_float32(lambda: module(exact))
        module.to(kind)
        calls["pytorch"] = _graph_of(module, x)
        if options.max_autotune:
            calls["torch.compile max-autotune"] = _compiled(module, x)
    return calls, expected


def _array(x: torch.Tensor) -> Any:
    """fastconv's, of the same memory where that is a device's."""
    return fc.cuda.asarray(x if x.is_cuda else x.numpy())


def _in_float32(call: Call) -> Any:
    """Without tf32 and without cuDNN's search."""
    searches, allowed = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.benchmark = False
    allow_tf32(False)
    try:
        return call()
    finally:
        torch.backends.cudnn.benchmark = searches
        allow_tf32(allowed)


def _graph_of(module: Any, x: torch.Tensor) -> Call:
    """The module as a captured graph, its input copied in at each call."""
    place = x.clone()
    replay = _captured(lambda: module(place))

    def call() -> Any:
        place.copy_(x)
        return replay()

    return call


def _captured(call: Call) -> Call:
    """PyTorch's calls as a graph; it returns what they returned when they were captured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _compiled(module: Any, x: torch.Tensor) -> Call:
    """torch.compile with its own search and graphs, weights frozen into it; takes minutes."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    compiled = torch.compile(module, mode="max-autotune")

    def call() -> Any:
        with torch.no_grad():
            return compiled(x)

    for _ in range(3):
        call()
    return call


# ---- training ------------------------------------------------------------------------------------


def _training(
    name: str, batch: int, dtype: str, options: Any
) -> tuple[dict[str, Call], tuple[Any, ...]]:
    """Name -> step that returns the loss and the last weight's gradient; and those in float32."""
    kind = torch_dtype(dtype)
    x = torch.randn(batch, *image_shape(name), device=device()).to(kind).float()
    x = x.contiguous(memory_format=torch.channels_last)
    step = fastconv_step(name, x.to(kind))
    step()
    calls: dict[str, Call] = {"fastconv": step, "fastconv graph": fastconv_graph(step)}
    expected = _in_float32(_torch_step(name, x, torch.float32))
    expected = tuple(part.detach().clone() for part in expected)
    autocast = None if kind == torch.float32 else kind
    eager = _torch_step(name, x, torch.float32, autocast)
    calls["pytorch"] = eager
    calls["pytorch graph"] = _captured(_torch_step(name, x, torch.float32, autocast))
    if autocast is not None:
        calls[f"pytorch {dtype} weights graph"] = _captured(_torch_step(name, x.to(kind), kind))
    return calls, expected


def fastconv_step(name: str, x: Any) -> Call:
    """One training step on a batch, as a user writes it."""
    given = _array(x)
    model = build_model(name).to("cuda", given.dtype.name).train()
    for _, layer in model.named_layers():
        if isinstance(layer, fc.layers.Dropout):
            layer.p = 0.0
    weights = [p for n, p in model.named_parameters() if n.endswith("weight") and len(p.shape) > 1]
    optimizer = fc.optim.SGD(model.parameters(), **SETTINGS)
    loss = fc.layers.CrossEntropyLoss()
    classes = model.output_shape((1, *given.shape[1:]))[-1]
    target = fc.cuda.asarray(labels(given.shape[0], classes))

    def step() -> Any:
        optimizer.zero_grad()
        value = loss(model(given), target)
        model.backward(loss.backward(), need_input=False)
        optimizer.step()
        return value, weights[-1].grad

    return step


def fastconv_graph(step: Call) -> Call:
    """The step, which ran before, as a captured graph."""
    with fc.cuda.capture() as graph:
        result = step()

    def replay() -> Any:
        graph.launch()
        return result

    return replay


def _torch_step(
    name: str, x: torch.Tensor, weights: torch.dtype, autocast: torch.dtype | None = None
) -> Call:
    """PyTorch's step with weights of a dtype, and autocast to another where one is given."""
    program = program_of_network(name, len(x), folded=False)
    module = torch_module(program, training=True).to(x.device, weights)
    named = module.named_parameters()
    last = [p for n, p in named if n.startswith("weight") and p.dim() > 1][-1]
    optimizer = torch.optim.SGD(module.parameters(), **SETTINGS, fused=True)
    classes = program.shapes[program.outputs[0]][-1]
    target = torch.from_numpy(labels(len(x), classes)).to(x.device)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        # without a cache: a captured graph must hold the casts of weights too
        with torch.autocast(x.device.type, autocast, autocast is not None, cache_enabled=False):
            loss = torch.nn.functional.cross_entropy(module(x).float(), target)
        loss.backward()
        optimizer.step()
        return loss.detach(), last.grad

    return step
