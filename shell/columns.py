"""The table of `top`: which processes are shown, in which order, and what of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tokix.shell.status import one_line
from tokix.shell.table import Table, brief
from tokix.syscalls import ProcessUse, SystemInfo
from tokix.syscalls.base import to_json

#: Characters of a process's arguments.
ARGS = 200
#: The least that a terminal has for the name of a program before columns are left out.
NAME = 14
STATES = {
    "RUNNING": "run",
    "READY": "ready",
    "BLOCKED": "wait",
    "STOPPED": "stop",
    "DIVERGED": "diver",
    "ZOMBIE": "dead",
}


class Row(NamedTuple):
    """A process, its tokens per second, and what stands before its name in a tree."""

    process: ProcessUse
    rate: float | None
    branch: str = ""


class Column(NamedTuple):
    """A column of the table: its name, its width, its text, by what it is sorted; large values first, or small ones."""

    name: str
    width: int
    about: str
    text: Callable[[Row], str]
    key: Callable[[Row], Any]
    falling: bool = True
    #: The lowest are left out first where there is no room; 0 is always there.
    spare: int = 0


def short(count: float) -> str:
    """Write a count in at most five characters."""
    if count < 10_000:
        return f"{count:.0f}"
    for unit in "kMG":
        count /= 1000
        if count < 1000:
            return f"{count:.1f}{unit}" if count < 100 else f"{count:.0f}{unit}"
    return "many"


def pace(rate: float | None) -> str:
    """Write a rate; "-" as long as there was one look only."""
    return "-" if rate is None else f"{rate:.1f}" if 0 < rate < 100 else short(rate)


def lane(row: Row) -> str:
    running = row.process.running
    if not running:
        return "…" if row.process.waiting else ""
    return ",".join(map(str, running)) if len(running) < 3 else f"{len(running)}×"


def state(row: Row) -> str:
    return STATES.get(row.process.state, row.process.state.lower())


def counted(name: str, field: str, about: str, spare: int) -> Column:
    """Make the column of a count of a process."""

    def count(row: Row) -> int:
        return int(getattr(row.process, field))

    return Column(name, 5, about, lambda row: short(count(row)), count, spare=spare)


COLUMNS = (
    Column("PID", 5, "number of the process", lambda r: str(r.process.pid), lambda r: r.process.pid, False),
    Column("STATE", 5, "what it does", state, lambda r: r.process.state, False, 8),
    Column("LANE", 4, "its lanes; … waits for one", lane, lambda r: r.process.running or [99], False, 7),
    Column("NI", 3, "nice: −20 goes first", lambda r: str(r.process.nice), lambda r: r.process.nice, False, 4),
    Column("TOK/S", 5, "tokens generated per second", lambda r: pace(r.rate), lambda r: r.rate or 0),
    counted("USED", "tokens", "tokens used in all", 3),
    counted("RES", "resident", "tokens in its windows", 6),
    counted("ARCH", "evicted", "tokens in its archive", 5),
    counted("FAULT", "faults", "pages that came back", 2),
    counted("EVICT", "evictions", "pages that have left", 1),
)
PROGRAM = Column("PROGRAM", 0, "its name", lambda r: r.branch + named(r.process), lambda r: r.process.program, False)
BY_NAME = {column.name: column for column in (*COLUMNS, PROGRAM)}


def named(process: ProcessUse) -> str:
    """Write the program and its arguments."""
    words = " ".join(word if isinstance(word, str) else to_json(word) for word in process.args)
    return one_line(f"{brief(process.program)} {words[:ARGS]}")


def meant(row: Row, text: str) -> bool:
    """Say whether a process has a text in its name or its arguments, or is named by it."""
    return text.casefold() in named(row.process).casefold() or text == str(row.process.pid)


def grown(rows: Sequence[Row]) -> list[Row]:
    """Put children beneath their parents."""
    here = {row.process.pid for row in rows}
    children: dict[int, list[Row]] = {}
    for row in rows:
        parent = row.process.ppid
        children.setdefault(parent if parent in here and parent != row.process.pid else -1, []).append(row)

    found, left = [], [(row, "", "") for row in reversed(children.get(-1, []))]
    while left:
        row, sign, below = left.pop()
        found.append(row._replace(branch=sign))
        own = children.get(row.process.pid, [])
        for child in reversed(own):
            last = child is own[-1]
            left.append((child, f"{below}{'└' if last else '├'} ", f"{below}{' ' if last else '│'} "))
    return found


def fitting(width: int) -> list[Column]:
    """Give the columns that there is room for beside the name of a program."""
    columns = [*COLUMNS]
    while columns and sum(column.width + 1 for column in columns) + 1 + NAME > width:
        spare = [column for column in columns if column.spare]
        if not spare:
            break
        columns.remove(min(spare, key=lambda column: column.spare))
    return columns


def of_use(info: SystemInfo, pid: int) -> Table:
    """Make a table of a single look, without the process that looks: counts in full, and no rates."""
    rows = [Row(process, None) for process in info.processes if process.pid != pid]
    columns = [*(column for column in COLUMNS if column.name != "TOK/S"), PROGRAM]
    names = [column.name for column in columns]
    cells = [[exact(column, row) for column in columns] for row in rows]
    return Table(names, cells, info.model_dump(mode="json"), frozenset(names[:-1]))


def exact(column: Column, row: Row) -> str:
    key = column.key(row)
    return str(key) if isinstance(key, int) else column.text(row)
