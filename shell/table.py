"""The process table for people, for other programs, and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tokix.syscalls import ProcessInfo
from tokix.syscalls.base import codec, to_json

COLUMNS = ("PID", "PPID", "STATE", "NICE", "TOKENS", "PROGRAM", "ARGS", "ON")
_NUMBERS = {"PID", "PPID", "NICE", "TOKENS"}
_JSON = codec(list[ProcessInfo])


def as_json(processes: Iterable[ProcessInfo]) -> str:
    """Give a JSON list of ProcessInfo."""
    return str(_JSON.dump_json(list(processes), indent=2).decode())


def as_lines(processes: Iterable[ProcessInfo]) -> Iterable[str]:
    """Give a header and a line for each process, with a tab between two columns."""
    yield "\t".join(COLUMNS)
    for process in processes:
        yield "\t".join(cells(process))


def show(processes: Iterable[ProcessInfo]) -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console  # which takes longer to load than all the rest
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        number = column in _NUMBERS
        table.add_column(column, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for process in processes:
        here = process.program.removeprefix(f"{os.getcwd()}{os.sep}")
        table.add_row(*map(Text, cells(process.model_copy(update={"program": here}))))
    Console(highlight=False).print(table)


def cells(process: ProcessInfo) -> list[str]:
    """Give the text of each column."""
    status = process.status
    tokens = "-" if process.state == "SAVED" else str(process.tokens)  # the log knows, but nobody has read it
    on = process.on
    if status:
        on = f"{status.reason} {to_json(status.value) if status.reason == 'exit' else status.detail}"
    return [
        *(str(process.pid), str(process.ppid), process.state, str(process.nice), tokens),
        *(process.program, " ".join(map(to_json, process.args)), " ".join(on.split())),
    ]
