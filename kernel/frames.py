"""The machine's memory: frames of 16 tokens, shared by reference count and copied on write.

Invariants: free + used = total; `uses[f]` is the number of frame tables (and of ticks in flight, see `Scheduler.limbo`)
that name frame f; a frame with two users is never written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokix.kernel.errors import KernelBug

#: Tokens in a frame.
FRAME = 16


def frames_for(tokens: int) -> int:
    """Give the number of frames that hold so many tokens."""
    return -(-tokens // FRAME)


class FramePool:
    """All frames of a machine, by number. The contents are the machine's; here are only the counts."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = list(range(total - 1, -1, -1))  # a stack: the last one freed is the warmest
        self.uses = [0] * total

    def take(self, count: int) -> list[int]:
        """Give frames with one user each; the caller has made sure that they are there."""
        frames = [self.free.pop() for _ in range(count)]
        for frame in frames:
            self.uses[frame] = 1
        return frames

    def share(self, frames: Iterable[int]) -> None:
        """Add one user to each."""
        for frame in frames:
            self.uses[frame] += 1

    def drop(self, frames: Iterable[int]) -> None:
        """Take one user from each; a frame without users is free."""
        uses, free = self.uses, self.free
        for frame in frames:
            uses[frame] -= 1
            if not uses[frame]:
                free.append(frame)

    def check(self, tables: Iterable[Iterable[int]]) -> None:
        """Compare the counts with all tables that name frames; raises KernelBug."""
        uses = Counter(frame for table in tables for frame in table)
        if self.uses != [uses[frame] for frame in range(self.total)]:
            raise KernelBug("reference counts of frames differ from their uses")
        if sorted(self.free) != [frame for frame, n in enumerate(self.uses) if not n]:
            raise KernelBug("the free list differs from the frames without users")
