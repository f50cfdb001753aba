"""Whether a result is right: against PyTorch in a wider type, or against a rule of its own."""

from __future__ import annotations

import math
import numbers
from typing import Any

import fastconv as fc
import torch

#: relative L2 distance from float64 beyond which a row is wrong
TOLERANCE = {"bfloat16": 5e-3, "float16": 1e-3, "float32": 1e-5, "high": 1e-5, "tf32": 1e-3}
#: names of --dtypes that are float32 in another of fastconv's precisions than "highest"
PRECISIONS = {"high": "high", "tf32": "tf32"}
LARGEST_PART = 1 << 26  # elements that are compared in float64 at a time

LR, MOMENTUM, DECAY = 0.1, 0.9, 1e-4


def torch_dtype(name: str) -> torch.dtype:
    """What tensors of one of --dtypes are."""
    found: torch.dtype = torch.float32 if name in PRECISIONS else getattr(torch, name)
    return found


def allow_tf32(allowed: bool) -> None:
    """In PyTorch's products and cuDNN's convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def exactly(prepared: Any, operands: dict[str, Any], dtype: str) -> Any:
    """What PyTorch computes of some operands in a wider type: float64 for float32 operands, else
    float32, and where it has no room or no function for float64."""
    wider = torch.float32 if dtype in ("bfloat16", "float16") else torch.float64
    searches, allowed = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.benchmark = False
    allow_tf32(False)
    try:
        for wide in (wider, torch.float32):
            try:
                widened = {name: _widened(tensor, wide) for name, tensor in operands.items()}
                return (prepared.exact or prepared.theirs)(widened)
            except RuntimeError:  # no memory among them
                continue
        raise LookupError("PyTorch has nothing to compare with")
    finally:
        torch.backends.cudnn.benchmark = searches
        allow_tf32(allowed)


def _widened(tensor: Any, wide: torch.dtype) -> Any:
    """Tensors of an autograd graph are not for this."""
    return tensor.to(wide) if tensor.is_floating_point() and not tensor.requires_grad else tensor


def distance(result: Any, expected: Any) -> float:
    """Relative L2 distance, the largest of several results'; NaN anywhere is NaN."""
    if isinstance(expected, (tuple, list)):
        if len(result) != len(expected):
            return float("inf")
        apart = [distance(*pair) for pair in zip(result, expected)]
        return float("nan") if any(a != a for a in apart) else max(apart)
    result = as_tensor(result)
    if result.shape != expected.shape:
        return float("inf")
    above = below = 0.0
    step = max(1, LARGEST_PART * len(expected) // max(expected.numel(), 1)) if expected.dim() else 0
    parts = zip(result.split(step), expected.split(step)) if step else [(result, expected)]
    for a, b in parts:
        wide = b.double()
        above += float((a.double() - wide).square().sum())
        below += float(wide.square().sum())
    return (above / max(below, 1e-60)) ** 0.5


def for_json(error: float) -> float | str:
    """JSON has neither infinities nor NaN."""
    return error if math.isfinite(error) else str(error)


def as_tensor(array: Any) -> Any:
    """A tensor of another library's array, without a copy, or of a number."""
    if isinstance(array, numbers.Real):
        return torch.tensor(float(array))
    return array if isinstance(array, torch.Tensor) else torch.from_dlpack(array)


def dropout_error(result: Any, operands: dict[str, Any]) -> float:
    """Of dropout with probability 0.5, whatever its mask: what is kept is doubled."""
    kept = result != 0
    share = float(kept.double().mean())
    spread = 0.5 / result.numel() ** 0.5
    if abs(share - 0.5) > 6 * spread:
        return float("inf")
    return distance(result, torch.where(kept, 2 * operands["x"], 0))


# ---- SGD's step on one array, by three ways ------------------------------------------------------


def sgd_ours(o: dict[str, Any]) -> Any:
    """With a ``copy`` in the kernels' dtype where there is one; returns what was updated."""
    from fastconv.ops.optimizer import sgd_update

    def array(name: str) -> Any:
        on_host = isinstance(o[name], torch.Tensor) and not o[name].is_cuda
        return o[name].numpy() if on_host else fc.cuda.asarray(o[name])

    more = {"copy": array("copy")} if "copy" in o else {}
    sgd_update(
        array("master"), array("g"), array("velocity"), lr=LR, momentum=MOMENTUM,
        weight_decay=DECAY, **more,
    )  # fmt: skip
    return o["master"], o["velocity"], o.get("copy", o["master"])


def sgd_theirs(o: dict[str, Any]) -> Any:
    """PyTorch's fused step, around it the casts that float32 masters need."""
    torch._fused_sgd_(
        [o["master"]], [o["g"].to(o["master"].dtype)], [o["velocity"]], weight_decay=DECAY,
        momentum=MOMENTUM, lr=LR, dampening=0.0, nesterov=False, maximize=False,
        is_first_step=False,
    )  # fmt: skip
    if "copy" in o:
        o["copy"].copy_(o["master"])
    return o["master"], o["velocity"], o.get("copy", o["master"])


def sgd_exactly(o: dict[str, Any]) -> Any:
    """The formula of fastconv.optim."""
    velocity = MOMENTUM * o["velocity"] + o["g"] + DECAY * o["master"]
    master = o["master"] - LR * velocity
    return master, velocity, master
