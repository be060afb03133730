"""Bursts that wait: a line for each group where a policy shares among groups, else one line for all.

Inside a line the order does not change while a burst waits, so a line is a heap. Which line is next does change: with
`Policy.share`, of which the scheduler tells every change. The lines are a heap of shares; an entry whose share is not
the group's any more is stale, and the change has pushed another. Neither costs more than a logarithm.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokix.kernel.burst import Burst
    from tokix.kernel.family import Group
    from tokix.kernel.policy import Policy


class Queue:
    """Entries are valid while the burst has their ticket: to leave, a burst forgets it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.lines: dict[Group | None, list[tuple[Any, int, Burst]]] = {}
        self.shares: list[tuple[float, int, int, Group]] = []
        #: The share of the last entry of each group.
        self.known: dict[Group, float] = {}

    def __iter__(self) -> Iterator[Burst]:
        for line in self.lines.values():
            yield from (burst for _, ticket, burst in line if burst.ticket == ticket)

    def push(self, burst: Burst, ticket: int) -> None:
        """Queue a burst under a new ticket."""
        burst.ticket = ticket
        group = burst.family.group if self.policy.shares else None
        heapq.heappush(self.lines.setdefault(group, []), (self.policy.key(burst), ticket, burst))
        if group:
            self.moved(group, ticket)

    def moved(self, group: Group, ticket: int) -> None:
        """The share of a group may have changed."""
        if group not in self.lines:
            return
        share = self.policy.share(group)
        if self.known.get(group) != share:
            self.known[group] = share
            heapq.heappush(self.shares, (share, group.number, ticket, group))

    def pop(self) -> Burst | None:
        """Take out the burst that is next."""
        line = self.next()
        if not line:
            return None
        _, _, burst = heapq.heappop(line)
        burst.ticket = -1
        return burst

    def peek(self) -> Burst | None:
        """Give the burst that is next, and leave it there."""
        line = self.next()
        return line[0][2] if line else None

    def next(self) -> list[tuple[Any, int, Burst]] | None:
        """Give the line that is next, with a valid entry in front."""
        if not self.policy.shares:
            return self.fresh(None)
        while self.shares:
            share, _, _, group = self.shares[0]
            line = self.fresh(group)
            if line and share == self.known[group]:
                return line
            heapq.heappop(self.shares)
            if not line:
                self.lines.pop(group, None)
                self.known.pop(group, None)
        return None

    def fresh(self, group: Group | None) -> list[tuple[Any, int, Burst]] | None:
        """Give a line without the stale entries in front of it, or None if nothing is left."""
        line = self.lines.get(group)
        while line and line[0][2].ticket != line[0][1]:
            heapq.heappop(line)
        return line or None
