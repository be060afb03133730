"""The tables of the kernel in SQLite, and the SQL that the store runs on them, written by SQLAlchemy once.

Large text is kept once, in `blob`, under the digest of its UTF-8 bytes; its column then holds the digest as a BLOB. A
BLOB is not a TEXT, in SQLite as in Python, so no text that a program could write is mistaken for a reference.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Delete,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import sqlite

from tokix.kernel.ports import ARCHIVE, TABLES
from tokix.storage.rows import OPEN

#: Text of more characters than this goes to `blob`, in the columns that can hold such text.
LARGE = 4096
_LARGE = {
    "process": ("image",),
    "journal": ("call", "value"),
    "partial": ("tokens",),
    "message": ("body",),
    "chunk": ("text",),
}
_TYPES = {int: Integer, str: Text, float: Float, bytes: LargeBinary}

METADATA = MetaData()


class Statements(NamedTuple):
    """The SQL for one table, with its parameters in the order of the columns."""

    put: str
    drop: str
    load: str
    #: The places of the columns that may refer to a blob.
    large: tuple[int, ...]


def _define(name: str) -> Table:
    """Define a table of the kernel; the first of its columns are the key.

    A single integer key is the rowid itself. Other keys make a WITHOUT ROWID table, which has one tree instead of two;
    but not the journal: a commit has rows of many processes, each in another leaf of such a tree, and whole pages go to
    the log (100 rows of 50 processes: 1000 µs, against 540 µs where only the small index is scattered). And not the
    archive: such a tree keeps a quarter of a page of a row at most, and the rest elsewhere.
    """
    keys, columns = TABLES[name]
    integer = keys == 1 and next(iter(columns.values())) is int
    return Table(
        name,
        METADATA,
        *(
            Column(column, _TYPES[kind], primary_key=place < keys, autoincrement=False)
            for place, (column, kind) in enumerate(columns.items())
        ),
        sqlite_with_rowid=integer or name in ("journal", *ARCHIVE),
    )


_TABLES = {name: _define(name) for name in TABLES}
_PROCESS = _TABLES["process"]
# Constants and not parameters, so that SQLite sees that the partial index applies.
_REAPED = _PROCESS.c.reaped.is_not_distinct_from(literal_column("1"))
_ALIVE = _PROCESS.c.reaped.is_distinct_from(literal_column("1"))
# Boot costs what lives: a system that has run for a year has many dead.
Index("process_alive", _PROCESS.c.pid, sqlite_where=_ALIVE)

_BLOB = Table("blob", METADATA, Column("digest", LargeBinary, primary_key=True), Column("text", Text, nullable=False))


def _sql(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=sqlite.dialect()))


def _put(table: Table) -> str:
    insert = sqlite.insert(table)
    rest = {c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key}
    return _sql(insert.on_conflict_do_update(index_elements=table.primary_key.columns, set_=rest))


def _drop(table: Table) -> str:
    return _sql(delete(table).where(and_(*(c == bindparam(c.name) for c in table.primary_key.columns))))


@cache
def drop_many(name: str, width: int) -> str:
    """Give the SQL that deletes the rows whose key begins with so many values."""
    table = _TABLES[name]
    return _sql(delete(table).where(*_beginning(table, width)))


@cache
def copy_many(name: str, width: int) -> str:
    """Give the SQL that copies rows whose key begins with so many values; its parameters are the new ones, the old."""
    table = _TABLES[name]
    new = [bindparam(f"new_{c.name}", type_=c.type) for c in list(table.columns)[:width]]
    rows = select(*new, *list(table.columns)[width:]).where(*_beginning(table, width))
    return _sql(sqlite.insert(table).from_select(list(table.columns.keys()), rows).prefix_with("OR REPLACE"))


@cache
def read_many(name: str, width: int, after: bool) -> str:
    """Give the SQL that reads rows whose key begins with so many values: after a key, in order, up to a limit."""
    table = _TABLES[name]
    keys = list(table.primary_key.columns)
    wanted = select(table).where(*_beginning(table, width)).order_by(*keys)
    if after:
        wanted = wanted.where(tuple_(*keys) > tuple_(*(bindparam(f"after_{c.name}") for c in keys)))
    return f"{_sql(wanted)} LIMIT ?"  # SQLAlchemy's own limit adds an offset, with a parameter of its own


def _beginning(table: Table, width: int) -> list[ColumnElement[bool]]:
    return [c == bindparam(c.name) for c in list(table.primary_key.columns)[:width]]


def _load(table: Table) -> Select[Any]:
    """Select what `storage.rows` says is wanted at boot, in the order of the keys."""
    wanted = select(table).order_by(*table.primary_key.columns)
    if table.name == "process":
        return wanted.where(_ALIVE)
    if table.name == "journal":
        return wanted.where(table.c.pid.in_(select(_PROCESS.c.pid).where(_ALIVE)))
    if table.name in OPEN:
        return wanted.where(~exists().where(_PROCESS.c.pid == table.c.pid, _REAPED))
    if table.name == "partial":
        started = _TABLES["started"]
        gone = exists().where(started.c.key == table.c.key, _PROCESS.c.pid == started.c.pid, _REAPED)
        return wanted.where(~gone)
    return wanted


def _references() -> list[Select[Any]]:
    columns = [_TABLES[name].c[column] for name, large in _LARGE.items() for column in large]
    return [select(column).where(func.typeof(column) == literal_column("'blob'")) for column in columns]


def _collect() -> Delete:
    return delete(_BLOB).where(_BLOB.c.digest.not_in(union_all(*_references())))


def _dangling() -> Select[Any]:
    found = union_all(*_references()).subquery()
    return select(func.count()).select_from(found).where(found.c[0].not_in(select(_BLOB.c.digest)))


#: The statements of each table.
STATEMENTS = {
    name: Statements(
        put=_put(table),
        drop=_drop(table),
        load=_sql(_load(table)),
        large=tuple(list(table.columns.keys()).index(column) for column in _LARGE.get(name, ())),
    )
    for name, table in _TABLES.items()
}
DEAD = _sql(select(_PROCESS).where(_REAPED).order_by(_PROCESS.c.pid))
_JOURNAL = _TABLES["journal"]
#: The last entries of one journal, newest first; −1 is all of them.
JOURNAL = _sql(
    select(_JOURNAL)
    .where(_JOURNAL.c.pid == bindparam("pid"))
    .order_by(_JOURNAL.c.epoch.desc(), _JOURNAL.c.seq.desc())
    .limit(bindparam("last"))
    .offset(literal_column("0"))
)
_PAGE, _VECTOR = _TABLES["page"], _TABLES["vector"]
#: Rows of a space by their ids, which are a JSON list; of pages, all but their texts, which are last.
AMONG = {
    table.name: _sql(
        select(*(column for column in table.columns if column.name != "text"))
        .where(
            table.c.pid == bindparam("pid"),
            table.c.space == bindparam("space"),
            table.c.id.in_(text("SELECT value FROM json_each(:ids)").columns(Column("value", Integer))),
        )
        .order_by(table.c.id)
    )
    for table in (_PAGE, _VECTOR)
}
SIZES = _sql(select(_VECTOR.c.pid, _VECTOR.c.space, func.count()).group_by(_VECTOR.c.pid, _VECTOR.c.space))
COUNT = {name: _sql(select(func.count()).select_from(table)) for name, table in _TABLES.items()}
_SIZE = func.length(_VECTOR.c.data)
ENCODERS = _sql(select(_VECTOR.c.encoder, _SIZE, func.count()).group_by(_VECTOR.c.encoder, _SIZE))
ORPHANS = _sql(
    select(func.count())
    .select_from(_VECTOR)
    .where(~exists().where(*(_PAGE.c[c.name] == c for c in _VECTOR.primary_key.columns)))
)
#: The keys of the pages that have no vector of an encoder.
UNEMBEDDED = _sql(
    select(*_PAGE.primary_key.columns)
    .where(
        ~exists().where(
            *(_VECTOR.c[c.name] == c for c in _PAGE.primary_key.columns), _VECTOR.c.encoder == bindparam("encoder")
        )
    )
    .order_by(*_PAGE.primary_key.columns)
)
PUT_BLOB = _sql(sqlite.insert(_BLOB).on_conflict_do_nothing())
GET_BLOB = _sql(select(_BLOB.c.text).where(_BLOB.c.digest == bindparam("digest")))
#: Remove the blobs that no row refers to.
COLLECT = _sql(_collect())
#: Count the references to blobs that are not there.
DANGLING = _sql(_dangling())
