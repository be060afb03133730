"""Both stores, opened and closed at will, and rows to put into them; files that somebody else has changed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokix.kernel.ports import ARCHIVE, TABLES, Key, Only, Scalar, Store
from tokix.storage import MemoryStore, SqliteStore, StoreError

LIMIT = 4096
DEFAULTS: dict[type, Scalar] = {int: 0, str: "", float: 0.0, bytes: b""}
OTHERS: dict[type, Scalar] = {int: 7, str: "text", float: 0.1, bytes: b"\x00\xff"}
#: Of an encrypted store.
KEY = "5ec2e7" * 10 + "beef"
#: Those that a kernel loads.
LOADED = [table for table in TABLES if table not in ARCHIVE]

Reopen = Callable[[], Store]
Row = tuple[Scalar, ...]


def row(table: str, **values: Scalar) -> Row:
    columns = TABLES[table].columns
    assert values.keys() <= columns.keys()
    return tuple(values.get(name, DEFAULTS[kind]) for name, kind in columns.items())


def put(table: str, *rows: Row) -> dict[str, dict[Key, Row | None]]:
    return {table: {r[: TABLES[table].keys]: r for r in rows}}


def found(
    store: Store, query: str, k: int = 9, spaces: Sequence[tuple[int, str]] = ((1, ""),), **only: Any
) -> list[int]:
    """Search by words; gives the ids of pages."""
    return [row[2] for _, row in store.match(query, spaces, k, Only(**only))]


def total(store: Store) -> int:
    return sum(map(len, store.load().values()))


@pytest.fixture(params=["memory", "process", "power", "encrypted"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Give a function that opens the store, closing it first where it is open."""
    stores: list[Store] = [MemoryStore()]
    if request.param == "encrypted":
        pytest.importorskip("sqlcipher3")

    def again() -> Store:
        stores[-1].close()
        if request.param == "encrypted":
            stores.append(SqliteStore(tmp_path / "state" / "tokix.db", key=KEY))
        elif request.param != "memory":
            stores.append(SqliteStore(tmp_path / "state" / "tokix.db", request.param))
        return stores[-1]

    yield again
    stores[-1].close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokix.db"


@contextmanager
def opened(path: Path, key: str | None = None) -> Iterator[SqliteStore]:
    store = SqliteStore(path, key=key)
    try:
        yield store
    finally:
        store.close()


def python(code: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stdin=subprocess.PIPE, **options)


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refusal(path: Path, key: str | None = None) -> str:
    """Give the text of the error, having checked that the file is as it was and stays openable by others."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        SqliteStore(path, key=key)
    if before is not None:
        assert path.read_bytes() == before
    assert str(caught.value).startswith(f"cannot open {path}: ")
    return str(caught.value)
