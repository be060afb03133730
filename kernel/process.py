"""The process table's entries: processes, their branches, their logs.

A process is a function of its ordered log: every outcome of every call is an entry, appended when it is decided,
delivered in that order, and replayed in that order.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from tokix.kernel.burst import Burst
from tokix.kernel.context import Context
from tokix.kernel.errors import KernelBug
from tokix.kernel.family import Family
from tokix.syscalls import ExitStatus, Limits
from tokix.syscalls.base import to_json

if TYPE_CHECKING:
    from tokix.kernel.pager import Plan


class State(StrEnum):
    """What a process is doing."""

    NEW = "NEW"
    READY = "READY"
    RUNNING = "RUNNING"
    BLOCKED = "BLOCKED"
    STOPPED = "STOPPED"
    DIVERGED = "DIVERGED"
    ZOMBIE = "ZOMBIE"


_ENDS = frozenset({State.STOPPED, State.DIVERGED, State.ZOMBIE})

#: Where a process can go from each state. A zombie leaves the table when it is waited for.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: _ENDS | {State.RUNNING, State.BLOCKED},
    State.READY: _ENDS | {State.RUNNING, State.BLOCKED},
    State.RUNNING: _ENDS | {State.READY, State.BLOCKED},
    State.BLOCKED: _ENDS | {State.READY, State.RUNNING},
    State.STOPPED: frozenset({State.READY, State.BLOCKED, State.ZOMBIE}),
    State.DIVERGED: frozenset({State.ZOMBIE}),
    State.ZOMBIE: frozenset(),
}


class Entry(NamedTuple):
    """The outcome of one call. `value` is the JSON of the reply, or of the error if not `ok`."""

    seq: int
    path: str
    call: str
    ok: bool
    value: str
    #: When it was decided, in seconds since 1970.
    at: float = 0.0

    def answers(self, call: str) -> bool:
        """Say whether this is the outcome of a call, whose text may have been forgotten."""
        return call == self.call or (self.forgotten and _tombstone(call) == self.call)

    @property
    def forgotten(self) -> bool:
        return _BURIED.fullmatch(self.call) is not None

    def bury(self) -> Entry:
        """Give the entry without the text of its call: a digest is enough to know it again in a replay."""
        return self if self.forgotten else self._replace(call=_tombstone(self.call))


_BURIED = re.compile(r'[a-z]+\{"forgotten":"[0-9a-f]{32}"\}')


def _tombstone(call: str) -> str:
    digest = blake2b(call.encode(), digest_size=16).hexdigest()
    return f'{call.partition("{")[0]}{{"forgotten":"{digest}"}}'


class Mail(NamedTuple):
    """A message in a mailbox; the body is JSON, because its sender may go on to change the object."""

    seq: int
    id: str
    sender: int
    tag: str
    body: str


@dataclass(slots=True, eq=False)
class Branch:
    """One line of control: the root of a process, or a branch of a `Gather` or `Select`.

    A branch works on a fork of its parent's context, made when it first needs one and gone when it ends. Paths number
    the calls: "3" is the third call of the root, "3.1.2" the second call of branch 1 of that call.
    """

    proc: Process
    prefix: str
    coro: Coroutine[Any, Any, Any] | None = None
    parent: Branch | None = None
    ctx: Context | None = None
    calls: int = 0
    path: str = ""
    call: Any = None
    #: The call as the journal has it.
    text: str = ""
    #: `call` has no outcome yet; the kernel remembers a note about it for a restart.
    blocked: bool = False
    noted: bool = False
    alive: bool = True
    done: bool = False
    value: Any = None
    error: BaseException | None = None
    branches: list[Branch] | None = None
    #: The branch that decided the Gather or Select: the first that failed, or ended.
    decider: Branch | None = None
    #: How many of them have not ended.
    left: int = 0
    burst: Burst | None = None
    #: What the burst does to the window of pages when it succeeds.
    plan: Plan | None = None

    @property
    def key(self) -> str:
        """Name this call for ever: lineage, epoch, path."""
        return f"{self.proc.lineage}:{self.proc.epoch}:{self.path}"


@dataclass(slots=True, eq=False)
class Process:
    """A program in execution."""

    pid: int
    ppid: int
    lineage: str
    program: str
    #: JSON, so that every start gets equal and fresh objects.
    args: str
    nice: int
    caps: tuple[str, ...]
    limits: Limits
    #: Stream names by descriptor.
    fds: Mapping[int, str]
    born: float
    #: Who pays for its bursts.
    family: Family = field(default_factory=Family)
    epoch: int = 0
    #: The context at the last `Exec`, or since it forgot what came from there, and the tokens charged until then.
    image: str = ""
    base: int = 0
    #: The windows that it has had, each from an entry of the log on; which one counts now; whether a row says so.
    windows: list[tuple[int, int]] = field(default_factory=list)
    window: int = 0
    resized: bool = False
    stopped: bool = False
    status: ExitStatus | None = None
    #: Its calls come from outside, over `Trap`.
    foreign: bool = False
    state: State = State.NEW
    replaying: bool = False
    #: The entry whose call is repeated.
    redone: Entry | None = None
    #: Why it is parked as DIVERGED.
    parked: str = ""
    root: Branch | None = None
    branches: dict[str, Branch] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    #: While it is replayed: the prefixes of all branches that it has had. Of a foreign one: the outcomes by key.
    prefixes: set[str] | None = None
    outcomes: dict[str, Entry] | None = None
    #: Outcomes decided and not delivered.
    awake: int = 0
    #: Tokens charged, and those that bursts in flight may still use.
    tokens: int = 0
    reserved: int = 0
    #: What its calls of devices have cost.
    cost: int = 0
    #: Since boot, for reports (see `counters`): tokens of bursts that are over, pages that came back, pages that left.
    sampled: int = 0
    faults: int = 0
    evictions: int = 0
    # What few processes have is made when it is needed: an idle process costs a few kilobytes.
    mailbox: deque[Mail] | None = None
    #: Branches that wait to receive from the mailbox; those that wait to send to it, with the JSON of the body.
    receivers: list[Branch] | None = None
    senders: dict[Branch, str] | None = None
    pending: list[str] | None = None
    children: dict[int, None] | None = None
    zombies: dict[int, None] | None = None
    waiters: list[Branch] | None = None
    #: Branches that could have had a message, text or a status, and not yet: see `taking`.
    put_off: dict[Branch, None] | None = None
    #: What waits for CONT.
    held: list[tuple[Branch, Entry | None]] | None = None
    #: Pipes that it has an end of, and pipes that are named after it.
    pipes: set[str] | None = None
    made: set[str] | None = None

    def moment(self, now: float) -> tuple[float, int]:
        """Give when the call is decided that is at work, and where in the log."""
        return (self.redone.at, self.redone.seq) if self.redone else (now, len(self.log))

    @property
    def account(self) -> str:
        """Name the row of the table `kernel` that holds its cost, until it is waited for."""
        return f"cost:{self.pid}"

    def move(self, state: State) -> None:
        """Change the state; raises KernelBug if the table of transitions does not have it."""
        if state is not self.state:
            if state not in TRANSITIONS[self.state]:
                raise KernelBug(f"pid {self.pid} cannot go from {self.state} to {state}")
            self.state = state

    def relative(self, program: str) -> str:
        """Give the full name of a program: `:name` is one that stands beside this process's own."""
        return self.program.partition(":")[0] + program if program.startswith(":") else program

    def row(self, reaped: bool = False) -> tuple[Any, ...]:
        """Give the row of the table `process`."""
        status = self.status.model_dump_json() if self.status else None
        limits, fds = self.limits.model_dump_json(exclude_defaults=True), to_json(dict(self.fds))
        return (
            *(self.pid, self.ppid, self.lineage, self.program, self.args, self.nice, self.epoch),
            *(int(self.stopped), int(self.foreign), to_json(list(self.caps)), limits, fds),
            *(self.image or None, self.base, self.born, status, int(reaped)),
        )


def descend(lineage: str, epoch: int, path: str) -> str:
    """Give the lineage of a child: that of its parent and the call that made it; deep ones are shortened by a hash."""
    text = f"{lineage}/{path}" if not epoch else f"{lineage}/{epoch}-{path}"
    return text if len(text) <= 40 else "~" + blake2b(text.encode(), digest_size=12).hexdigest()
