"""The compiled module. One section a family, in the order of csrc/bindings/families.def."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

__version__: str

# config
compiler: str
build_type: str
sanitize: str

def num_threads() -> int: ...
def set_num_threads(threads: int) -> None: ...
def places_workers() -> bool: ...
def affinity_cpus() -> int: ...
def available_cpus() -> int: ...
def built_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def current_isa() -> str: ...
def set_process_isa(name: str | None) -> None: ...
def set_thread_isa(name: str | None) -> str | None: ...
def workspace_limit() -> int: ...
def idle_workspace_bytes() -> int: ...
def idle_result_bytes() -> int: ...
def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Array: ...
def empty_images(
    shape: Sequence[int], dtype: npt.DTypeLike, x: Array, weight: Array | None
) -> Array: ...
def release_idle_workspaces() -> None: ...

cuda: Any  # the submodule: bindings/cuda_families.def

# pool2d
def pool2d(
    operation: int,
    input: Array,
    output: Array,
    indices: Array | None,
    windows: tuple[int, ...],
    count_include_pad: bool,
    divisor_override: int,
) -> None: ...
def unpool2d(backward: bool, input: Array, output: Array, indices: Array) -> int: ...

# probe
def probe_fma(seconds: float, threads: int, dtype: str = "float32") -> float: ...
def probe_read(seconds: float, threads: int, megabytes: float = 256.0) -> float: ...
def probe_read_buffer(buffer: object, seconds: float, threads: int) -> float: ...
def probe_ping(rounds: int = 600) -> float: ...
def vector_lanes(dtype: str = "float32") -> int: ...

# conv2d
conv2d_algorithms: tuple[str, ...]

def output_size(
    input: int, kernel: int, stride: int, dilation: int, pad_lo: int, pad_hi: int, ceil_mode: bool
) -> int: ...
def conv2d_plan(
    direction: int,
    input: Sequence[int],
    weight: Sequence[int],
    output: Sequence[int],
    geometry: tuple[int, ...],
    float64: bool,
    channels_last: bool,
    algorithm: int,
    threads: int,
    wide_tiles: bool = False,
    packed: bool = False,
    strides: Sequence[tuple[int, ...]] | None = None,
) -> dict[str, Any]: ...

class PackedConvWeight:
    """A weight with its packed formats, for the instruction set of when it was made."""

    def __init__(self, weight: Array, groups: int) -> None: ...
    def pack(
        self,
        weight: Array,
        input: Sequence[int],
        output: Sequence[int],
        geometry: tuple[int, ...],
        algorithm: int,
        wide_tiles: bool = False,
    ) -> None: ...
    @property
    def formats(self) -> tuple[str, ...]: ...
    @property
    def nbytes(self) -> int: ...

def conv2d(
    direction: int,
    input: Array,
    weight: Array,
    output: Array,
    packed: PackedConvWeight | None,
    bias: Array | None,
    residual: Array | None,
    geometry: tuple[int, ...],
    relu: bool,
    accumulate: bool,
    algorithm: int,
    wide_tiles: bool = False,
    pooled: bool = False,
) -> int: ...
def conv2d_grad_bias(grad_output: Array, out: Array, accumulate: bool) -> None: ...

# elementwise: y and grad_input are written
def relu(x: Array, y: Array, parameter: float = 0.0) -> None: ...
def leaky_relu(x: Array, y: Array, parameter: float = 0.0) -> None: ...
def sigmoid(x: Array, y: Array, parameter: float = 0.0) -> None: ...
def tanh(x: Array, y: Array, parameter: float = 0.0) -> None: ...
def relu_backward(
    grad_output: Array, output: Array, grad_input: Array, parameter: float = 0.0
) -> None: ...
def leaky_relu_backward(
    grad_output: Array, output: Array, grad_input: Array, parameter: float = 0.0
) -> None: ...
def sigmoid_backward(
    grad_output: Array, output: Array, grad_input: Array, parameter: float = 0.0
) -> None: ...
def tanh_backward(
    grad_output: Array, output: Array, grad_input: Array, parameter: float = 0.0
) -> None: ...
def add(a: Array, b: Array, y: Array, parameter: float = 0.0) -> None: ...
def subtract(a: Array, b: Array, y: Array, parameter: float = 0.0) -> None: ...
def multiply(a: Array, b: Array, y: Array, parameter: float = 0.0) -> None: ...
def add_relu(a: Array, b: Array, y: Array, parameter: float = 0.0) -> None: ...
def copy(x: Array, y: Array) -> None: ...
def dropout_scale(p: float) -> float: ...
def dropout(x: Array, y: Array, seed: int, threshold: int, scale: float) -> None: ...
def sgd_update(
    parameters: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array] | None,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> None: ...

# linear: direction 0 writes y, 1 (grad_input) x, 2 (grad_weight) weight
def linear(
    direction: int,
    x: Array,
    weight: Array,
    y: Array,
    bias: Array | None,
    relu: bool,
    accumulate: bool,
) -> None: ...

# loss: y, grad_input and grad are written; axis is not negative; target is int64
def softmax(x: Array, y: Array, axis: int) -> None: ...
def log_softmax(x: Array, y: Array, axis: int) -> None: ...
def softmax_backward(grad_output: Array, output: Array, grad_input: Array, axis: int) -> None: ...
def log_softmax_backward(
    grad_output: Array, output: Array, grad_input: Array, axis: int
) -> None: ...
def cross_entropy(
    logits: Array, target: Array, label_smoothing: float, mean: bool, losses: Array | None
) -> float: ...
def cross_entropy_backward(
    logits: Array,
    target: Array,
    label_smoothing: float,
    mean: bool,
    scales: Array,
    grad: Array,
) -> None: ...
def lie_apart(
    running_mean: Array | None,
    running_var: Array | None,
    x: Array,
    weight: Array | None,
    bias: Array | None,
) -> bool: ...

# normalization: y, mean, rstd and the gradients are written, running statistics in training
def batch_norm(
    x: Array,
    y: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    axis: int,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool = False,
    residual: Array | None = None,
) -> None: ...
def batch_norm_backward(
    grad_output: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None,
    grad_input: Array,
    grad_weight: Array,
    grad_bias: Array,
    axis: int,
    training: bool,
    relu: bool = False,
    bias: Array | None = None,
    output: Array | None = None,
    grad_residual: Array | None = None,
) -> None: ...
def local_response_norm(
    x: Array, y: Array, axis: int, size: int, alpha: float, beta: float, k: float
) -> None: ...
def local_response_norm_backward(
    grad_output: Array,
    x: Array,
    grad_input: Array,
    axis: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
) -> None: ...

# program
class Program:
    def __init__(self) -> None: ...
    def begin(self) -> None: ...
    @staticmethod
    def end() -> None: ...
    def __len__(self) -> int: ...
    def run(
        self, inputs: Sequence[tuple[Array, Array]], outputs: Sequence[tuple[Array, Array]]
    ) -> None: ...
    def run_timed(self) -> list[float]: ...
