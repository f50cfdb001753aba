"""Losses as layers: ``loss(logits, target)`` gives a number, ``loss.backward()`` the logits'
gradient."""

from __future__ import annotations

from typing import Any

from fastconv import ops
from fastconv.layers.arguments import arguments
from fastconv.layers.base import Layer
from fastconv.layers.placement import host


class CrossEntropyLoss(Layer):
    """Softmax cross-entropy of logits (N, C) and class numbers (N,).

    Parameters
    ----------
    label_smoothing : float
        Share of the target spread evenly over all classes (Szegedy et al. 2015, section 7).
    reduction : "mean", "sum" or "none"
    auxiliary_weight : float
        Logits may be a tuple, as ``fc.models.googlenet`` gives in training: the loss of the first,
        plus ``auxiliary_weight`` times those of the others (0.3 in Szegedy et al. 2014, section 5).
        ``backward`` gives a tuple then.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv as fc
    >>> loss = fc.layers.CrossEntropyLoss()
    >>> round(float(loss(np.zeros((2, 10), np.float32), np.array([3, 7]))), 4)
    2.3026
    >>> loss.backward().shape
    (2, 10)
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        auxiliary_weight: float = 0.3,
    ) -> None:
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"CrossEntropyLoss: reduction={reduction!r}, but 'mean', 'sum' or 'none' is needed"
            )
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(
                f"CrossEntropyLoss: label_smoothing={label_smoothing!r}, but 0 to 1 is needed"
            )
        if not auxiliary_weight >= 0:
            raise ValueError(
                f"CrossEntropyLoss: auxiliary_weight={auxiliary_weight!r}, but a number of at "
                f"least 0 is needed"
            )
        self.label_smoothing, self.reduction = label_smoothing, reduction
        self.auxiliary_weight = auxiliary_weight

    def _options(self) -> dict[str, Any]:
        return {"label_smoothing": self.label_smoothing, "reduction": self.reduction}

    def forward(self, logits: Any, target: Any) -> Any:
        self.save(logits, target)
        if not isinstance(logits, tuple):
            return ops.cross_entropy(logits, target, **self._options())
        # On the host: there are few, and a device's arrays take no scalars to weigh by.
        value, *others = (host(ops.cross_entropy(y, target, **self._options())) for y in logits)
        return value + self.auxiliary_weight * sum(others)

    def backward(self, grad_y: Any = 1.0, *, need_input: bool = True) -> Any:
        logits, target = self.saved()
        if not isinstance(logits, tuple):
            return self._gradient(logits, target, grad_y)
        weights = (1.0, *(self.auxiliary_weight for _ in logits[1:]))
        return tuple(
            self._gradient(y, target, weight * grad_y)
            for y, weight in zip(logits, weights, strict=True)
        )

    def _gradient(self, logits: Any, target: Any, grad_y: Any) -> Any:
        return ops.cross_entropy_backward(logits, target, **self._options(), grad_output=grad_y)

    def extra_repr(self) -> str:
        return arguments(
            label_smoothing=(self.label_smoothing, 0.0),
            reduction=(self.reduction, "mean"),
            auxiliary_weight=(self.auxiliary_weight, 0.3),
        )
