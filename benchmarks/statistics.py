"""Medians, their spread, intervals of ratios of medians, geometric means.

Samples of several implementations are taken in rounds, one sample of each in a round, so the
samples of one round share the state of the machine. The interval of a ratio therefore draws whole
rounds (paired bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, chapters 8 and
13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
FEWEST = 5  # samples for an interval: all of 4 lie on one side of the truth once in 8 times


@dataclass(frozen=True)
class Summary:
    """Centre and spread of one implementation's samples, in seconds."""

    median: float
    low_quartile: float
    high_quartile: float
    minimum: float
    count: int

    @property
    def spread(self) -> float:
        """Half the interquartile range over the median."""
        return (self.high_quartile - self.low_quartile) / (2 * self.median)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width over the ratio itself."""
        return (self.high - self.low) / (2 * self.value)


def summarize(samples: Sequence[float]) -> Summary:
    """Median, quartiles and minimum of at least one sample."""
    low, middle, high = np.percentile(np.asarray(samples, dtype=np.float64), [25, 50, 75])
    return Summary(float(middle), float(low), float(high), float(min(samples)), len(samples))


def ratio_of_medians(
    numerator: Sequence[float], denominator: Sequence[float], *, paired: bool = True, seed: int = 0
) -> Ratio:
    """``median(numerator) / median(denominator)`` with its 95 % bootstrap interval.

    Where samples of equal place come from one round (``paired``) whole rounds are drawn, else each
    side is drawn by itself. The seed is fixed: the same samples give the same interval. Fewer than
    ``FEWEST`` samples on a side tell nothing: the interval is [0, inf].
    """
    above = np.asarray(numerator, dtype=np.float64)
    below = np.asarray(denominator, dtype=np.float64)
    if paired and above.size != below.size:
        raise ValueError(f"pairs need equal numbers of samples, not {above.size} and {below.size}")
    value = float(np.median(above) / np.median(below))
    if min(above.size, below.size) < FEWEST:
        return Ratio(value, 0.0, float("inf"))
    generator = np.random.default_rng(seed)
    above_draw = generator.integers(0, above.size, (RESAMPLES, above.size))
    if paired:
        below_draw = above_draw
    else:
        below_draw = generator.integers(0, below.size, (RESAMPLES, below.size))
    ratios = np.median(above[above_draw], axis=1) / np.median(below[below_draw], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(value, float(low), float(high))


def geometric_mean(values: Sequence[float]) -> float:
    """``exp(mean(log(values)))``: the mean under which a ratio and its inverse cancel."""
    return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)))))


def split_point(values: Sequence[float], factor: float = 1.7) -> float | None:
    """The border between two clusters of positive values, or None where there is only one.

    The largest step between sorted neighbours counts as a border where it is at least ``factor``
    and leaves at least two values on either side. Cores that share an L3 answer a ping in 50 to
    65 ns on the machine this was made on, cores that do not in 330 ns.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if ordered.size < 4:
        return None
    steps = ordered[2:-1] / ordered[1:-2]
    at = int(np.argmax(steps))
    if steps[at] < factor:
        return None
    return float(np.sqrt(ordered[at + 1] * ordered[at + 2]))
