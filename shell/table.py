"""What commands have found out: a table for people, lines with tabs for other programs, or JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import StringIO
from typing import Any, Literal

from tokix.shell.status import one_line
from tokix.shell.window import Line, picture, shared
from tokix.syscalls import (
    DeviceInfo,
    LogEntry,
    OpInfo,
    PageInfo,
    ProcessInfo,
    ProcessUse,
    Recalled,
    RegionInfo,
    Saved,
    SchedInfo,
    SystemInfo,
)
from tokix.syscalls.base import Value, codec, to_json

_JSON = codec(Any)
_STATE = frozenset({"STATE"})
#: Characters that a process table shows of arguments, or of how a process ended.
SHORT = 200


@dataclass(slots=True)
class Table:
    """Rows of text under names. Names in `numbers` are aligned to the right and never cut."""

    columns: Sequence[str]
    rows: list[list[str]]
    #: What `--json` shows.
    data: Any
    numbers: frozenset[str] = frozenset()
    #: Names of columns that are never folded.
    fixed: frozenset[str] = frozenset()
    #: Cut lines that are too long for the terminal, instead of folding them.
    cut: bool = False
    #: On a terminal: draws what is above the table, at a width; and how many rows there are, of more the last.
    above: Callable[[int], list[Line]] | None = None
    most: int | None = None


@dataclass(slots=True)
class Result:
    """What came of a command: what it shows, if anything, what it complains of, and its exit code."""

    table: Table | None = None
    #: What `--json` shows where people see nothing.
    data: Any = None
    complaints: list[str] = field(default_factory=list)
    code: int = 0


def render(result: Result, *, json: bool, width: int | None) -> str:
    """Give the text that a command prints. A width is that of a terminal, where people want a table."""
    if json:
        return as_json(result.table.data if result.table else result.data)
    if result.table is None:
        return ""
    return as_lines(result.table) if width is None else as_table(result.table, width)


def as_json(data: Any) -> str:
    plain = (
        [item.model_dump(mode="json") if isinstance(item, Value) else item for item in data] if _many(data) else data
    )
    return str(_JSON.dump_json(plain, indent=2).decode()) + "\n"


def _many(data: Any) -> bool:
    return isinstance(data, (list, tuple))


def as_lines(table: Table) -> str:
    """Give a header and a line for each row, with a tab between two columns."""
    return "".join("\t".join(row) + "\n" for row in (table.columns, *table.rows))


def as_table(table: Table, width: int) -> str:
    """Give a table as wide as the terminal."""
    from rich.console import Console  # which takes longer to load than all the rest
    from rich.table import Table as Drawing
    from rich.text import Text

    overflow: Literal["ellipsis", "fold"] = "ellipsis" if table.cut else "fold"
    drawing = Drawing(box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        number = column in table.numbers
        drawing.add_column(
            column,
            justify="right" if number else "left",
            no_wrap=number or column in table.fixed,
            overflow="fold",
        )
    hidden = 0 if table.most is None else max(0, len(table.rows) - table.most)
    for row in table.rows[hidden:]:
        cells = zip(table.columns, row, strict=True)
        texts = (brief(cell) if column == "PROGRAM" else cell for column, cell in cells)
        drawing.add_row(*(Text(text, no_wrap=table.cut, overflow=overflow) for text in texts))
    page = StringIO()
    console = Console(file=page, force_terminal=True, width=width, highlight=False)
    for line in table.above(width) if table.above else ():
        console.print(Text.assemble(*((text, style) for style, text in line)))
    if hidden:
        console.print(Text(f"{hidden} earlier rows are not shown: --all shows them", "dim"))
    console.print(drawing)
    return page.getvalue()


# ---- what there is to show


def of_processes(processes: Iterable[ProcessInfo]) -> Table:
    found = list(processes)
    columns = ("PID", "PPID", "STATE", "NICE", "TOKENS", "PROGRAM", "ARGS", "ON")
    return Table(
        columns, [cells(process) for process in found], found, frozenset({"PID", "PPID", "NICE", "TOKENS"}), _STATE
    )


def cells(process: ProcessInfo) -> list[str]:
    """Give the text of each column."""
    status = process.status
    tokens = "-" if process.state == "SAVED" else str(process.tokens)  # the log knows, but nobody has read it
    on = process.on
    if status:
        on = f"{status.reason} {to_json(status.value) if status.reason == 'exit' else status.detail}"
    return [
        *(str(process.pid), str(process.ppid), process.state, str(process.nice), tokens),
        *(process.program, short(" ".join(map(to_json, process.args))), short(on)),
    ]


def short(text: str) -> str:
    """Give the beginning of a text: `--json` has all of it."""
    line = one_line(text[: SHORT + 1])
    return line if len(text) <= SHORT else f"{line[:SHORT]}…"


def brief(program: str) -> str:
    """Name a program relative to the current folder."""
    return program.removeprefix(f"{os.getcwd()}{os.sep}")


def of_journal(entries: Sequence[LogEntry], cut: bool, times: bool) -> Table:
    columns = [*(["TIME"] * times), "PATH", "CALL", "OUTCOME"]
    rows = [[*([clock(e.at)] * times), e.path, one_line(e.call), outcome(e)] for e in entries]
    return Table(columns, rows, list(entries), fixed=frozenset({"TIME"}), cut=cut)


def outcome(entry: LogEntry) -> str:
    """Say what a call came to: its reply, or the error as it is raised."""
    if entry.ok:
        return one_line(entry.value)
    from tokix.syscalls.errors import decode_error

    return one_line(str(decode_error(entry.value)))


def of_devices(devices: Sequence[DeviceInfo]) -> Table:
    rows = [
        [f"{device.name}.{op.name}", op.effect, str(op.cost), parameters(op), one_line(op.doc)]
        for device in devices
        for op in device.ops
    ]
    columns = ("OP", "EFFECT", "COST", "PARAMETERS", "WHAT IT DOES")
    return Table(columns, rows, list(devices), frozenset({"COST"}), frozenset({"OP", "EFFECT"}))


def parameters(op: OpInfo) -> str:
    """Write a schema as one writes a function: `path: string, offset: integer = 0`."""
    known = op.parameters.get("properties", {})
    return ", ".join(
        f"{name}: {_kind(schema)}" + (f" = {to_json(schema['default'])}" if "default" in schema else "")
        for name, schema in known.items()
    )


def _kind(schema: dict[str, Any]) -> str:
    either = [_kind(one) for one in schema.get("anyOf", ())]
    return " | ".join(either) or str(schema.get("type") or schema.get("$ref", "any").rpartition("/")[2])


def of_pages(pages: list[PageInfo], use: ProcessUse, system: SystemInfo, most: int | None) -> Table:
    rows = [
        [
            *(str(page.id), page.role, str(page.tokens), "window" if page.resident else "archive"),
            *(_marks(page, use), "-" if page.used is None else str(page.used), one_line(page.text)),
        ]
        for page in pages
    ]
    columns = ("PAGE", "ROLE", "TOKENS", "WHERE", "STATE", "USED BY", "TEXT")
    return Table(
        columns,
        rows,
        list(pages),
        frozenset({"PAGE", "TOKENS", "USED BY"}),
        frozenset({"WHERE", "ROLE", "STATE"}),
        cut=True,
        above=lambda width: picture(pages, use, system, width),
        most=most,
    )


def _marks(page: PageInfo, use: ProcessUse) -> str:
    marks = {
        "stub": page.id < 0,
        "pinned": page.pinned,
        f"recalled {page.region}{'/' * bool(page.region)}{page.recalled}": page.recalled is not None,
        "shared": shared(page, use),
    }
    return " ".join(mark for mark, holds in marks.items() if holds)


def of_recalled(found: list[Recalled]) -> Table:
    rows = [[str(page.id), page.role, str(page.tokens), f"{page.score:.3f}", one_line(page.text)] for page in found]
    columns = ("PAGE", "ROLE", "TOKENS", "SCORE", "TEXT")
    return Table(columns, rows, list(found), frozenset({"PAGE", "TOKENS", "SCORE"}))


def of_regions(found: list[RegionInfo]) -> Table:
    rows = [[region.name, str(region.appended), str(region.creator)] for region in found]
    return Table(("REGION", "APPENDED", "BY"), rows, list(found), frozenset({"APPENDED", "BY"}))


def of_shared(found: list[PageInfo]) -> Table:
    """Show the pages of a region."""
    rows = [[str(page.id), page.role, str(page.tokens), clock(page.at), one_line(page.text)] for page in found]
    columns = ("PAGE", "ROLE", "TOKENS", "SAID", "TEXT")
    return Table(columns, rows, list(found), frozenset({"PAGE", "TOKENS"}), frozenset({"SAID"}))


def clock(at: float) -> str:
    """Say when something was, in the time of this place; "" if nobody knows."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S") if at else ""


def of_saved(pid: int, path: str, saved: Saved) -> Table:
    row = [str(pid), str(saved.tokens), str(saved.computed), str(saved.bytes), path]
    columns = ("PID", "TOKENS", "COMPUTED", "BYTES", "FILE")
    data = {"pid": pid, "file": path, **saved.model_dump()}
    return Table(columns, [row], data, frozenset(columns[:-1]), frozenset({"FILE"}))


def of_memory(info: SystemInfo, disk: dict[str, int]) -> Table:
    """Say what is taken and what is free: of the machine, of windows and archives, of the disk."""
    pages, resident = sum(p.pages for p in info.processes), sum(p.resident for p in info.processes)
    archived, evicted = sum(p.archived for p in info.processes), sum(p.evicted for p in info.processes)
    free, room = info.frames - info.used - info.cached, info.slots - info.swapped
    rows: list[list[str | int]] = [
        ["memory", "frames", info.frames, info.used, info.shared, info.cached, free, info.used * info.frame],
        ["swap", "slots", info.slots, info.swapped, "", "", room, info.swapped * info.frame],
        ["windows", "pages", "", pages, "", "", "", resident],
        ["archive", "pages", "", archived, "", "", "", evicted],
    ]
    rows += [["disk", name, "", size(count), "", "", "", ""] for name, count in disk.items()]
    columns = ("WHERE", "OF", "TOTAL", "USED", "SHARED", "CACHED", "FREE", "TOKENS")
    data = {
        **{name: getattr(info, name) for name in ("frame", "frames", "used", "shared", "cached")},
        **{"free": free, "slots": info.slots, "swapped": info.swapped},
        **{"pages": pages, "resident": resident, "archived": archived, "evicted": evicted, "disk": disk},
    }
    return Table(columns, [[str(cell) for cell in row] for row in rows], data, frozenset(columns[2:]))


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def of_schedule(info: SchedInfo) -> Table:
    quantum = "-" if info.quantum is None else str(info.quantum)
    row = [info.policy, quantum, str(info.lanes), str(info.running), str(info.waiting)]
    columns = ("POLICY", "QUANTUM", "LANES", "RUNNING", "WAITING")
    return Table(columns, [row], info.model_dump(mode="json"), frozenset(columns[1:]))
