"""The rows that a step changes: they are collected here, and committed together.

Invariant: what is here is what the store lacks. A row that was made and erased in one step never gets there.
"""

from __future__ import annotations

from typing import Any

from tokix.kernel.ports import ARCHIVE, TABLES, Space
from tokix.kernel.process import Branch, Entry, Process
from tokix.syscalls.base import to_json

Changes = dict[str, dict[Any, tuple[Any, ...] | None]]


class Ledger:
    """Rows by table and key; None is a deletion."""

    def __init__(self) -> None:
        self.rows: Changes = {name: {} for name in TABLES}
        #: The rows that the store has never seen.
        self.inserted: set[tuple[str, Any]] = set()
        #: Notes of calls that wait, and what bursts had before a restart: both by key.
        self.started: dict[str, dict[str, Any]] = {}
        self.partials: dict[str, dict[int, list[int]]] = {}

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

    # ---- what a restart must know of calls that wait

    def begin(self, branch: Branch, **note: Any) -> tuple[dict[str, Any], bool]:
        """Note what a restart must know of a call that waits: written once, found again. True: found again."""
        key, branch.noted = branch.key, True
        if key in self.started:
            return self.started[key], True
        self.started[key] = note
        self.insert("started", (key,), (key, branch.proc.pid, branch.text, to_json(note)))
        return note, False

    def forget(self, branch: Branch) -> None:
        """The call has its outcome: nothing is noted any more."""
        key, branch.noted = branch.key, False
        del self.started[key]
        self.erase("started", (key,))
        for start in self.partials.pop(key, ()):
            self.erase("partial", (key, start))

    # ---- many rows of the archive at once

    def drop(self, *prefix: int | str) -> None:
        """Delete all rows of a space, or of all spaces of a process."""
        for table in ARCHIVE:
            pending = self.rows[table]
            for key in [key for key in pending if key[: len(prefix)] == prefix]:
                del pending[key]
                self.inserted.discard((table, key))
            pending[prefix] = None

    def copy(self, source: Space, target: Space) -> None:
        """Give a space the rows of another: those that it has with all that this step has changed so far."""
        for table in ARCHIVE:
            pending, width = self.rows[table], TABLES[table].keys
            if source[:1] not in pending:
                pending[target] = pending.get(source, source)
            for key, row in [*pending.items()]:
                if len(key) == width and key[:2] == source:
                    own = (*target, *key[2:])
                    pending[own] = None if row is None else (*own, *row[width:])
                    if (table, key) in self.inserted:
                        self.inserted.add((table, own))
