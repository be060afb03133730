"""Timers: what is due at a time, or at a tick.

What a timer is for may be over before its time; whether it still means anything is asked when it comes up. So nobody
has to take one back, and those that mean nothing any more are cleared out when they could be half of all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokix.kernel.process import Branch, Process

#: So many are kept whatever they mean.
FEW = 64


class Timers:
    """Who waits until when, the earliest first; among equals, who began first."""

    def __init__(self, means: Callable[[Branch | Process, str], bool]) -> None:
        """`means` says whether what is waited for, by the path of its call, is still open."""
        self._means, self._serial, self._many = means, count(), FEW
        self._heap: list[tuple[float, int, Branch | Process, str]] = []

    def __len__(self) -> int:
        """Count them, with those that mean nothing any more and are still there."""
        return len(self._heap)

    def set(self, when: float, who: Branch | Process, path: str) -> None:
        heapq.heappush(self._heap, (when, next(self._serial), who, path))
        if len(self._heap) > self._many:
            self._heap = [timer for timer in self._heap if self._means(*timer[2:])]
            heapq.heapify(self._heap)
            self._many = 2 * len(self._heap) + FEW

    def first(self) -> float | None:
        """Give when the first is due that means anything."""
        while self._heap and not self._means(*self._heap[0][2:]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def passed(self, now: float) -> Iterator[Branch | Process]:
        """Take those off that are due and mean something, one by one: each may be the end of others."""
        while self._heap and self._heap[0][0] <= now:
            _, _, who, path = heapq.heappop(self._heap)
            if self._means(who, path):
                yield who
