"""What ratios of times allow to say: slower, faster, the same, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE = 0.03
CONFIDENCE = 0.99
RESAMPLES = 10_000


@dataclass(frozen=True)
class Change:
    """A ratio of times, new by old, between bounds that hold with `CONFIDENCE`."""

    ratio: float
    low: float
    high: float

    def verdict(self, tolerance: float = TOLERANCE) -> str:
        """Judge by the whole interval: beyond the tolerance, or within it, or neither."""
        if self.low > 1 + tolerance:
            return "slower"
        if self.high < 1 / (1 + tolerance):
            return "faster"
        if 1 / (1 + tolerance) <= self.low and self.high <= 1 + tolerance:
            return "same"
        return "unclear"


def change_of(log_ratios: Sequence[float]) -> Change:
    """Take the median over the draws, and its bounds by a bootstrap over them."""
    draws = np.asarray(log_ratios)
    picked = np.random.default_rng(0).integers(len(draws), size=(RESAMPLES, len(draws)))
    medians = np.median(draws[picked], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Change(*(math.exp(float(value)) for value in (np.median(draws), low, high)))


def log_ratio(old: Sequence[float], new: Sequence[float]) -> float:
    """Compare times of the same rounds, which lie next to each other."""
    return float(np.median(np.log(np.asarray(new) / np.asarray(old))))
