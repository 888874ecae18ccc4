"""Statistics of a few noisy measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
# Fewest values for a 95 % interval of the median: of 5 values, even the smallest and the largest
# enclose it with 94 % only.
FOR_INTERVAL = 6
Interval = tuple[float, float]


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def percentile(values: Sequence[float], percent: float) -> float | None:
    """A percentile, interpolated as by NumPy.

    Returns:
        None if fewer than one value is expected above it: it would be the largest value.
    """
    if len(values) * (100 - percent) < 100:
        return None
    return float(np.percentile(values, percent))


def interval(values: Sequence[float]) -> Interval | None:
    """The median's 95 % confidence interval, for any distribution.

    It is bounded by order statistics, chosen by the binomial distribution (SciPy's `quantile_test`;
    Conover, Practical Nonparametric Statistics, 3.2).

    Returns:
        None for fewer than `FOR_INTERVAL` values.
    """
    if len(values) < FOR_INTERVAL:
        return None
    from scipy.stats import quantile_test

    tested: Any = quantile_test(np.asarray(values, float), q=float(np.median(values)), p=0.5)
    found = tested.confidence_interval(CONFIDENCE)
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def ratios(base: Sequence[float], other: Sequence[float]) -> list[float]:
    """`base` / `other`, the speed-up of each round; a slow round affects both."""
    return [b / o for b, o in zip(base, other, strict=True)]


def lower(new: Sequence[float], old: Sequence[float], threshold: float) -> bool:
    """Whether the median has dropped by more than `threshold` and by more than noise.

    The difference counts as noise if the medians' 95 % intervals overlap. With too few values for
    an interval, the range from the smallest to the largest is used instead.

    Args:
        threshold: a share, 0.05 for 5 %.
    """
    if median(new) >= median(old) * (1 - threshold):
        return False
    return _range(new)[1] < _range(old)[0]


def _range(values: Sequence[float]) -> Interval:
    """The median's interval, or the range of all values if there are too few."""
    return interval(values) or (min(values), max(values))
