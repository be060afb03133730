"""Time and chance: both are replies, never ambient, so that a process can be replayed."""

from __future__ import annotations

from typing import Literal

from tokix.syscalls.base import Syscall


class Now(Syscall[float]):
    """Give the wall time, in seconds since 1970. It never goes back, not even over a restart."""

    call: Literal["now"] = "now"
    observes = True


class Random(Syscall[float]):
    """Give a number from 0 up to 1 that depends on the lineage of the call alone."""

    call: Literal["random"] = "random"
    observes = True
