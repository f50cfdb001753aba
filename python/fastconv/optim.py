"""Stochastic gradient descent, and the schedules of schedules.py; semantics and names as
``torch.optim``.

SGD:  g = grad + weight_decay * p;  v = momentum * v + g  (v = g at first);
      p = p - lr * (g + momentum * v if nesterov else v)

Parameters are updated in place in one pass over their arrays, on the CPU all in one call. Of
parameters of 16 bits (on a CUDA device) the optimiser holds float32 masters: they are what is
updated, in the pass that also writes the parameter, their nearest value of 16 bits. ``state_dict``
and ``load_state_dict`` of optimisers and schedules make a resume exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np

from fastconv.layers.arguments import number
from fastconv.layers.parameter import Parameter
from fastconv.layers.placement import HALVES, device_of, host, placed, zeros_like
from fastconv.ops.devices import new, on_device
from fastconv.ops.optimizer import sgd_update, sgd_update_all
from fastconv.schedules import (
    CosineAnnealingLR,
    MultiStepLR,
    ReduceLROnPlateau,
    Schedule,
    StepLR,
    WarmUp,
)

__all__ = [
    "SGD",
    "CosineAnnealingLR",
    "MultiStepLR",
    "ReduceLROnPlateau",
    "Schedule",
    "StepLR",
    "WarmUp",
    "flat_gradients",
]


class SGD:
    """Stochastic gradient descent with momentum.

    Parameters
    ----------
    params : iterable of Parameter
        As from ``model.parameters()``.
    lr : float
        Learning rate; ``optimizer.lr`` may be changed at any time.
    momentum, weight_decay : float
        Weight decay is added to the gradient (L2), for all parameters.
    nesterov : bool
        Look one step ahead (needs momentum).

    Raises
    ------
    ValueError
        If a value is out of range.
    TypeError
        If ``params`` holds something else than parameters, or a value is no number.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> p = fc.Parameter(np.array([1.0, 2.0], np.float32))
    >>> optimizer = fc.optim.SGD([p], lr=0.5)
    >>> p.grad += 1
    >>> optimizer.step()
    >>> p.data
    array([0.5, 1.5], dtype=float32)
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.params = _checked("SGD", params)
        if not self.params:
            raise ValueError("SGD: params is empty")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.nesterov = bool(nesterov)
        for name, value in self._hyper().items():
            if not value >= 0:
                raise ValueError(f"SGD: {name}={value!r}, but a number of at least 0 is needed")
            setattr(self, name, value)
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov=True needs momentum > 0, but momentum is 0")
        self.velocity: list[Any] = [None] * len(self.params)
        self.master: list[Any] = [None] * len(self.params)
        self._versions = [-1] * len(self.params)  # of the parameters that the masters agree with

    def zero_grad(self) -> None:
        """Set all gradients to zero, in place."""
        for parameter in self.params:
            parameter.zero_grad()

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        on_host: dict[Any, list[int]] = {}  # dtype -> indices: those of one dtype go in one call
        for index, parameter in enumerate(self.params):
            if not (parameter.requires_grad and parameter.has_grad):
                continue
            data = parameter.data
            if on_device(data):
                self._step_on_device(index, parameter, data)
                continue
            on_host.setdefault(data.dtype, []).append(index)
            velocity = self.velocity[index]
            # a dtype's name takes longer than this loop does without it
            here = type(velocity) is np.ndarray and velocity.dtype == data.dtype
            if self.momentum != 0 and not here:
                self._place_velocity(index, data, data.dtype.name)
        for indices in on_host.values():
            sgd_update_all(
                [self.params[i].data for i in indices],
                [self.params[i].grad for i in indices],
                [self.velocity[i] for i in indices] if self.momentum != 0 else None,
                **self._hyper(),
            )

    def _step_on_device(self, index: int, parameter: Parameter, data: Any) -> None:
        halves = data.dtype.name in HALVES
        if self.momentum != 0:
            self._place_velocity(index, data, "float32" if halves else data.dtype.name)
        if halves:
            self._place_master(index, parameter)
        sgd_update(
            self.master[index] if halves else data,
            parameter.grad,
            self.velocity[index] if self.momentum != 0 else None,
            **self._hyper(),
            **({"copy": data} if halves else {}),
        )

    def _place_velocity(self, index: int, data: Any, dtype: str) -> None:
        """The velocity beside the parameter, which may have moved."""
        velocity = self.velocity[index]
        if velocity is None:
            self.velocity[index] = zeros_like(data, dtype)
        else:
            self.velocity[index] = placed(velocity, device_of(data), dtype)

    def _place_master(self, index: int, parameter: Parameter) -> None:
        """A float32 copy of the parameter, made anew where something else has written it (in place
        through ``data`` excepted: nobody hears of that)."""
        if self.master[index] is None or self._versions[index] != parameter.version:
            self.master[index] = parameter.data.astype("float32")
            self._versions[index] = parameter.version

    def state_dict(self) -> dict[str, Any]:
        """``{"hyper": {...}, "velocity": [array or None, ...], "master": [...]}``; the live arrays,
        not copies."""
        current = zip(self.master, self._versions, self.params, strict=True)
        masters = [m if version == p.version else None for m, version, p in current]
        return {"hyper": self._hyper(), "velocity": list(self.velocity), "master": masters}

    def _hyper(self) -> dict[str, Any]:
        # As numbers of Python's, whatever they were set to: a checkpoint can hold those.
        names = ("lr", "momentum", "weight_decay")
        hyper: dict[str, Any] = {name: number("SGD", name, getattr(self, name)) for name in names}
        return {**hyper, "nesterov": self.nesterov}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave; shapes must be the same."""
        none = [None] * len(self.params)
        velocity, master = state["velocity"], state.get("master") or none
        for values in (velocity, master):
            self._check_fits(values)
        for index, parameter in enumerate(self.params):
            where, dtype = device_of(parameter.data), parameter.dtype.name
            wide = "float32" if dtype in HALVES else dtype
            self.velocity[index] = _copied(velocity[index], where, wide)
            self.master[index] = _copied(master[index], where, "float32")
            self._versions[index] = parameter.version
        for name in self._hyper():
            setattr(self, name, state["hyper"][name])

    def _check_fits(self, values: Any) -> None:
        if len(values) != len(self.params):
            raise ValueError(
                f"SGD: the state has {len(values)} parameters, but the optimiser has "
                f"{len(self.params)}"
            )
        for parameter, value in zip(self.params, values, strict=True):
            if value is not None and value.shape != parameter.shape:
                raise ValueError(
                    f"SGD: the state of {parameter.name!r} has shape {value.shape}, but the "
                    f"parameter has {parameter.shape}"
                )

    def __repr__(self) -> str:
        hyper = ", ".join(f"{name}={value!r}" for name, value in self._hyper().items())
        return f"SGD({len(self.params)} parameters, {hyper})"


def flat_gradients(params: Iterable[Parameter]) -> list[Any]:
    """The gradients in one array: to reduce, scale or copy them in one go.

    Parameters
    ----------
    params : iterable of Parameter
        As from ``model.parameters()``. Frozen ones are left out.

    Returns
    -------
    list of array (n,)
        One for each dtype and device, so usually one: the gradients one after another, in the order
        of ``params``, each in C order. Every ``parameter.grad`` is a view of it from the first call
        on; an array got from ``parameter.grad`` before is not the gradient any more.

    Raises
    ------
    ValueError
        If ``params`` holds a parameter twice.
    TypeError
        If ``params`` holds something else than parameters.

    Notes
    -----
    Call it after each ``backward``: it gives the same arrays, with the zeros that ``zero_grad`` put
    off. In a copy of a model and after ``Layer.to`` gradients lie apart; a call joins them again.
    Parameters that had no gradient have zeros then, which ``SGD.step`` takes for one.

    Examples
    --------
    Gradients clipped to the norm 1:

    >>> import numpy as np
    >>> import fastconv as fc
    >>> p, q = fc.Parameter(np.zeros(2, np.float32)), fc.Parameter(np.zeros((1, 1), np.float32))
    >>> p.grad[...], q.grad[...] = [2, 0], 1.5
    >>> (flat,) = fc.optim.flat_gradients([p, q])
    >>> flat *= min(1, 1 / np.linalg.norm(flat))
    >>> p.grad, q.grad
    (array([0.8, 0. ], dtype=float32), array([[0.6]], dtype=float32))
    """
    alike: dict[Any, list[Parameter]] = {}
    for parameter in _checked("flat_gradients", params):
        if parameter.requires_grad:
            kind = (parameter.dtype.name, device_of(parameter.data))
            alike.setdefault(kind, []).append(parameter)
    return [_flat(parameters) for parameters in alike.values()]


def _flat(parameters: list[Parameter]) -> Any:
    *begins, total = accumulate((parameter.size for parameter in parameters), initial=0)
    places = list(zip(parameters, begins, strict=True))
    flat = parameters[0].flat_grad
    if flat is None or flat.size != total or not all(p.is_at(flat, at) for p, at in places):
        data = parameters[0].data
        flat = new((total,), data.dtype, data)
        for parameter, begin in places:
            parameter.move_grad(flat, begin)
    for parameter in parameters:
        _ = parameter.grad  # writes zeros that were put off
    return flat


def _checked(owner: str, params: Iterable[Parameter]) -> list[Parameter]:
    """`params` as a list of different parameters."""
    parameters = list(params)
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"{owner}: params holds a {type(parameter).__name__}, but Parameter objects are "
                f"needed (model.parameters())"
            )
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError(
            f"{owner}: params holds a parameter twice, which one step would then move twice; pass "
            f"each once (model.parameters())"
        )
    return parameters


def _copied(value: Any, device: int | None, dtype: str) -> Any:
    if value is None:
        return None
    return placed(np.array(host(value), order="C"), device, dtype)
