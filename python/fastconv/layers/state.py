"""A model's arrays as a whole: matching a state dict's names and shapes with them, moving them.

Nothing is written before everything fits; the error lists all that does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastconv.layers.placement import (
    HALVES,
    can_hold,
    check_dtype,
    device_index,
    device_of,
    dtype_name,
    host,
    is_floating,
    placed,
    write,
)
from fastconv.ops.devices import on_device
from fastconv.ops.families import import_any

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


def from_caffe(state: Mapping[str, Any], layers: Mapping[str, str]) -> dict[str, Any]:
    """Rename Caffe's layers, the parts of whose names are divided by "/" (or "." in .npz files)."""
    paths = {name.replace("/", "."): path for name, path in layers.items()}
    renamed = {}
    for name, value in state.items():
        layer, _, part = name.replace("/", ".").rpartition(".")
        renamed[f"{paths[layer]}.{part}" if layer in paths else name] = value
    return renamed


def load_into(model: Any, state: Mapping[str, Any]) -> None:
    """Overwrite the model's parameters and buffers; ``ValueError`` lists what does not fit."""
    function = f"{type(model).__name__}.load_state_dict"
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise TypeError(
            f"{function}: state is a {type(state).__name__}; wanted a dict of names and arrays, "
            f"such as state_dict() gives"
        )
    targets = model.state_dict()
    renamed = strip_common_prefix(from_caffe(state, model.caffe_layers), set(targets))
    values = {name: _values(function, name, value) for name, value in renamed.items()}
    problems = _problems(targets, values)
    if problems:
        head = f"{function}: {len(problems)} entries do not fit:"
        raise ValueError("\n  ".join([head, *problems]))
    for path, layer in model.named_layers():
        for name, parameter in layer._parameters.items():
            parameter.load(values[f"{path}.{name}".lstrip(".")])
        for name, buffer in layer._buffers.items():
            full_name = f"{path}.{name}".lstrip(".")
            if full_name in values:
                write(buffer, values[full_name])


def _values(function: str, name: str, value: Any) -> Any:
    """An entry on the host; a tensor of PyTorch that NumPy cannot read is named, with what to
    do."""
    if getattr(value, "is_cuda", False) and not on_device(value):
        value = import_any(function, name, value)
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{function}: {name} is a tensor that requires grad; pass {name}.detach() (the tensors "
            f"of PyTorch's state_dict() are detached)"
        )
    try:
        return host(value)
    except (TypeError, ValueError, RuntimeError) as error:
        dtype = getattr(value, "dtype", None)
        raise TypeError(
            f"{function}: {name} is a {type(value).__name__} of dtype {dtype}, which NumPy does "
            f"not read ({error}); pass {name}.float() or an array"
        ) from error


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
        elif not can_hold(target, value):
            problems.append(
                f"wrong dtype: {name} is {value.dtype}, but the model has {target.dtype}"
            )
    return problems


def move(model: Any, device: Any, dtype: Any) -> Any:
    """`Layer.to`."""
    index = None if device is None else device_index("to", device)
    wanted = None if dtype is None else dtype_name("to", dtype)

    def target(array: Any, layer: Any) -> tuple[int | None, str]:
        where = device_of(array) if device is None else index
        name = wanted or array.dtype.name
        if layer.keeps_float32 and name in HALVES:
            name = "float32"
        if wanted is None and where is None and name in HALVES:
            name = "float32"  # back on the host, where 16 bits have no kernels
        check_dtype("to", wanted or name, cuda=where is not None)
        return where, name

    layers = [layer for _, layer in model.named_layers()]
    arrays = [(p.data, layer) for layer in layers for p in layer._parameters.values()]
    for array, layer in arrays:  # before anything moves
        target(array, layer)
    for layer in layers:
        layer.__dict__.update(_packed=None, _saved=None, _saved_lost=None)
        for parameter in layer._parameters.values():
            parameter.convert(*target(parameter.data, layer))
        for name, buffer in list(layer._buffers.items()):
            if is_floating(buffer):  # counters stay on the host
                layer.register_buffer(name, placed(buffer, *target(buffer, layer)))
    return model
