"""Initial weights: He (He et al. 2015), Xavier (Glorot, Bengio 2010), normal; float32.

All draw from one NumPy generator: ``rng`` if given, else the current one, which starts from seed 0,
so that the same program makes the same weights. ``fc.init.seed(n)`` restarts it; ``with
fc.init.seeded(n):`` uses one of its own inside; ``with fc.init.skipped():`` draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

_generator: ContextVar[np.random.Generator | None] = ContextVar("fastconv_generator", default=None)
_skipped: ContextVar[bool] = ContextVar("fastconv_init_skipped", default=False)
_shared = np.random.default_rng(0)

Array = NDArray[np.float32]


def generator() -> np.random.Generator:
    """The generator that layers draw from."""
    return _generator.get() or _shared


def seed(value: int) -> None:
    """Restart the generator from ``value``."""
    generator().bit_generator.state = np.random.default_rng(value).bit_generator.state


@contextmanager
def seeded(value: int | None) -> Iterator[None]:
    """Inside, draw from a generator of its own (None: the current one)."""
    token = _generator.set(generator() if value is None else np.random.default_rng(value))
    try:
        yield
    finally:
        _generator.reset(token)


@contextmanager
def skipped() -> Iterator[None]:
    """Inside, weights are zeros and cost nothing: for models that are loaded next, or only looked
    at.

    VGG-16's 138 million normal numbers take about 1.5 s; zeros take memory when they are touched.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.init.skipped():
    ...     model = fc.models.vgg16()
    >>> fc.summary(model, (1, 3, 224, 224)).parameters
    138357544
    """
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan in, fan out) of a weight (K, C // groups, R, S) or (out_features, in_features)."""
    if len(shape) < 2:
        raise ValueError(f"init: a weight of at least two axes has fans, but the shape is {shape}")
    taps = math.prod(shape[2:])
    return int(shape[1] * taps), int(shape[0] * taps)


def normal(shape: Sequence[int], *, std: float = 0.01, mean: float = 0.0, rng: Any = None) -> Array:
    """Normal values.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.init.normal((4, 3, 5, 5), std=0.01).dtype
    dtype('float32')
    """
    if _skipped.get():
        return np.zeros(tuple(shape), np.float32)
    values: Array = (rng or generator()).standard_normal(tuple(shape), dtype=np.float32)
    values *= np.float32(std)
    if mean:
        values += np.float32(mean)
    return values


def uniform(shape: Sequence[int], *, low: float, high: float, rng: Any = None) -> Array:
    """Values spread evenly over [low, high)."""
    if _skipped.get():
        return np.zeros(tuple(shape), np.float32)
    values: Array = (rng or generator()).random(tuple(shape), dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values


def he_normal(shape: Sequence[int], *, rng: Any = None) -> Array:
    """Normal with variance 2 / fan_in: keeps the variance through ReLU layers."""
    return normal(shape, std=math.sqrt(2.0 / max(1, fans(shape)[0])), rng=rng)


def he_uniform(shape: Sequence[int], *, rng: Any = None) -> Array:
    """Uniform with variance 2 / fan_in."""
    bound = math.sqrt(6.0 / max(1, fans(shape)[0]))
    return uniform(shape, low=-bound, high=bound, rng=rng)


def xavier_normal(shape: Sequence[int], *, gain: float = 1.0, rng: Any = None) -> Array:
    """Normal with variance gain^2 2 / (fan_in + fan_out): for tanh and sigmoid layers."""
    return normal(shape, std=gain * math.sqrt(2.0 / max(1, sum(fans(shape)))), rng=rng)


def xavier_uniform(shape: Sequence[int], *, gain: float = 1.0, rng: Any = None) -> Array:
    """Uniform with variance gain^2 2 / (fan_in + fan_out)."""
    bound = gain * math.sqrt(6.0 / max(1, sum(fans(shape))))
    return uniform(shape, low=-bound, high=bound, rng=rng)
