"""The store in memory: for tests, tutorials, and kernels that may forget.

It is the double of `SqliteStore`: it gives the same rows in the same order and refuses the same ones. Reopening is
using the same object again; `tables` may be read by anybody.
"""

from __future__ import annotations

from typing import Any

from tokix.kernel.ports import TABLES, Key, Rows, Scalar
from tokix.storage.rows import OPEN, StoreError, check

#: SQLite's integers have 64 bits.
_LEAST, _MOST = -(2**63), 2**63 - 1


class MemoryStore:
    """A Store that lives as long as the object. `tables` holds its rows by key."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Key, tuple[Scalar, ...]]] = {name: {} for name in TABLES}

    def load(self) -> dict[str, list[tuple[Any, ...]]]:
        """Give the rows that a kernel needs at boot, by table, in the order of their keys."""
        alive = {key for key, row in self.tables["process"].items() if not _reaped(row)}
        reaped = self.tables["process"].keys() - alive
        give: dict[str, dict[Key, tuple[Scalar, ...]]] = dict(self.tables)
        give["process"] = {key: row for key, row in give["process"].items() if key in alive}
        give["journal"] = {key: row for key, row in give["journal"].items() if _owner("journal", row) in alive}
        for name in OPEN:
            give[name] = {key: row for key, row in give[name].items() if _owner(name, row) not in reaped}
        gone = self.tables["started"].keys() - give["started"].keys()
        give["partial"] = {key: row for key, row in give["partial"].items() if key[:1] not in gone}
        return {name: [rows[key] for key in sorted(rows)] for name, rows in give.items()}

    def dead(self) -> list[tuple[Any, ...]]:
        """Give the rows of reaped processes, oldest pid first."""
        return [row for _, row in sorted(self.tables["process"].items()) if _reaped(row)]

    def commit(self, rows: Rows) -> None:
        """Keep the rows, all or none; raises StoreError for rows that SQLite would refuse."""
        check(rows)
        for changes in rows.values():
            for key, row in changes.items():
                _check_values(row or key)
        for name, changes in rows.items():
            for key, row in changes.items():
                if row is None:
                    self.tables[name].pop(key, None)
                else:
                    self.tables[name][key] = row

    def close(self) -> None:
        """Do nothing: the rows are there for the next kernel."""


def _reaped(row: tuple[Scalar, ...]) -> bool:
    return row[_place("process", "reaped")] == 1


def _owner(name: str, row: tuple[Scalar, ...]) -> Key:
    return (row[_place(name, "pid")],)


def _place(name: str, column: str) -> int:
    return list(TABLES[name].columns).index(column)


def _check_values(values: tuple[Scalar, ...]) -> None:
    for value in values:
        if isinstance(value, str):
            try:
                value.isascii() or value.encode()
            except UnicodeEncodeError as error:
                raise StoreError(f"the text is not valid Unicode, clean it where it enters: {error}") from error
        elif isinstance(value, int) and not _LEAST <= value <= _MOST:
            raise StoreError(f"{value} has more than 64 bits")
