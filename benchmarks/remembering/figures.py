"""Means with their intervals."""

from __future__ import annotations

import random
from collections.abc import Iterable
from statistics import mean

Figure = list[float]


def interval(values: Iterable[float]) -> Figure:
    """Give the mean, and where it lies in 95 of 100 samples (bootstrap)."""
    values, r = [*values], random.Random(0)
    means = sorted(mean(r.choices(values, k=len(values))) for _ in range(400))
    return [mean(values), means[10], means[389]]


def share(places: Iterable[int], k: int) -> Figure:
    """Give how many of the places are among the first k; 0 is nowhere."""
    return interval(float(0 < place <= k) for place in places)


def shown(figure: Figure) -> str:
    """Write the mean, and the interval under it."""
    value, low, high = figure
    return f"{value:.2f}" if low == high else f"{value:.2f}\n{short(low)}–{short(high)}"


def short(value: float) -> str:
    """Write a share with as few characters as can be."""
    return "1" if value > 0.995 else f"{value:.2f}".removeprefix("0")
