"""The rows that a step changes: they are collected here, and committed together.

Invariant: what is here is what the store lacks. A row that was made and erased in one step never gets there.
"""

from __future__ import annotations

from typing import Any

from tokix.kernel.ports import TABLES
from tokix.kernel.process import Entry, Process

Changes = dict[str, dict[Any, tuple[Any, ...] | None]]


class Ledger:
    """Rows by table and key; None is a deletion."""

    def __init__(self) -> None:
        self.rows: Changes = {name: {} for name in TABLES}
        #: The rows that the store has never seen.
        self.inserted: set[tuple[str, Any]] = set()

    def taken(self) -> Changes:
        """Give what was collected, and begin anew."""
        changed = {name: rows for name, rows in self.rows.items() if rows}
        if changed:
            self.rows, self.inserted = {name: {} for name in TABLES}, set()
        return changed

    def append(self, process: Process, entry: Entry) -> None:
        process.log.append(entry)
        self.journal(process, entry)

    def journal(self, process: Process, entry: Entry) -> None:
        """Write the row of an entry."""
        seq, path, call, ok, value, at = entry
        key = (process.pid, process.epoch, seq)
        self.rows["journal"][key] = (*key, path, call, int(ok), value, at)

    def put(self, table: str, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        """Write a row with this step."""
        self.rows[table][key] = row

    def insert(self, table: str, key: tuple[Any, ...], row: tuple[Any, ...]) -> None:
        """Write a row that is new; if it is erased in the same step, the store never sees it."""
        if key not in self.rows[table]:  # else an older row of that key is about to be deleted
            self.inserted.add((table, key))
        self.rows[table][key] = row

    def erase(self, table: str, key: tuple[Any, ...]) -> None:
        """Delete a row with this step."""
        if (table, key) in self.inserted:
            self.inserted.discard((table, key))
            del self.rows[table][key]
        else:
            self.rows[table][key] = None

    def save(self, process: Process, reaped: bool = False) -> None:
        self.put("process", (process.pid,), process.row(reaped))
