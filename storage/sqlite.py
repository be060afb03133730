"""The store in one SQLite file.

The invariant: a commit that returned is in the file and one that raised is not; one that was cut off by the death of
the process (or of the machine) is in it whole or not at all. Nobody else writes to the file meanwhile.

There is one connection. It is the only one that writes and the only one that checkpoints, which keeps clear of the
WAL-reset bug of SQLite before 3.51.3 (of two connections, one can lose a commit when the other checkpoints). So nobody
else opens the file, but for `glance`, which can do neither: readers ask the kernel.

With a key the file is encrypted (see `cipher`); all else is the same.

Its errors are `StoreError`s whose text names the file and says what to do.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, cast

from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tokix.kernel.ports import ALL, ARCHIVE, TABLES, Key, Only, Rows, Scalar, Space
from tokix.storage import cipher, lexical
from tokix.storage.lock import alone
from tokix.storage.migrations import migrate
from tokix.storage.rows import StoreError, check
from tokix.storage.schema import (
    AMONG,
    COLLECT,
    COUNT,
    DANGLING,
    DEAD,
    ENCODERS,
    GET_BLOB,
    JOURNAL,
    LARGE,
    METADATA,
    ORPHANS,
    PUT_BLOB,
    SIZES,
    STATEMENTS,
    UNEMBEDDED,
    copy_many,
    drop_many,
    read_many,
)

_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}

#: What to do, by the beginning of SQLite's name for the error.
_ADVICE = {
    "SQLITE_NOTADB": "move the file away, or choose another state directory",
    "SQLITE_CORRUPT": "keep a copy of the file; `sqlite3 FILE .recover` (`sqlcipher`, if it is encrypted) may save "
    "most of it",
    "SQLITE_FULL": "make room on the disk and start again",
    "SQLITE_BUSY": "another program writes to the file; close it and start again",
    "SQLITE_IOERR": "make room on the disk if it is full; else look at it, and at the system's log",
    "SQLITE_READONLY": "make the file and its folder writable, or choose another state directory",
    "SQLITE_CANTOPEN": "make the file and its folder writable, or choose another state directory",
}


def make_folder(folder: Path) -> None:
    """Make a folder for a store, unless it is there; raises StoreError where none can be."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = "that is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise StoreError(f"{error.filename}: {reason}; choose another folder") from error


def beside(path: Path) -> Path:
    """Give the folder in which `rewrite` makes the file anew; after a kill it may be there, and is of no use."""
    return path.with_name(f"{path.name}.new")


class SqliteStore:
    """A Store in a SQLite file; it holds `kernel.lock` in the same folder while it is open.

    `durable="process"` survives the death of the kernel by any signal; a loss of power can take the last commits, but
    only whole ones. `durable="power"` survives that too, and pays one fsync a commit.

    `key` is a passphrase or 64 hexadecimal digits, for a file that is encrypted or not there yet.

    Any thread may call it, one at a time. Text must be valid Unicode: a commit with a lone surrogate is refused.
    """

    def __init__(self, path: Path, durable: Literal["process", "power"] = "process", key: str | None = None) -> None:
        self.path, self._encrypted = path.absolute(), key is not None
        with explained(self.path, "open"), ExitStack() as undo:
            # What agents say to each other is private.
            make_folder(self.path.parent)
            undo.enter_context(alone(self.path.parent))
            cipher.require(self.path, key)
            connection = undo.enter_context(_connected(self.path, key))
            # Before anything writes: a file that is not ours stays as it is.
            migrate(connection)
            self._raw = cast(sqlite3.Connection, connection.connection.driver_connection)
            self._set_up(_SYNCHRONOUS[durable])
            self._raw.execute(COLLECT)
            shutil.rmtree(beside(self.path), ignore_errors=True)
            self._open = undo.pop_all()

    def load(self) -> dict[str, list[tuple[Any, ...]]]:
        """Give the rows that a kernel needs at boot, by table, in the order of their keys."""
        with explained(self.path, "read"):
            blobs = _Blobs(self._raw)
            loaded = {name: sql for name, sql in STATEMENTS.items() if name not in ARCHIVE}
            return {name: self._select(sql.load, sql.large, blobs) for name, sql in loaded.items()}

    def dead(self) -> list[tuple[Any, ...]]:
        """Give the rows of reaped processes, oldest pid first."""
        with explained(self.path, "read"):
            return self._select(DEAD, STATEMENTS["process"].large, _Blobs(self._raw))

    def journal(self, pid: int, last: int | None = None) -> list[tuple[Any, ...]]:
        """Give the rows of the journal of one process, oldest first; all of them, or the last."""
        with explained(self.path, "read"):
            blobs = _Blobs(self._raw)
            found = self._raw.execute(JOURNAL, (pid, -1 if last is None else last)).fetchall()
            return [_grown(row, blobs) for row in reversed(found)]

    def read(self, table: str, prefix: Key, after: Key | None = None, limit: int = -1) -> list[tuple[Any, ...]]:
        """Give the rows whose key begins with `prefix` and is greater than `after`, in order, up to a limit."""
        with explained(self.path, "read"):
            sql = read_many(table, len(prefix), after is not None)
            found = self._raw.execute(sql, (*prefix, *(after or ()), limit)).fetchall()
            blobs, large = _Blobs(self._raw), STATEMENTS[table].large
            return [_grown(row, blobs) for row in found] if large else found

    def among(self, table: str, space: Space, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Give the rows of `page`, without texts, or `vector` that have these ids in a space, in order."""
        with explained(self.path, "read"):
            return self._raw.execute(AMONG[table], (*space, json.dumps(list(ids)))).fetchall()

    def sizes(self) -> dict[Space, int]:
        """Count the vectors in each space."""
        with explained(self.path, "read"):
            return {(pid, space): count for pid, space, count in self._raw.execute(SIZES)}

    def unembedded(self, encoder: str) -> list[Key]:
        """Give the keys of all pages without a vector of this encoder."""
        with explained(self.path, "read"):
            return self._raw.execute(UNEMBEDDED, (encoder,)).fetchall()

    def match(
        self, text: str, spaces: Sequence[Space], k: int, only: Only = ALL
    ) -> list[tuple[float, tuple[Any, ...]]]:
        """Give the k pages of spaces that have words of a text: positive scores and rows, the best first."""
        with explained(self.path, "search"):
            return lexical.match(self._raw, text, spaces, k, only)

    def commit(self, rows: Rows) -> None:
        """Make the rows durable, all or none; raises StoreError, and then the file is as it was.

        A disk that fails while it syncs leaves it open which; then too it is all or none.
        """
        with explained(self.path, "commit to"):
            check(rows)
            batches = _batches(rows)
            if not batches:
                return
            # Straight to the driver, with text that SQLAlchemy wrote at import. In µs for 1 / 100 rows: this 13 / 350,
            # `exec_driver_sql` 32 / 380, a compiled Core statement 44 / 580.
            self._raw.execute("BEGIN IMMEDIATE")
            try:
                for sql, parameters in batches:
                    self._raw.executemany(sql, parameters)
                self._raw.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back itself where the disk failed; then this does nothing.
                self._raw.rollback()
                raise

    def close(self) -> None:
        """Checkpoint, close the file and release the lock. Closing twice is harmless."""
        with explained(self.path, "close"):
            self._open.close()

    def check(self) -> None:
        """Read the whole file; raises StoreError if it is damaged. Too slow for each boot: for `doctor` and tests."""
        with explained(self.path, "check"):
            if found := self._damage():
                raise StoreError(f"it is damaged ({'; '.join(found)}): {_ADVICE['SQLITE_CORRUPT']}")
            (dangling,) = self._raw.execute(DANGLING).fetchone()
            try:
                self._raw.execute(lexical.VERIFY)
            except cipher.errors() as error:
                raise StoreError("the index of words is not that of the pages; `tokix memory rebuild`") from error
            if dangling:
                raise StoreError(f"{dangling} rows refer to large text that is not there: restore a copy of the file")

    def rebuild_words(self) -> None:
        """Make the index of words anew from the pages."""
        with explained(self.path, "change"):
            self._raw.execute(lexical.REBUILD)

    def count(self, table: str) -> int:
        """Count the rows of a table."""
        with explained(self.path, "read"):
            (count,) = self._raw.execute(COUNT[table]).fetchone()
            return int(count)

    def encoders(self) -> dict[tuple[str, int], int]:
        """Count the vectors by the name of their encoder and their size in bytes; reads the whole table."""
        with explained(self.path, "read"):
            return {(name, size): count for name, size, count in self._raw.execute(ENCODERS)}

    def orphans(self) -> int:
        """Count the vectors that belong to no page."""
        with explained(self.path, "read"):
            (count,) = self._raw.execute(ORPHANS).fetchone()
            return int(count)

    def _damage(self) -> list[str]:
        """Say what is wrong with the pages of the file: those in use, and all of an encrypted one."""
        found = self._raw.execute("PRAGMA integrity_check(3)").fetchall()
        if self._encrypted:
            self._raw.execute("PRAGMA wal_checkpoint").fetchall()  # what is next does not look into the log
            found += self._raw.execute("PRAGMA cipher_integrity_check").fetchmany(3)
        return [text for (text,) in found if text != "ok"]

    def settle(self) -> None:
        """Bring all that is in the log into the file, and have no log from now on: the file alone is the store."""
        with explained(self.path, "settle"):
            (mode,) = self._raw.execute("PRAGMA journal_mode = DELETE").fetchone()
            if mode != "delete":
                raise StoreError(f"its log is still in use ({mode=}): close what reads the file, and start again")

    def take(self, other: SqliteStore) -> None:
        """Copy every row of another store into this new one, all or none."""
        with explained(self.path, "copy into"):
            self._raw.execute("BEGIN IMMEDIATE")
            try:
                for name, table in METADATA.tables.items():
                    marks = ", ".join("?" * len(table.columns))
                    # In the order of the rows: among pages that match alike the newer one counts.
                    rows = other._raw.execute(f"SELECT * FROM {name} NOT INDEXED")
                    self._raw.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
                self._raw.execute("COMMIT")
            except BaseException:
                self._raw.rollback()
                raise

    def _set_up(self, synchronous: str) -> None:
        (mode,) = self._raw.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"SQLite cannot have a write-ahead log there ({mode=}): choose a folder on a local disk")
        self._raw.execute(f"PRAGMA synchronous = {synchronous}")
        # On macOS fsync leaves the data in the cache of the drive; this asks for more. Elsewhere it does nothing.
        self._raw.execute(f"PRAGMA fullfsync = {synchronous == 'FULL'}")
        # What is forgotten is overwritten; not every SQLite does that by itself.
        self._raw.execute("PRAGMA secure_delete = ON")
        # Pages: a checkpoint of 16 MB takes about 15 ms here and costs a quarter less per row than the usual 4 MB,
        # for the last pages of a table are written again by each commit.
        self._raw.execute("PRAGMA wal_autocheckpoint = 4000")

    def _select(self, sql: str, large: tuple[int, ...], blobs: _Blobs) -> list[tuple[Any, ...]]:
        rows = self._raw.execute(sql).fetchall()
        if not large:
            return rows
        return [_grown(row, blobs) if any(type(row[i]) is bytes for i in large) else row for row in rows]


class _Blobs(dict[bytes, str]):
    """Large text by its digest, read when it is first asked for: equal text is one object afterwards."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        super().__init__()
        self._raw = raw

    def __missing__(self, digest: bytes) -> str:
        found = self._raw.execute(GET_BLOB, (digest,)).fetchone()
        if found is None:
            raise StoreError(f"large text {digest.hex()} is not in the file: restore a copy of the file")
        self[digest] = found[0]
        return self[digest]


def _grown(row: tuple[Any, ...], blobs: _Blobs) -> tuple[Any, ...]:
    return tuple(blobs[value] if type(value) is bytes else value for value in row)


def _shrunk(row: tuple[Scalar, ...], large: tuple[int, ...], blobs: dict[bytes, str]) -> tuple[Scalar, ...]:
    """Give the row with references in place of large text, which is added to `blobs`."""
    short: list[Scalar] | None = None
    for place in large:
        text = row[place]
        if isinstance(text, str) and len(text) > LARGE:
            digest = blake2b(text.encode(), digest_size=32).digest()
            blobs[digest] = text
            short = short or list(row)
            short[place] = digest
    return tuple(short) if short else row


def _batches(rows: Rows) -> list[tuple[str, list[tuple[Scalar, ...]]]]:
    """Give the statements of a commit with the parameters for each."""
    blobs: dict[bytes, str] = {}
    batches: list[tuple[str, list[tuple[Scalar, ...]]]] = []
    for name, changes in rows.items():
        sql, keys = STATEMENTS[name], TABLES[name].keys
        many = {key: row for key, row in changes.items() if len(key) < keys}
        # What is copied is what was there before.
        batches += [(copy_many(name, len(key)), [key + row]) for key, row in many.items() if row is not None]
        batches += [(drop_many(name, len(key)), [key]) for key, row in many.items() if row is None]
        drops = [key for key, row in changes.items() if row is None and len(key) == keys]
        puts = [_shrunk(row, sql.large, blobs) for key, row in changes.items() if row is not None and len(key) == keys]
        batches += [batch for batch in ((sql.drop, drops), (sql.put, puts)) if batch[1]]
    if blobs:
        batches.append((PUT_BLOB, list(blobs.items())))
    if any(row and _forgets(row) for row in rows.get("journal", {}).values()):
        batches.append((COLLECT, [()]))  # at once, and not when the file is opened next
    return batches


#: Where the call is in a row of the journal.
_CALL = list(TABLES["journal"].columns).index("call")


def _forgets(row: tuple[Scalar, ...]) -> bool:
    """Say whether a change of the journal is an entry that forgets something."""
    return len(row) > _CALL and str(row[_CALL]).startswith("forget{")


@contextmanager
def _connected(path: Path, key: str | None = None) -> Iterator[Connection]:
    """Open a connection that leaves transactions to us."""
    engine = create_engine(
        "sqlite://",
        module=cipher.driver(key),
        creator=partial(cipher.connect, path, key),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        yield connection


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn what the file, the disk or the rows can be blamed for into a StoreError."""
    try:
        yield
    except StoreError as error:
        raise StoreError(f"cannot {doing} {path}: {error}") from error
    except DBAPIError as error:
        raise StoreError(f"cannot {doing} {path}: {_reason(error.orig)}") from error
    except cipher.errors() as error:
        raise StoreError(f"cannot {doing} {path}: {_reason(error)}") from error
    except (OSError, OverflowError, UnicodeEncodeError) as error:
        raise StoreError(f"cannot {doing} {path}: {_reason(error)}") from error


def _reason(error: BaseException | None) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    name = getattr(error, "sqlite_errorname", "")
    advice = [advice for code, advice in _ADVICE.items() if name.startswith(code)]
    return "; ".join([str(error), *advice])
