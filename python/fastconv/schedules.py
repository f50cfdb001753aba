"""Learning-rate schedules over `fc.optim.SGD`, stepped once an epoch; names as ``torch.optim``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastconv.optim import SGD


class Schedule:
    """Base of schedules: ``step()`` once after each epoch sets ``optimizer.lr``."""

    # What state_dict saves, beside the optimiser's own state.
    saved: tuple[str, ...] = ()

    def __init__(self, optimizer: SGD) -> None:
        self.optimizer = optimizer
        self.base_lr = optimizer.lr
        self.epoch = 0

    def step(self, metric: float | None = None) -> None:
        """Count one epoch and set the learning rate; ``metric`` is the loss, where it is used."""
        self.epoch += 1
        self.optimizer.lr = self.rate()

    def rate(self) -> float:
        """The learning rate of the epoch now begun."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Numbers that ``load_state_dict`` takes back (JSON types)."""
        return {name: getattr(self, name) for name in ("base_lr", "epoch", *self.saved)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave; the optimiser's own state holds the rate."""
        for name in ("base_lr", "epoch", *self.saved):
            setattr(self, name, state[name])


class StepLR(Schedule):
    """Multiply the learning rate by ``gamma`` every ``step_size`` epochs.

    Examples
    --------
    >>> import fastconv as fc
    >>> optimizer = fc.optim.SGD([fc.Parameter([0.0])], lr=1.0)
    >>> schedule = fc.optim.StepLR(optimizer, step_size=2, gamma=0.5)
    >>> for _ in range(3):
    ...     schedule.step()
    >>> optimizer.lr
    0.5
    """

    saved = ("step_size", "gamma")

    def __init__(self, optimizer: SGD, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        if step_size < 1:
            raise ValueError(f"StepLR: step_size={step_size!r}, but at least 1 is needed")
        self.step_size, self.gamma = step_size, gamma

    def rate(self) -> float:
        return float(self.base_lr * self.gamma ** (self.epoch // self.step_size))


class CosineAnnealingLR(Schedule):
    """From the base rate to ``eta_min`` along half a cosine in ``T_max`` epochs (SGDR, 2016).

    Examples
    --------
    >>> import fastconv as fc
    >>> optimizer = fc.optim.SGD([fc.Parameter([0.0])], lr=1.0)
    >>> schedule = fc.optim.CosineAnnealingLR(optimizer, T_max=2)
    >>> schedule.step()
    >>> round(optimizer.lr, 6)
    0.5
    """

    saved = ("T_max", "eta_min")

    def __init__(self, optimizer: SGD, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max={T_max!r}, but at least 1 is needed")
        self.T_max, self.eta_min = T_max, eta_min

    def rate(self) -> float:
        cosine = (1 + math.cos(math.pi * self.epoch / self.T_max)) / 2
        return float(self.eta_min + (self.base_lr - self.eta_min) * cosine)


class ReduceLROnPlateau(Schedule):
    """Multiply the learning rate by ``factor`` when the metric has not improved for ``patience``
    epochs.

    As AlexNet's authors did by hand. ``step(metric)`` takes the loss (``mode="min"``) or an
    accuracy (``mode="max"``); an improvement is a relative (or, with ``threshold_mode="abs"``,
    absolute) difference of more than ``threshold``.

    Examples
    --------
    >>> import fastconv as fc
    >>> optimizer = fc.optim.SGD([fc.Parameter([0.0])], lr=1.0)
    >>> schedule = fc.optim.ReduceLROnPlateau(optimizer, patience=1)
    >>> for loss in (1.0, 1.0, 1.0):
    ...     schedule.step(loss)
    >>> optimizer.lr
    0.1
    """

    saved = (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps",
        "best", "bad_epochs", "cooldown_left",
    )  # fmt: skip

    def __init__(
        self,
        optimizer: SGD,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer)
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode={mode!r}, but 'min' or 'max' is needed")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: threshold_mode={threshold_mode!r}, "
                f"but 'rel' or 'abs' is needed"
            )
        if not factor < 1.0:
            raise ValueError(f"ReduceLROnPlateau: factor={factor!r}, but less than 1 is needed")
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.min_lr, self.eps = cooldown, min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_epochs = 0
        self.cooldown_left = 0

    def _is_better(self, metric: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        if math.isinf(self.best):
            return sign * metric > sign * self.best
        margin = abs(self.best) * self.threshold if self.threshold_mode == "rel" else self.threshold
        return sign * (metric - self.best) > margin

    def step(self, metric: float | None = None) -> None:
        """Count one epoch with its metric."""
        if metric is None:
            raise ValueError("ReduceLROnPlateau: step(metric) needs the epoch's loss or accuracy")
        self.epoch += 1
        if self._is_better(float(metric)):
            self.best, self.bad_epochs = float(metric), 0
        else:
            self.bad_epochs += 1
        if self.cooldown_left > 0:
            self.cooldown_left -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            lower = max(self.optimizer.lr * self.factor, self.min_lr)
            if self.optimizer.lr - lower > self.eps:
                self.optimizer.lr = lower
            self.cooldown_left, self.bad_epochs = self.cooldown, 0
