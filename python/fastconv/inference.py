"""`compile`: a model -> its graph -> fused steps (fusion.py, pool_fusion.py) -> memory
(memory_plan.py) -> bound calls (bound_calls.py, inference_plan.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastconv.fusion import fuse, program_of
from fastconv.graph import Graph
from fastconv.inference_plan import InferencePlan
from fastconv.layers.base import Layer
from fastconv.layers.placement import (
    HALVES,
    check_dtype,
    device_index,
    device_of,
    dtype_name,
    host,
)
from fastconv.pool_fusion import fuse_max_pools


def compile(
    model: Layer, input_shape: Sequence[int], *, dtype: Any = "float32", device: str | None = None
) -> InferencePlan:
    """Prepare a model for inference on inputs of one shape.

    Batch norm (running statistics) goes into the weights before it; bias, residual addition and
    ReLU into the convolution's call, and on the CPU 2x2 max pooling, where Winograd's algorithm
    runs it; dropout goes; branches write into their channels of a concatenation; weights are packed
    and all memory is laid out once. On a GPU the calls are one captured CUDA graph. The model is
    not changed, and later changes of its weights do not reach the plan.

    Parameters
    ----------
    model : Layer
        In either mode; the plan computes what ``model.eval()`` does, up to rounding. Do not call a
        model in training mode meanwhile: its layers are in eval mode while they are looked at.
    input_shape : tuple of int
        With N.
    dtype : "float32" or "float64"; on a CUDA device "float32", "float16" or "bfloat16"
        Of weights, input and result. Sums are float32 in 16 bits.
    device : "cpu", "cuda" or "cuda:1", optional
        Where the model's parameters are, if not given.

    Returns
    -------
    InferencePlan
        ``plan(x)``, ``plan.run(x, out=None)``; ``print(plan)`` shows its steps.

    Raises
    ------
    TypeError
        If a layer has no rule, or the dtype no kernels (the message names the layer), or the model
        returns something else than an array or a tuple of arrays.
    ValueError
        If the shape does not fit the model, or there is no such device.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> L = fc.layers
    >>> model = L.Sequential(L.Conv2d(3, 8, 3), L.BatchNorm2d(8), L.ReLU(), L.GlobalAvgPool2d())
    >>> plan = fc.compile(model, (1, 3, 32, 32))
    >>> plan(np.ones((1, 3, 32, 32), np.float32)).shape
    (1, 8, 1, 1)
    """
    if not isinstance(model, Layer):
        raise TypeError(f"compile: model is a {type(model).__name__}; wanted a fc.layers.Layer")
    first = next((parameter.data for parameter in model.parameters()), None)
    index = device_of(first) if device is None else device_index("compile", device)
    name = dtype_name("compile", dtype)
    check_dtype("compile", name, cuda=index is not None)
    graph = Graph.of(model, input_shape, training=False, function="compile")
    single = graph.output_shape == graph.nodes[graph.outputs[0]].shape
    state = {key: _readable(value) for key, value in model.state_dict().items()}
    program = fuse(program_of(graph, state))
    if index is None:
        program = fuse_max_pools(program, name)
    return InferencePlan(program, name, index, single)


def _readable(array: Any) -> Any:
    """On the host, 16 bits widened: NumPy may not know bfloat16."""
    return host(array.astype("float32") if array.dtype.name in HALVES else array)
