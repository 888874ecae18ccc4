"""What a handful of noisy measurements tells, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# Fewer runs than these have no interval of the median (of 5, even the extremes hold it in 94 % of
# all cases only), and no percentile: p99 of 30 is their largest.
FOR_INTERVAL = 6
Interval = tuple[float, float]


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def percentile(values: Sequence[float], percent: float) -> float | None:
    """A percentile, interpolated between neighbours as NumPy does; None where so few values have
    none: with less than one value expected beyond it, it is just the largest.
    """
    if len(values) * (100 - percent) < 100:
        return None
    return float(np.percentile(values, percent))


def interval(values: Sequence[float]) -> Interval | None:
    """Where the median lies with 95 % confidence, whatever the distribution; None of too few.

    Of order statistics, by the binomial distribution (SciPy's `quantile_test`; Conover, Practical
    Nonparametric Statistics, 3.2).
    """
    if len(values) < FOR_INTERVAL:
        return None
    from scipy.stats import quantile_test

    tested: Any = quantile_test(np.asarray(values, float), q=float(np.median(values)), p=0.5)
    found = tested.confidence_interval(CONFIDENCE)
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def ratios(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """How many times as fast as `base`, round by round: what slows a round slows both."""
    return [b / o for b, o in zip(base, other, strict=True)]


def lower(new: Sequence[float], old: Sequence[float], threshold: float) -> bool:
    """Whether values have become lower, by more than `threshold` and more than their noise.

    Noise: the intervals of the two medians touch. With too few values for an interval all of
    them count, from the lowest to the highest.

    Args:
        threshold: as a share, 0.05 for 5 %.
    """
    if median(new) >= median(old) * (1 - threshold):
        return False
    return _range(new)[1] < _range(old)[0]


def _range(values: Sequence[float]) -> Interval:
    return interval(values) or (min(values), max(values))
