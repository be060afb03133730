"""Processes: their life, their tree, their limits, their signals."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value


class Signal(StrEnum):
    """What one process can do to another from outside. TERM and INT arrive as EINTR; the others act at once."""

    TERM = "TERM"
    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"
    INT = "INT"


class Limits(Value):
    """What a process may use; None is no limit. Children inherit them; giving more needs the capability `limit`."""

    #: Tokens rendered into its contexts or generated for it.
    tokens: int | None = Field(default=None, ge=0)
    #: Children alive or not yet waited for.
    children: int | None = Field(default=None, ge=0)
    #: Messages in its mailbox before a sender has to wait.
    messages: int | None = Field(default=1024, ge=1)
    #: Units that its calls of devices cost.
    cost: int | None = Field(default=None, ge=0)
    #: Seconds of wall time since it was spawned.
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ExitStatus(Value):
    """How a process ended: `exit` with a value, `crashed` with the error, or `killed` with the signal or the limit."""

    pid: int
    program: str
    reason: Literal["exit", "crashed", "killed"]
    value: Any = None
    detail: str = ""


class ProcessInfo(Value):
    """A line of the process table."""

    pid: int
    ppid: int
    program: str
    args: list[Any]
    state: str
    #: What a blocked process waits for, or why it is parked.
    on: str = ""
    nice: int = 0
    tokens: int = 0
    #: What its calls of devices have cost; None where it is not known: of processes that were waited for, or are saved.
    cost: int | None = None
    children: int = 0
    messages: int = 0
    epoch: int = 0
    status: ExitStatus | None = None


class Spawn(Syscall[int]):
    """Start a program as a child; gives its pid. Raises ENOENT, EPERM, EAGAIN, EINVAL.

    A program is named as on the command line; `:name` is the function of that name beside the caller's own.
    """

    call: Literal["spawn"] = "spawn"
    program: str
    args: list[Any] = []
    #: −20 (first) to 19 (last); None inherits. Less than the caller's own needs the capability `nice`.
    nice: int | None = Field(default=None, ge=-20, le=19)
    #: Capabilities of the child, each covered by one of the caller's; None is those that its program wants (see
    #: `program`), or all of them if it does not say.
    caps: list[str] | None = None
    #: Limits of the child; None inherits them. One above the caller's own needs the capability `limit`.
    limits: Limits | None = None
    #: Streams by descriptor: `tty`, `tty:NAME` (a terminal of its own, which comes and goes with those who use it),
    #: `null`, or `pipe:NAME`, a pipe of the caller; others are inherited.
    fds: dict[Annotated[int, Field(ge=0, le=1023)], str] = {}


class Exit(Syscall[None]):
    """End the calling process; the value has to be JSON. A program that returns does the same."""

    call: Literal["exit"] = "exit"
    value: Any = None


class Wait(Syscall[ExitStatus]):
    """Wait until a child has ended (None: any child) and take its status. Raises ECHILD, ETIMEDOUT."""

    call: Literal["wait"] = "wait"
    pid: int | None = None
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Kill(Syscall[None]):
    """Send a signal. Raises ESRCH, EPERM."""

    call: Literal["kill"] = "kill"
    pid: int
    signal: Signal = Signal.TERM


class GetPid(Syscall[int]):
    """Give the caller's own pid."""

    call: Literal["getpid"] = "getpid"
    observes = True


class Stat(Syscall[list[ProcessInfo]]):
    """Read the process table: one process, or all of them; `dead` adds those that were waited for. Raises ESRCH."""

    call: Literal["stat"] = "stat"
    observes = True
    pid: int | None = None
    dead: bool = False


class Sleep(Syscall[None]):
    """Wait for a span of wall time, or for so many ticks of the machine. Raises EINVAL for both.

    While the machine has nothing to do and no device is at work, ticks pass at once; after a restart they are counted
    from the beginning.
    """

    call: Literal["sleep"] = "sleep"
    seconds: float = Field(default=0, ge=0, allow_inf_nan=False)
    ticks: int = Field(default=0, ge=0)


class Renice(Syscall[None]):
    """Change a priority. A lower nice than the target has needs the capability `nice`. Raises ESRCH, EPERM."""

    call: Literal["renice"] = "renice"
    pid: int
    nice: int = Field(ge=-20, le=19)


class SetLimit(Syscall[None]):
    """Change one limit of the caller or of a child. Raising one needs the capability `limit`. Raises ESRCH, EPERM."""

    call: Literal["setlimit"] = "setlimit"
    limit: Literal["tokens", "cost", "children", "messages", "seconds"]
    value: float | None = Field(ge=0, allow_inf_nan=False)
    #: None is the caller.
    pid: int | None = None


class Fork(Syscall[int]):
    """Make a copy of the calling process: it gets 0, the caller gets its pid. Raises EINVAL inside a branch, EAGAIN."""

    call: Literal["fork"] = "fork"


class Exec(Syscall[None]):
    """Become another program: pid, mailbox, signals, children, limits and context stay, log and variables go.

    `fresh` drops the context too. Raises ENOENT, EPERM, and EINVAL inside a branch; otherwise it does not return.
    """

    call: Literal["exec"] = "exec"
    program: str
    args: list[Any] = []
    fresh: bool = False
