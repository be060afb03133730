"""A file of an older tokix becomes one of today, or stays as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from stores import change, opened, put, refusal, row
from tokix.storage.migrations import STEPS, migrate
from tokix.storage.sqlite import _connected

NEWEST = 1 + len(STEPS)
UNTIMED = ("ALTER TABLE journal DROP COLUMN at", "DROP TABLE region")


def test_an_old_file_gets_the_tables_of_today(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("kernel", row("kernel", name="n", value="1")))
    change(path, "DROP TABLE page", "DROP TABLE page_text", "DROP TABLE vector", *UNTIMED, "PRAGMA user_version = 1")
    with opened(path) as store:
        assert versions(path)[0] == NEWEST
        assert store.load()["kernel"] == [("n", "1")]
        store.commit(put("page", row("page", text="kept")))
        assert store.read("page", (0, "")) == [row("page", text="kept")]
        store.check()


def test_pages_of_an_older_file_are_found_by_their_words(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("page", row("page", pid=1, space="", id=0, text="a cat on a mat")))
    triggers = [f"DROP TRIGGER page_{name}" for name in ("put", "drop", "change")]
    untimed = (*UNTIMED, "ALTER TABLE page DROP COLUMN at")
    change(path, *triggers, "DROP TABLE page_text", *untimed, "PRAGMA user_version = 2")
    with opened(path) as store:
        [(score, found)] = store.match("Cats?", [(1, "")], 5)
        assert (score > 0, found[-1]) == (True, "a cat on a mat")
        store.check()


def versions(path: Path) -> tuple[int, int]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT user_version, application_id FROM pragma_user_version, pragma_application_id")
    pair = found.fetchone()
    connection.close()
    return (pair[0], pair[1])


def test_migrations_run_in_order_once(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("kernel", row("kernel", name="n", value="1")))
    assert versions(path) == (NEWEST, int.from_bytes(b"tokx", "big"))
    steps = [
        lambda c: c.exec_driver_sql("UPDATE kernel SET value = value + 1"),
        lambda c: c.exec_driver_sql("UPDATE kernel SET value = value * 10"),
        lambda c: c.exec_driver_sql("CREATE TABLE extra (a INTEGER)"),
    ]
    for known, value in ((0, "1"), (1, "2"), (1, "2"), (3, "20"), (3, "20")):
        with _connected(path) as connection:
            migrate(connection, [*STEPS, *steps[:known]])
            assert connection.exec_driver_sql("SELECT value FROM kernel").scalar_one() == value
        assert versions(path)[0] == NEWEST + known
    assert f"newer tokix (schema {NEWEST + 3}, this one knows {NEWEST})" in refusal(path)


def test_a_new_file_has_the_newest_version(path: Path) -> None:
    def never(connection: object) -> None:
        raise AssertionError("a new file needs no migration")

    with _connected(path) as connection:
        migrate(connection, [never])
    assert versions(path)[0] == 2


def test_a_failed_migration_changes_nothing(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("kernel", row("kernel", name="n", value="1")))

    def fail(connection: object) -> None:
        raise ZeroDivisionError

    with _connected(path) as connection:
        with pytest.raises(ZeroDivisionError):
            migrate(connection, [*STEPS, lambda c: c.exec_driver_sql("DROP TABLE kernel"), fail])
        assert connection.exec_driver_sql("SELECT count(*) FROM kernel").scalar_one() == 1
    assert versions(path)[0] == NEWEST
    with opened(path) as store:
        assert store.load()["kernel"] == [("n", "1")]
