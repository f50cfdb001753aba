"""Matching a state dict's names and shapes with a model's.

Nothing is written before everything fits; the error lists all that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# PyTorch before 0.4.1 did not save it, and it has no effect on results.
OPTIONAL_SUFFIX = "num_batches_tracked"


def strip_common_prefix(state: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Drop leading components that all names share (``module.``), as many as match best."""
    candidates = [dict(state)]
    while True:
        current = candidates[-1]
        heads = {name.partition(".")[0] for name in current}
        if len(heads) != 1 or any("." not in name for name in current):
            break
        candidates.append({name.partition(".")[2]: value for name, value in current.items()})
    # max takes the first of equals: the least is stripped.
    return max(candidates, key=lambda candidate: len(wanted & candidate.keys()))


def load_into(model: Any, state: Mapping[str, Any]) -> None:
    """Overwrite the model's parameters and buffers; ``ValueError`` lists what does not fit."""
    targets = model.state_dict()
    values = {
        name: np.asarray(value) for name, value in strip_common_prefix(state, set(targets)).items()
    }
    problems = _problems(targets, values)
    if problems:
        head = f"{type(model).__name__}.load_state_dict: {len(problems)} entries do not fit:"
        raise ValueError("\n  ".join([head, *problems]))
    for path, layer in model.named_layers():
        for name, parameter in layer._parameters.items():
            parameter.load(values[f"{path}.{name}".lstrip(".")])
        for name, buffer in layer._buffers.items():
            full_name = f"{path}.{name}".lstrip(".")
            if full_name in values:
                np.copyto(buffer, values[full_name], casting="same_kind")


def _problems(targets: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    problems = [
        f"missing: {name} {targets[name].shape}"
        for name in targets
        if name not in values and not name.endswith(OPTIONAL_SUFFIX)
    ]
    problems += [
        f"unexpected: {name} {values[name].shape}" for name in values if name not in targets
    ]
    for name in targets:
        if name not in values:
            continue
        target, value = targets[name], values[name]
        if target.shape != value.shape:
            problems.append(f"misshapen: {name} is {value.shape}, but the model has {target.shape}")
        elif not np.can_cast(value.dtype, target.dtype, casting="same_kind"):
            problems.append(
                f"wrong dtype: {name} is {value.dtype}, but the model has {target.dtype}"
            )
    return problems
