"""The store in memory: for tests, tutorials, and kernels that may forget.

It is the double of `SqliteStore`: it gives the same rows in the same order and refuses the same ones. Reopening is
using the same object again; `tables` may be read by anybody.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tokix.kernel.ports import ALL, ARCHIVE, TABLES, Key, Only, Rows, Scalar, Space
from tokix.storage import lexical
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
        give = {name: rows for name, rows in self.tables.items() if name not in ARCHIVE}
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

    def journal(self, pid: int, last: int | None = None) -> list[tuple[Any, ...]]:
        """Give the rows of the journal of one process, oldest first; all of them, or the last."""
        found = [row for _, row in sorted(self.tables["journal"].items()) if _owner("journal", row) == (pid,)]
        return found[-last:] if last else found

    def read(self, table: str, prefix: Key, after: Key | None = None, limit: int = -1) -> list[tuple[Any, ...]]:
        """Give the rows whose key begins with `prefix` and is greater than `after`, in order, up to a limit."""
        rows = self.tables[table]
        keys = sorted(key for key in rows if key[: len(prefix)] == prefix and (after is None or key > after))
        return [rows[key] for key in (keys if limit < 0 else keys[:limit])]

    def among(self, table: str, space: Space, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Give the rows of `page`, without texts, or `vector` that have these ids in a space, in order."""
        rows, end = self.tables[table], -1 if table == "page" else None
        return [rows[key][:end] for key in ((*space, id) for id in sorted(set(ids))) if key in rows]

    def sizes(self) -> dict[Space, int]:
        """Count the vectors in each space."""
        return dict(Counter((int(key[0] or 0), str(key[1])) for key in self.tables["vector"]))

    def unembedded(self, encoder: str) -> list[Key]:
        """Give the keys of all pages without a vector of this encoder."""
        place, vectors = _place("vector", "encoder"), self.tables["vector"]
        return [key for key in sorted(self.tables["page"]) if key not in vectors or vectors[key][place] != encoder]

    def match(
        self, text: str, spaces: Sequence[Space], k: int, only: Only = ALL
    ) -> list[tuple[float, tuple[Any, ...]]]:
        """Give the k pages of spaces that have words of a text: positive scores and rows, the best first."""
        with closing(sqlite3.connect(":memory:")) as raw:
            columns = list(TABLES["page"].columns)
            raw.execute(f"CREATE TABLE page ({', '.join(columns)})")
            for sql in lexical.CREATE:
                raw.execute(sql)
            rows = [row for _, row in sorted(self.tables["page"].items())]
            raw.executemany(f"INSERT INTO page VALUES ({', '.join('?' * len(columns))})", rows)
            return lexical.match(raw, text, spaces, k, only)

    def commit(self, rows: Rows) -> None:
        """Keep the rows, all or none; raises StoreError for rows that SQLite would refuse."""
        check(rows)
        for changes in rows.values():
            for key, row in changes.items():
                _check_values(row or key)
        for name, changes in rows.items():
            self._change_many(name, {key: row for key, row in changes.items() if len(key) < TABLES[name].keys})
            for key, row in changes.items():
                if len(key) < TABLES[name].keys:
                    continue
                if row is None:
                    self.tables[name].pop(key, None)
                else:
                    self.tables[name][key] = row

    def _change_many(self, name: str, changes: Mapping[Key, tuple[Scalar, ...] | None]) -> None:
        """Make copies, then delete: what is copied is what was there before."""
        table = self.tables[name]
        for target, source in changes.items():
            if source is not None:
                width = len(source)
                copies = [target + row[width:] for key, row in table.items() if key[:width] == source]
                table.update({row[: TABLES[name].keys]: row for row in copies})
        for prefix, source in changes.items():
            if source is None:
                for key in [key for key in table if key[: len(prefix)] == prefix]:
                    del table[key]

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
