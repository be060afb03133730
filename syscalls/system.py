"""The system itself: how it shares the machine, and what its processes have done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value
from tokix.syscalls.process import ProcessInfo


class SchedInfo(Value):
    """How lanes are given to bursts, and how many have one or wait for one."""

    policy: str
    #: Tokens in a turn; None is no limit.
    quantum: int | None
    lanes: int
    running: int
    waiting: int


class ProcessUse(ProcessInfo):
    """A line of the process table, with what the process has of the machine. Counts begin at boot."""

    #: The lanes of its bursts, and whether they wait for one.
    running: list[int] = []
    waiting: int = 0
    #: Tokens in all its windows, those of branches too.
    resident: int = 0
    #: Tokens in its own window, with those of an answer that is being made; how many at its beginning are in frames;
    #: and how many in frames that other contexts have too.
    window: int = 0
    computed: int = 0
    shared: int = 0
    #: Its own pages in the window, those in the archive, and the tokens of these.
    pages: int = 0
    archived: int = 0
    evicted: int = 0
    #: The regions that it has mapped.
    regions: list[str] = []
    #: Tokens that were generated for it; pages that came back into its windows, and that have left them.
    sampled: int = 0
    faults: int = 0
    evictions: int = 0


class SystemInfo(Value):
    """How the machine is used. Counts begin at boot."""

    schedule: SchedInfo
    #: Tokens of a context that the machine sees at once; pages leave when more than `high` would be used, until no more
    #: than `low` are.
    window: int
    high: int
    low: int
    #: Tokens of a frame.
    frame: int
    #: Frames of the machine; those that contexts have, those of them that several have, and those that only keep what
    #: was computed, until somebody needs the room or begins alike. The others are free.
    frames: int
    used: int
    shared: int
    cached: int
    #: Slots of the swap file, and those that hold something.
    slots: int
    swapped: int
    #: Ticks, tokens fed and sampled in them, tokens that were found in frames instead of being fed.
    ticks: int
    fed: int
    sampled: int
    hits: int
    #: Pages that came back into windows, and that have left them; frames that were moved out to slots, and back.
    faults: int
    evictions: int
    outs: int
    ins: int
    processes: list[ProcessUse]


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


class Sysinfo(Syscall[SystemInfo]):
    """Say how the machine is used, and by whom: by all processes, or by one. Raises ESRCH."""

    call: Literal["sysinfo"] = "sysinfo"
    observes = True
    pid: int | None = None


class Journal(Syscall[list[LogEntry]]):
    """Read the journal of a process, living or dead, since its last Exec.

    One that neither is the caller nor descends from it needs the capability `read:PID`. Raises ESRCH, EPERM.
    """

    call: Literal["journal"] = "journal"
    observes = True
    pid: int = Field(ge=1)
    #: Only so many entries, the newest; None is all of them.
    last: int | None = Field(default=None, ge=1)
