"""pid 1, the ancestor of all.

It starts what its table names, takes the status of every process that nobody else waits for, and starts again what
ended and should not have, but not without end. It has to live for ever on a log that does not grow for ever: now and
then it becomes itself again, with what it has to know as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from tokix.syscalls import Exec, ExitStatus, Now, Spawn, SyscallError, Wait, Write

#: So many starts of one line in so many seconds, and init gives it up.
STARTS, WINDOW = 5, 60.0
#: Children taken before init begins a new log.
CHILDREN = 1000


class Line(TypedDict, total=False):
    """What init starts, and when it starts it again."""

    program: str
    args: list[Any]
    restart: Literal["no", "on-failure", "always"]


class Ward(NamedTuple):
    """A child that init has started, and when it started it before."""

    pid: int
    line: Line
    starts: list[float]


async def main(table: Sequence[Line] = (), wards: Sequence[Sequence[Any]] | None = None) -> None:
    """`table` is what to start; `wards` is what has been started already."""
    begun = [await start(line, []) for line in table] if wards is None else [Ward(*ward) for ward in wards]
    mine = {ward.pid: ward for ward in begun if ward}
    for _ in range(CHILDREN):
        status = await Wait()  # of init alone this waits without children, too: orphans may come
        ward = mine.pop(status.pid, None)
        if ward and wanted(ward.line, status) and (again := await start(ward.line, ward.starts)):
            mine[again.pid] = again
    await Exec(program="init", args=[list(table), list(mine.values())], fresh=True)


def wanted(line: Line, status: ExitStatus) -> bool:
    """Say whether a line is to be started again after this end."""
    restart = line.get("restart", "no")
    return restart == "always" or (restart == "on-failure" and status.reason != "exit")


async def start(line: Line, starts: list[float]) -> Ward | None:
    """Start a line, unless there is no such program, or it has ended too often."""
    now = await Now()
    recent = [then for then in starts if then > now - WINDOW]
    if len(recent) >= STARTS:
        await Write(fd=2, text=f"init: {line['program']} ended {STARTS} times in {WINDOW:g} s and is given up\n")
        return None
    try:
        pid = await Spawn(program=line["program"], args=line.get("args", []))
    except SyscallError as error:
        await Write(fd=2, text=f"init: cannot start {line['program']}: {error}\n")
        return None
    return Ward(pid, line, [*recent, now])
