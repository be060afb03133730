"""What has happened since boot, for reports: nothing is decided by it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Events of the scheduler and of memory management."""

    ticks: int = 0
    #: Rows in all ticks, and tokens fed in them.
    rows: int = 0
    fed: int = 0
    #: Tokens that were found in frames instead of being fed.
    hits: int = 0
    #: Lanes given to another burst while the old one was not done.
    switches: int = 0
    #: Contexts that lost their frames while they might still need them: to the swap file, or for good.
    swaps: int = 0
    drops: int = 0
    #: Frames copied on write, moved to the swap file, and back.
    copies: int = 0
    outs: int = 0
    ins: int = 0
    #: Tokens that the machine has sampled.
    sampled: int = 0
    #: Pages that were brought back into a window, and pages that have left one.
    faults: int = 0
    evictions: int = 0
