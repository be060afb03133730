"""A SQLite database as a device: `tables` and `query` read, `execute` changes, where the mount allows it.

Every call opens the file anew, in a thread, runs one statement and closes it, so no transaction and no lock outlives a
call. What a statement may do is decided when SQLite compiles it, by an authorizer that knows what is allowed and
refuses the rest: no other file (ATTACH, VACUUM INTO, extensions), no settings, no transactions of its own.

Invariant: a statement that takes too long, or that nobody waits for any more, is stopped, and leaves the file as it
was. SQLite looks for that between its instructions, not inside of one: a function of two texts of a megabyte may take
seconds that nothing cuts short. A child process, which can be killed, would be tighter, and cost each call 40 ms.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled
from pydantic import Field

from tokix.drivers.base import Driver, op
from tokix.syscalls import EAGAIN, EINVAL, EIO, EPERM, ETIMEDOUT, DeviceInfo, SyscallError, Value
from tokix.syscalls.base import to_json

R = TypeVar("R")

#: Characters of JSON that the rows of an answer have at most, characters of a text in them, and columns.
MAX_REPLY, MAX_TEXT, MAX_COLUMNS = 16_000, 2000, 100
#: Seconds to wait for somebody else's lock.
PATIENCE = 1.0
#: Instructions of SQLite's machine between two looks at the clock: a fraction of a millisecond.
STRIDE = 10_000
#: Statements of one device that run at the same time; others wait for their turn.
STATEMENTS = 4

#: SQLite's own bounds, lowered: they bound the memory of a call, and the time of one instruction.
LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1 << 20,  # bytes of a text, a BLOB, or a row that is made
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


def _codes(names: str) -> dict[int, str]:
    return {getattr(sqlite3, f"SQLITE_{name}"): name.replace("_", " ") for name in names.split()}


#: What the authorizer is asked about, by its code: what reads; what changes the database; what is never allowed.
READING = _codes("SELECT READ FUNCTION RECURSIVE")
WRITING = _codes(
    "INSERT UPDATE DELETE ALTER_TABLE CREATE_TABLE CREATE_INDEX CREATE_VIEW CREATE_TRIGGER"
    " DROP_TABLE DROP_INDEX DROP_VIEW DROP_TRIGGER REINDEX ANALYZE"
)
NEVER = _codes(
    "ATTACH DETACH PRAGMA TRANSACTION SAVEPOINT CREATE_VTABLE DROP_VTABLE CREATE_TEMP_TABLE CREATE_TEMP_INDEX"
    " CREATE_TEMP_VIEW CREATE_TEMP_TRIGGER DROP_TEMP_TABLE DROP_TEMP_INDEX DROP_TEMP_VIEW DROP_TEMP_TRIGGER"
)
#: But for these pragmas, which only tell something; `data_version` is what full-text tables ask.
PRAGMAS = frozenset(
    {"table_list", "table_info", "table_xinfo", "index_list", "index_info", "index_xinfo", "foreign_key_list"}
    | {"data_version"}
)
#: Functions that load code, and the table of the pages of the file itself.
FORBIDDEN = frozenset({"load_extension", "fts3_tokenizer", "sqlite_dbpage"})

Scalar = None | bool | int | Annotated[float, Field(allow_inf_nan=False)] | str
Sql = Annotated[str, Field(min_length=1, max_length=10_000, description="one statement, with ? for parameters")]
Parameters = Annotated[tuple[Scalar, ...], Field(max_length=999, description="the values of the ?, in their order")]
Row = dict[str, Any]


class Rows(Value):
    """What a query found. The note says what was left out."""

    rows: list[Row]
    note: str = ""


class Changed(Rows):
    """How many rows a statement changed, and what it said with RETURNING."""

    changed: int


class TableInfo(Value):
    """A table or a view. A column is its name and type."""

    name: str
    kind: Literal["table", "view"]
    columns: list[str]


class Tables(Value):
    """What is in a database. The note says what was left out."""

    tables: list[TableInfo]
    note: str = ""


class Sqlite(Driver):
    """A SQLite database. Raises ValueError if the file cannot be used."""

    def __init__(
        self, file: Path, *, write: bool = False, seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    ) -> None:
        """With `write` it can be changed, and is made if need be; a statement takes at most `seconds`."""
        if file.is_dir() or not (write or file.exists()):
            raise ValueError(f"{file}: {'a folder' if file.is_dir() else 'no such file; the option write makes it'}")
        self._path, self._write, self._seconds = file.absolute(), write, seconds
        self._turns = anyio.CapacityLimiter(STATEMENTS)
        try:
            with self._session(write=False).opened("rwc" if write else "ro") as db:
                db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except SyscallError as error:
            raise ValueError(f"{file}: {error.detail}") from None

    def describe(self, name: str) -> DeviceInfo:
        """Describe the ops; `execute` only if it is allowed."""
        device = super().describe(name)
        return (
            device if self._write else device.model_copy(update={"ops": [o for o in device.ops if o.effect == "pure"]})
        )

    @op(effect="pure")
    async def tables(self) -> Tables:
        """List the tables and views with their columns."""
        return await self._run(self._session(False), _tables)

    @op(effect="pure")
    async def query(
        self,
        sql: Sql,
        parameters: Parameters = (),
        limit: Annotated[int, Field(ge=1, le=1000)] = 50,
    ) -> Rows:
        """Read rows with one SELECT."""

        def read(db: sqlite3.Connection) -> Rows:
            return Rows(**_rows(db.execute(sql, parameters), limit))

        return await self._run(self._session(False), read)

    @op(effect="unsafe")
    async def execute(self, sql: Sql, parameters: Parameters = ()) -> Changed:
        """Change the database with one INSERT, UPDATE, DELETE, CREATE, ALTER or DROP."""
        if not self._write:
            raise EPERM("the device is read-only; whoever mounts it can say `write`")

        def change(db: sqlite3.Connection) -> Changed:
            cursor = db.execute(sql, parameters)
            rows = _rows(cursor, limit=1000)
            for _ in cursor:  # what was too much for the answer is changed all the same
                pass
            [changed] = db.execute("SELECT changes()").fetchone()
            return Changed(**rows, changed=changed)

        return await self._run(self._session(True), change)

    def _session(self, write: bool) -> Session:
        return Session(self._path, self._seconds, write)

    async def _run(self, session: Session, work: Callable[[sqlite3.Connection], R]) -> R:
        """Run a statement in a thread; what cancels this stops that."""
        outcome: R | SyscallError
        async with anyio.create_task_group() as group:
            group.start_soon(session.watch)
            outcome = await to_thread.run_sync(session.attempt, work, limiter=self._turns)
            group.cancel_scope.cancel()
        await checkpoint_if_cancelled()  # the group has taken a cancel from outside for its own
        if isinstance(outcome, SyscallError):
            raise outcome
        return outcome


class Session:
    """A connection for one statement, which another thread can stop."""

    def __init__(self, path: Path, seconds: float, write: bool) -> None:
        self._uri, self._seconds, self._write = path.as_uri(), seconds, write
        self._db: sqlite3.Connection | None = None
        self._stopped, self._deadline = False, math.inf
        #: What the authorizer refused first.
        self._refused = ""

    async def watch(self) -> None:
        """Wait to be cancelled, and stop the statement then."""
        try:
            await anyio.sleep_forever()
        finally:
            self.stop()

    def stop(self) -> None:
        self._stopped = True
        if db := self._db:
            with suppress(sqlite3.ProgrammingError):  # it is closed
                db.interrupt()

    def attempt(self, work: Callable[[sqlite3.Connection], R]) -> R | SyscallError:
        """Do the work; an error is given and not raised, for a task group would wrap it."""
        try:
            with self.opened("rw" if self._write else "ro") as db:
                return work(db)
        except SyscallError as error:
            return error

    @contextmanager
    def opened(self, mode: str) -> Iterator[sqlite3.Connection]:
        """Open the file; when the block ends well its changes are there, and otherwise nothing of them."""
        try:
            uri = f"{self._uri}?mode={mode}"
            connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, cached_statements=0)
            with closing(connection) as db:
                self._guard(db)
                yield db
                if self._write:
                    self._commit(db)
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError) as error:
            raise self._explained(error) from None
        finally:
            self._db = None

    def _guard(self, db: sqlite3.Connection) -> None:
        self._deadline = time.monotonic() + self._seconds
        db.set_progress_handler(self._is_over, STRIDE)
        self._db = db
        for category, limit in LIMITS.items():
            db.setlimit(category, limit)
        db.text_factory = _text
        db.execute("PRAGMA trusted_schema = OFF")
        if self._write:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
        else:
            db.execute("PRAGMA query_only = ON")
        db.set_authorizer(self._authorize)

    def _commit(self, db: sqlite3.Connection) -> None:
        db.set_authorizer(None)
        db.set_progress_handler(None, 0)
        if self._stopped:
            raise ETIMEDOUT("stopped before its end")
        db.execute("COMMIT")

    def _is_over(self) -> bool:
        return self._stopped or time.monotonic() > self._deadline

    def _authorize(self, action: int, first: str | None, second: str | None, place: str | None, _: object) -> int:
        if action == sqlite3.SQLITE_PRAGMA:
            allowed, what = first in PRAGMAS, f"PRAGMA {first}"
        elif (
            first in ("sqlite_master", "sqlite_temp_master") and action in WRITING
        ):  # by SQLite itself; whoever says so is refused later
            return sqlite3.SQLITE_OK
        elif first in FORBIDDEN or second in FORBIDDEN:
            allowed, what = False, f"{second if second in FORBIDDEN else first}"
        else:
            temporary = place == "temp" and action in WRITING
            allowed = action in READING or (self._write and action in WRITING and not temporary)
            what = "temporary table" if temporary else WRITING.get(action) or NEVER.get(action, "such statement")
        if not allowed:
            self._refused = self._refused or what
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _explained(self, error: Exception) -> SyscallError:
        """Say in the caller's terms what SQLite says."""
        if isinstance(error, OverflowError):
            return EINVAL("a whole number has more than 64 bits")
        text = " ".join(str(error).split())
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case _ if self._refused:
                changes = self._refused in WRITING.values()
                return EPERM(f"no {self._refused} here" + ("; a query only reads" if changes else ""))
            case sqlite3.SQLITE_INTERRUPT:
                return ETIMEDOUT(f"stopped after {self._seconds:g} s; ask for less, with WHERE or LIMIT")
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return EAGAIN("somebody else is writing to the database; try again")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
                return EPERM(text)
            case code if code in _BROKEN:
                return EIO(text)
        hint = "; `tables` has the names" if text.startswith(("no such table", "no such column")) else ""
        return EINVAL(text + hint)


#: What is wrong with the file or the host, and not with the statement.
_BROKEN = {
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL),
}


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def _rows(cursor: sqlite3.Cursor, limit: int) -> dict[str, Any]:
    """Give the rows of a cursor as far as they fit, and the note."""
    names = _names(cursor)
    rows: list[Row] = []
    size, notes = 0, {}
    for values in cursor:
        row = {name: _shown(value) for name, value in zip(names, values, strict=True)}
        size += len(to_json(row))
        if len(rows) == limit or size > MAX_REPLY:
            notes["more"] = f"only the first {len(rows)} rows; there are more, see LIMIT and OFFSET, or count(*)"
            if not rows:
                raise EINVAL("the first row is too large to be shown; select fewer columns, or substr(column, 1, 1000)")
            break
        if any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
            notes["cut"] = f"texts are cut after {MAX_TEXT} characters; substr(column, {MAX_TEXT + 1}) goes on"
        rows.append(row)
    return {"rows": rows, "note": "; ".join(notes.values())}


def _names(cursor: sqlite3.Cursor) -> list[str]:
    """Give the names of the columns, each once: the second `id` is `id_2`."""
    found = [column[0] for column in cursor.description or ()]
    if len(found) > MAX_COLUMNS:
        raise EINVAL(f"{len(found)} columns; select at most {MAX_COLUMNS}")
    names: dict[str, None] = {}
    for name in found:
        others = (f"{name}_{n}" for n in count(2))
        names[name if name not in names else next(other for other in others if other not in names)] = None
    return [*names]


def _shown(value: Any) -> Any:
    """Give a value as JSON can have it."""
    match value:
        case bytes():
            return f"BLOB of {len(value)} bytes"
        case str() if len(value) > MAX_TEXT:
            return value[:MAX_TEXT] + "…"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    return value


def _tables(db: sqlite3.Connection) -> Tables:
    names = db.execute(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'view', 'virtual')"
        " AND substr(name, 1, 7) <> 'sqlite_' ORDER BY name"
    ).fetchall()
    tables: list[TableInfo] = []
    size = 0
    for name, kind in names:
        table = TableInfo(name=name, kind="view" if kind == "view" else "table", columns=_columns(db, name))
        size += len(table.model_dump_json())
        if size > MAX_REPLY:
            return Tables(tables=tables, note=f"only the first {len(tables)} of {len(names)}; see sqlite_schema")
        tables.append(table)
    return Tables(tables=tables)


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    with suppress(sqlite3.OperationalError):  # a view of something that is gone
        found = db.execute("SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,))
        return [f"{name} {kind}".strip() for name, kind in found.fetchmany(MAX_COLUMNS)]
    return []
