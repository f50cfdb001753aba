"""fastconv's own kernels: ``auto``, or any algorithm by name, in both memory orders.

A variant is an algorithm's name (on channels last, the kernels' native order) or ``auto C order``.
What a build does not have (a function, an algorithm) gives no row, and the report says why.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from ..networks import model_of
from ..operations import Operands
from ..operations.convolution import Convolution
from ..operations.linear import Linear
from ..operations.network import Network
from ..operations.pooling import Pooling
from ..operations.training import Training, step_of
from ..problems import Problem
from . import ONLY_BY_NAME, Prepared, Settings

C_ORDER_SUFFIX = " C order"

#: seconds for 10**9 multiply-adds, a first guess; measured rates replace it
SLOWNESS = {"naive": 1.5, "im2col": 0.05}

Call = Callable[[], Any]
#: a call and the function that ``explain`` takes with its arguments
Explained = tuple[Call, Callable[[], str]]


class FastconvKernels:
    """One row an algorithm."""

    def __init__(self) -> None:
        self._fastconv: Any = None
        self._settings = Settings(1)

    def start(self, settings: Settings) -> str | None:
        os.environ["FASTCONV_NUM_THREADS"] = str(settings.threads)
        try:
            import fastconv
        except ImportError as error:
            return f"fastconv cannot be imported ({error}); install it: python -m pip install ."
        self._fastconv, self._settings = fastconv, settings
        fastconv._core.set_num_threads(settings.threads)
        if settings.isa:
            fastconv._core.set_process_isa(settings.isa)
        return None

    def versions(self) -> dict[str, str]:
        core = self._fastconv._core
        return {
            "fastconv": core.__version__,
            "fastconv compiler": core.compiler,
            "fastconv isa": core.current_isa(),
        }

    def variants(self, problem: Problem) -> list[str]:
        if isinstance(problem.shape, Linear):
            return ["auto"]
        if isinstance(problem.shape, Network):
            return ["auto compiled"]
        if isinstance(problem.shape, Training):
            return ["auto"]
        named = [name for name in self._settings.algorithms if name != "auto"]
        if isinstance(problem.shape, Pooling) or problem.direction == "backward":
            named = []  # they take no algorithm
        automatic = ["auto"] if "auto" in self._settings.algorithms or not named else []
        return [*automatic, *named, *(row + C_ORDER_SUFFIX for row in automatic)]

    def slowness(self, variant: str) -> float:
        return SLOWNESS.get(variant, 0.0)

    def prepare(self, problem: Problem, operands: Operands, variant: str) -> Prepared:
        fc, algorithm = self._fastconv, variant.removesuffix(C_ORDER_SUFFIX)
        try:
            # runtimes take a network's image in C order, and so do we
            if algorithm == variant and not isinstance(problem.shape, Network):
                operands = {
                    name: fc.channels_last(array) if array.ndim == 4 else array
                    for name, array in operands.items()
                }
            call, plan = _CALLS[problem.shape.operation](fc, problem, operands, algorithm)
        except AttributeError as error:
            raise LookupError(f"not in this build of fastconv: {error}") from error

        def arrays(result: Any) -> tuple[Any, ...]:
            parts = result if isinstance(result, tuple) else (result,)
            return tuple(part for part in parts if part is not None)

        return Prepared(call, arrays, plan)


def _explained(fc: Any, function: Any, *arguments: Any, **keywords: Any) -> Explained:
    """The call, and a function that names its plan."""
    return (
        lambda: function(*arguments, **keywords),
        lambda: _plan(fc, function, *arguments, **keywords),
    )


def _plan(fc: Any, function: Any, *arguments: Any, **keywords: Any) -> str:
    """Algorithm and instruction set, by ``fastconv.explain``; empty where it has no plan."""
    try:
        found = fc.explain(function, *arguments, **keywords)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return ""  # pooling and linear have one way each
    text = f"{found.algorithm} on {found.isa}, {found.tasks} tasks"
    if any(phase["split"] for phase in found.phases):
        text += ", matrix tiles"
    if keywords.pop("algorithm", "auto") != "auto":
        passed_by = fc.explain(function, *arguments, **keywords).declined
        if "precision" in passed_by.get(found.algorithm, ""):
            return f"{text}, {ONLY_BY_NAME}"
    return text


def _convolution(fc: Any, problem: Problem, operands: Operands, algorithm: str) -> Explained:
    shape = problem.shape
    assert isinstance(shape, Convolution)
    keywords = shape.keywords()
    x, weight = operands["x"], operands["weight"]
    named = keywords if algorithm == "auto" else {**keywords, "algorithm": algorithm}
    if problem.direction == "forward":
        return _explained(fc, fc.conv2d, x, weight, **named)
    if problem.direction == "forward_packed":
        packed = fc.pack_weight(weight, input_shape=x.shape, **named)
        return _explained(fc, fc.conv2d, x, packed, operands["bias"], activation="relu", **named)
    grad = operands["grad_output"]
    if problem.direction == "grad_input":
        return _explained(fc, fc.conv2d_grad_input, grad, weight, x.shape, **named)
    if problem.direction == "grad_weight":
        return _explained(fc, fc.conv2d_grad_weight, grad, x, weight.shape, **named)
    need = ("input", "weight")

    def plan() -> str:
        by_input = _plan(fc, fc.conv2d_grad_input, grad, weight, x.shape, **keywords)
        return f"{by_input}; {_plan(fc, fc.conv2d_grad_weight, grad, x, weight.shape, **keywords)}"

    return lambda: fc.conv2d_backward(grad, x, weight, need=need, **keywords), plan


def _pooling(fc: Any, problem: Problem, operands: Operands, algorithm: str) -> Explained:
    shape, x = problem.shape, operands["x"]
    assert isinstance(shape, Pooling)
    kernel, keywords = shape.kernel, shape.keywords()
    if problem.direction == "forward_indices":
        return _explained(fc, fc.max_pool2d, x, kernel, return_indices=True, **keywords)
    if problem.direction == "forward":
        function = fc.max_pool2d if shape.mode == "max" else fc.avg_pool2d
        return _explained(fc, function, x, kernel, **keywords)
    grad = operands["grad_output"]
    if shape.mode == "avg":
        return _explained(fc, fc.avg_pool2d_backward, grad, x.shape, kernel, **keywords)
    _, indices = fc.max_pool2d(x, kernel, return_indices=True, **keywords)
    return _explained(fc, fc.max_pool2d_backward, grad, indices, x.shape, kernel, **keywords)


def _linear(fc: Any, problem: Problem, operands: Operands, algorithm: str) -> Explained:
    x, weight = operands["x"], operands["weight"]
    if problem.direction == "forward":
        return _explained(fc, fc.linear, x, weight)
    grad, need = operands["grad_output"], ("input", "weight")
    return _explained(fc, fc.linear_backward, grad, x, weight, need=need)


def _network(fc: Any, problem: Problem, operands: Operands, algorithm: str) -> Explained:
    """`fc.compile`'s plan: weights are packed once, before."""
    shape, x = problem.shape, operands["x"]
    assert isinstance(shape, Network)
    plan = fc.compile(model_of(shape.name), x.shape)
    kernels = Counter(row.kernel for row in plan.rows if row.operation.startswith("conv2d"))
    text = ", ".join(f"{count} {name}" for name, count in kernels.items())
    return lambda: plan(x), lambda: text


def _training(fc: Any, problem: Problem, operands: Operands, algorithm: str) -> Explained:
    shape = problem.shape
    assert isinstance(shape, Training)
    return step_of(shape.name, operands["x"]), lambda: ""


_CALLS = {
    "conv2d": _convolution, "pool2d": _pooling, "linear": _linear, "network": _network,
    "training": _training,
}  # fmt: skip


def peer() -> FastconvKernels:
    return FastconvKernels()
