"""Learning-rate schedules over `fc.optim.SGD`, stepped once an epoch; names as ``torch.optim``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastconv.layers.arguments import number

if TYPE_CHECKING:
    from fastconv.optim import SGD

Row = Mapping[str, Any]  # an epoch of the history: loss, accuracy, val_loss, val_accuracy, ...


class Schedule:
    """Base of schedules: ``step()`` once after each epoch sets ``optimizer.lr``.

    A rate that was set by hand, or by another schedule, is scaled on from, as PyTorch does.
    """

    floor = 0.0  # what rates are scaled towards

    # Names of attributes: what the user chose, and what changes from epoch to epoch.
    settings: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()

    def __init__(self, optimizer: SGD) -> None:
        self.optimizer = optimizer
        self.base_lr = self._number("lr", optimizer.lr)
        self.epoch = 0

    def _number(self, name: str, value: Any) -> int | float:
        return number(type(self).__name__, name, value)

    def step(self, metric: float | None = None) -> None:
        """Count one epoch and set the learning rate; ``metric`` is the loss, where it is used."""
        lr = self._number("lr", self.optimizer.lr)
        before = self.rate() if self.epoch else self.base_lr
        self.epoch += 1
        after = self.rate()
        self.optimizer.lr = after if lr == before else self._scaled(lr, before, after)

    def _scaled(self, lr: float, before: float, after: float) -> float:
        """What becomes of another rate than the schedule's own, where that goes from ``before`` to
        ``after``."""
        if before == self.floor:
            return lr + (after - before)
        return self.floor + (lr - self.floor) * ((after - self.floor) / (before - self.floor))

    def step_epoch(self, row: Row) -> None:
        """As ``step``, with what ``fit`` knows of the epoch."""
        self.step()

    def rate(self) -> float:
        """The learning rate of the epoch now begun."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Numbers that ``load_state_dict`` takes back (JSON types)."""
        return {name: getattr(self, name) for name in self._saved()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave; the optimiser's own state holds the rate."""
        for name in self._saved():
            setattr(self, name, state[name])

    def _saved(self) -> tuple[str, ...]:
        return ("base_lr", "epoch", *self.settings, *self.counters)

    def __repr__(self) -> str:
        chosen = "".join(f", {name}={getattr(self, name)!r}" for name in self.settings)
        return f"{type(self).__name__}(base_lr={self.base_lr!r}{chosen})"


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

    settings = ("step_size", "gamma")

    def __init__(self, optimizer: SGD, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        self.step_size = self._number("step_size", step_size)
        self.gamma = self._number("gamma", gamma)
        if not self.step_size >= 1:
            raise ValueError(f"StepLR: step_size={step_size!r}, but at least 1 is needed")

    def rate(self) -> float:
        return float(self.base_lr * self.gamma ** (self.epoch // self.step_size))


class MultiStepLR(Schedule):
    """Multiply the learning rate by ``gamma`` after each of the epochs in ``milestones``.

    The fixed steps of He et al. 2015, section 4.2.

    Examples
    --------
    >>> import fastconv as fc
    >>> optimizer = fc.optim.SGD([fc.Parameter([0.0])], lr=1.0)
    >>> schedule = fc.optim.MultiStepLR(optimizer, milestones=[1, 3], gamma=0.5)
    >>> for _ in range(3):
    ...     schedule.step()
    >>> optimizer.lr
    0.25
    """

    settings = ("milestones", "gamma")

    def __init__(self, optimizer: SGD, milestones: Sequence[int], gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        epochs = [self._number("milestones", milestone) for milestone in milestones]
        if not all(epoch >= 0 and epoch == int(epoch) for epoch in epochs):
            raise ValueError(
                f"MultiStepLR: milestones={milestones!r}, but whole numbers of at least 0 are "
                f"needed"
            )
        self.milestones = sorted(map(int, epochs))
        self.gamma = self._number("gamma", gamma)

    def rate(self) -> float:
        passed = sum(milestone <= self.epoch for milestone in self.milestones)
        return float(self.base_lr * self.gamma**passed)


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

    settings = ("T_max", "eta_min")

    def __init__(self, optimizer: SGD, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        self.T_max = self._number("T_max", T_max)
        self.eta_min = self._number("eta_min", eta_min)
        if not self.T_max >= 1:
            raise ValueError(f"CosineAnnealingLR: T_max={T_max!r}, but at least 1 is needed")

    @property
    def floor(self) -> float:  # type: ignore[override]
        return self.eta_min

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

    settings = (
        "mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps",
    )  # fmt: skip
    counters = ("best", "bad_epochs", "cooldown_left")

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
        self.mode, self.threshold_mode = mode, threshold_mode
        self.factor = self._number("factor", factor)
        self.patience = self._number("patience", patience)
        self.threshold = self._number("threshold", threshold)
        self.cooldown = self._number("cooldown", cooldown)
        self.min_lr, self.eps = self._number("min_lr", min_lr), self._number("eps", eps)
        if not self.factor < 1.0:
            raise ValueError(f"ReduceLROnPlateau: factor={factor!r}, but less than 1 is needed")
        self.best = math.inf if mode == "min" else -math.inf
        self.bad_epochs = 0
        self.cooldown_left: int | float = 0

    def _is_better(self, metric: float) -> bool:
        sign = -1.0 if self.mode == "min" else 1.0
        margin = 0.0
        if not math.isinf(self.best):
            # As PyTorch has it: of a negative best, a "rel" threshold allows a little worse.
            scale = self.best if self.threshold_mode == "rel" else 1.0
            margin = scale * self.threshold
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
            lr = self._number("lr", self.optimizer.lr)
            lower = max(lr * self.factor, self.min_lr)
            if lr - lower > self.eps:
                self.optimizer.lr = lower
            self.cooldown_left, self.bad_epochs = self.cooldown, 0

    def step_epoch(self, row: Row) -> None:
        kind = "loss" if self.mode == "min" else "accuracy"
        validated = row[f"val_{kind}"]
        self.step(row[kind] if validated is None else validated)


class WarmUp(Schedule):
    """Hold the learning rate at ``lr`` until the training accuracy of an epoch exceeds
    ``accuracy``, then follow ``schedule``, which counts epochs from the start.

    He et al. 2015, section 4.2, start ResNet-110 with 0.01 until the training error is below 80 %
    (about 400 steps of 128 images, an epoch of CIFAR-10) and go on with 0.1.

    Parameters
    ----------
    schedule : Schedule
        What comes after; its optimiser's present rate is the one to go on with.
    lr, accuracy : float
        The low rate, and the accuracy (0 to 1) that ends it.

    Examples
    --------
    >>> import fastconv as fc
    >>> optimizer = fc.optim.SGD([fc.Parameter([0.0])], lr=0.1)
    >>> schedule = fc.optim.WarmUp(fc.optim.MultiStepLR(optimizer, [3]), lr=0.01)
    >>> rates = [optimizer.lr]
    >>> for accuracy in (0.15, 0.3, 0.4):
    ...     schedule.step(accuracy)
    ...     rates.append(round(optimizer.lr, 4))
    >>> rates
    [0.01, 0.01, 0.1, 0.01]
    """

    settings = ("lr", "accuracy")
    counters = ("warm", "next_lr")

    def __init__(self, schedule: Schedule, lr: float = 0.01, accuracy: float = 0.2) -> None:
        super().__init__(schedule.optimizer)
        self.schedule, self.lr = schedule, self._number("lr", lr)
        self.accuracy = self._number("accuracy", accuracy)
        if not self.lr >= 0:
            raise ValueError(f"WarmUp: lr={lr!r}, but a number of at least 0 is needed")
        if not 0 <= self.accuracy < 1:
            raise ValueError(f"WarmUp: accuracy={accuracy!r}, but 0 to 1 (a share) is needed")
        self.warm = False
        self.next_lr = self.base_lr  # what the schedule says
        self.optimizer.lr = self.lr

    def step(self, metric: float | None = None) -> None:
        """Count one epoch with its training accuracy."""
        self._step(metric, None)

    def step_epoch(self, row: Row) -> None:
        self._step(row["accuracy"], row)

    def _step(self, accuracy: float | None, row: Row | None) -> None:
        if accuracy is None:
            raise ValueError("WarmUp: step(metric) needs the epoch's training accuracy")
        self.epoch += 1
        if not self.warm:
            self.optimizer.lr = self.next_lr
        if row is None:
            self.schedule.step()
        else:
            self.schedule.step_epoch(row)
        self.next_lr = self._number("lr", self.optimizer.lr)
        self.warm = self.warm or bool(accuracy > self.accuracy)
        if not self.warm:
            self.optimizer.lr = self.lr

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])

    def __repr__(self) -> str:
        return f"WarmUp({self.schedule!r}, lr={self.lr!r}, accuracy={self.accuracy!r})"
