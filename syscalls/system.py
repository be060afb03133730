"""The system itself: how it shares the machine, and what its processes have done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value


class SchedInfo(Value):
    """How lanes are given to bursts, and how many have one or wait for one."""

    policy: str
    #: Tokens in a turn; None is no limit.
    quantum: int | None
    lanes: int
    running: int
    waiting: int


class LogEntry(Value):
    """A line of a journal: a call, by its path, and its outcome, which is JSON: a reply, or an error if not `ok`.

    Of a call whose message was forgotten, the text is a digest.
    """

    epoch: int
    seq: int
    path: str
    call: str
    ok: bool
    value: str
    #: When it was decided, in seconds since 1970; 0 in journals of before.
    at: float = 0.0


class Sched(Syscall[SchedInfo]):
    """Say how lanes are given, after changing it if a policy is named; a new kernel begins with its own again.

    It changes when a burst runs and never what it says. Changing needs the capability `sched`. Raises EPERM, EINVAL.
    """

    call: Literal["sched"] = "sched"
    policy: Literal["FCFS", "RR", "PRIORITY", "SJF", "MLFQ", "LAS", "FAIR", "MIXED"] | None = None
    #: Tokens in a turn, with a policy that has turns; None is that policy's own.
    quantum: int | None = Field(default=None, ge=1)


class Journal(Syscall[list[LogEntry]]):
    """Read the journal of a process, living or dead, since its last Exec.

    One that neither is the caller nor descends from it needs the capability `read:PID`. Raises ESRCH, EPERM.
    """

    call: Literal["journal"] = "journal"
    observes = True
    pid: int = Field(ge=1)
    #: Only so many entries, the newest; None is all of them.
    last: int | None = Field(default=None, ge=1)
