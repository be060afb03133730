"""A picture of ratios as bars, as SVG, with the goal of each as a mark."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

LINE, LEFT, WIDE, TOP = 18, 260, 420, 34


class Bar(NamedTuple):
    """A ratio and what was wanted of it."""

    name: str
    value: float
    goal: float | None = None


def drawn(title: str, bars: Sequence[Bar]) -> str:
    """Give the SVG; one bar a line, in green where there is no goal or it is met, else in red."""
    most = max((max(bar.value, bar.goal or 0) for bar in bars), default=1.0) or 1.0
    height = TOP + LINE * len(bars) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDE + 80}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        y, wide = TOP + LINE * number, bar.value / most * WIDE
        color = "#3a9d5d" if bar.goal is None or bar.value >= bar.goal else "#c0504d"
        parts.append(f'<text x="{LEFT - 6}" y="{y + 12}" text-anchor="end">{escape(bar.name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y + 2}" width="{wide:.1f}" height="{LINE - 5}" fill="{color}"/>')
        parts.append(f'<text x="{LEFT + wide + 4:.1f}" y="{y + 12}">{bar.value:.2f}</text>')
        if bar.goal is not None:
            x = LEFT + bar.goal / most * WIDE
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + LINE - 1}" stroke="black"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
