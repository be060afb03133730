"""The versions of the file.

`PRAGMA user_version` numbers the schema and `PRAGMA application_id` says that the file is ours; both change in the
transaction that changes the tables, so a file is at one version or at the next and never between. A new file is made
from the schema as it is today. An older one is brought here step by step; a newer one is refused, for its rows may mean
what we cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, inspect

from tokix.storage import lexical
from tokix.storage.rows import StoreError
from tokix.storage.schema import METADATA

#: "tokx"
_APPLICATION = 0x746F6B78

#: Changes tables and rows from one version to the next, inside the transaction of its caller.
Step = Callable[[Connection], object]


def _archive(connection: Connection) -> None:
    """Add what has left the windows of processes, and its vectors."""
    key = "pid INTEGER NOT NULL, space TEXT NOT NULL, id INTEGER NOT NULL"
    columns = {
        "page": "message INTEGER, role TEXT, tokens INTEGER, text TEXT",
        "vector": "encoder TEXT, data BLOB",
    }
    for name, rest in columns.items():
        connection.exec_driver_sql(f"CREATE TABLE {name} ({key}, {rest}, PRIMARY KEY (pid, space, id))")


def _words(connection: Connection) -> None:
    """Add the index of words."""
    for sql in (*lexical.CREATE, lexical.REBUILD):
        connection.exec_driver_sql(sql)


def _shared(connection: Connection) -> None:
    """Add when something was said, and regions. Of what is there, nobody knows when; the index has its rowids."""
    columns = "pid INTEGER NOT NULL, space TEXT NOT NULL, id INTEGER NOT NULL, message INTEGER, role TEXT"
    for sql in (
        "ALTER TABLE journal ADD COLUMN at FLOAT DEFAULT 0",
        f"CREATE TABLE timed ({columns}, tokens INTEGER, at FLOAT, text TEXT, PRIMARY KEY (pid, space, id))",
        "INSERT INTO timed (rowid, pid, space, id, message, role, tokens, at, text) "
        "SELECT rowid, pid, space, id, message, role, tokens, 0, text FROM page",
        *(f"DROP TRIGGER {name}" for name in ("page_put", "page_drop", "page_change")),
        "DROP TABLE page",
        "ALTER TABLE timed RENAME TO page",
        *lexical.CREATE[1:],
        "CREATE TABLE region (name TEXT NOT NULL PRIMARY KEY, creator INTEGER, next INTEGER) WITHOUT ROWID",
    ):
        connection.exec_driver_sql(sql)


def _begun(connection: Connection) -> None:
    """Add where a region begins: at 0, for the pages of an earlier one of the same name are gone from the file."""
    for sql in (
        "CREATE TABLE begun (name TEXT NOT NULL PRIMARY KEY, creator INTEGER, first INTEGER, next INTEGER) "
        "WITHOUT ROWID",
        "INSERT INTO begun SELECT name, creator, 0, next FROM region",
        "DROP TABLE region",
        "ALTER TABLE begun RENAME TO region",
    ):
        connection.exec_driver_sql(sql)


#: The n-th makes version n + 2 of version n + 1. Append only; each is SQL text, for the schema it knew will change.
STEPS: tuple[Step, ...] = (_archive, _words, _shared, _begun)


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Bring the file to version 1 + len(steps), all or nothing; raises StoreError if it is newer or not ours."""
    newest = 1 + len(steps)
    version = _version(connection, newest)
    if version < newest:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            if version:
                for step in steps[version - 1 :]:
                    step(connection)
            else:
                METADATA.create_all(connection)
                for sql in lexical.CREATE:
                    connection.exec_driver_sql(sql)
            connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION}")
            connection.exec_driver_sql(f"PRAGMA user_version = {newest}")
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            connection.connection.rollback()
            raise
    _compare(connection)


def _version(connection: Connection, newest: int) -> int:
    """Give the version of the file, 0 for an empty one."""
    if not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
        return 0
    if connection.exec_driver_sql("PRAGMA application_id").scalar_one() != _APPLICATION:
        raise StoreError("it is a database of another program: choose another state directory")
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    if version > newest:
        raise StoreError(
            f"it was written by a newer tokix (schema {version}, this one knows {newest}): "
            "install that version again, or choose another state directory"
        )
    return version


def _compare(connection: Connection) -> None:
    """Raise if the columns are not those of today, which means that `TABLES` changed without a step here."""
    inspector = inspect(connection)
    for name, table in METADATA.tables.items():
        wanted = list(table.columns.keys())
        found = [column["name"] for column in inspector.get_columns(name)] if inspector.has_table(name) else []
        if found != wanted:
            raise StoreError(
                f"table {name!r} has the columns {found} and not {wanted}: "
                "use the version of tokix that wrote it, or choose another state directory"
            )
