"""A file of an older tokix becomes one of today, or stays as it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from stores import change, opened, put, refusal, row
from tokix.storage.migrations import STEPS, migrate
from tokix.storage.sqlite import _connected

NEWEST = 1 + len(STEPS)
APPLICATION = int.from_bytes(b"tokx", "big")
#: The first version whose entries know when they were made.
TIMED = 4
#: What made the tables in each older version, as it was then.
MADE = {int(path.stem): path.read_text() for path in Path(__file__).with_name("versions").glob("*.sql")}

#: Pages by the places of their rows, between which others were deleted.
OLD = {2: "two", 5: "five"}
JOURNAL = "INSERT INTO journal (pid, epoch, seq) VALUES (1, 0, 5)"
PAGE = "INSERT INTO page (pid, space, id, message, role, tokens, text) VALUES (1, '', 0, 0, '', 0, 'a cat on a mat')"


def as_it_was(path: Path, version: int, *statements: str) -> None:
    """Make a file as an older version did, with rows in it."""
    connection = sqlite3.connect(path)
    connection.executescript(MADE[version])
    change(path, *statements, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {version}")
    connection.close()


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Give the columns of every table: names, types, and what is a key."""
    connection = sqlite3.connect(path)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type != 'index'")]
    found = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in names}
    connection.close()
    return {name: [(column, kind, key) for _, column, kind, _, _, key in rows] for name, rows in found.items()}


def test_the_tables_of_every_older_version_are_kept() -> None:
    assert sorted(MADE) == list(range(1, NEWEST))


@pytest.mark.parametrize("version", sorted(MADE))
def test_an_old_file_gets_the_tables_of_today(path: Path, tmp_path: Path, version: int) -> None:
    as_it_was(path, version, "INSERT INTO process (pid, epoch) VALUES (1, 0)", JOURNAL)
    with opened(path) as store:
        [(*key, at)] = [(*entry[:3], entry[-1]) for entry in store.load()["journal"]]
        assert (key, at) == ([1, 0, 5], 0 if version < TIMED else None)
        store.commit(put("page", row("page", text="kept")))
        assert store.read("page", (0, "")) == [row("page", text="kept")]
        store.check()
    with opened(tmp_path / "new.db"):
        assert tables(path) == tables(tmp_path / "new.db")
    assert versions(path) == (NEWEST, APPLICATION)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_pages_of_an_older_file_are_found_by_their_words(path: Path, version: int) -> None:
    as_it_was(path, version, PAGE)
    with opened(path) as store:
        [(score, found)] = store.match("Cats?", [(1, "")], 5)
        assert (score > 0, found[-1]) == (True, "a cat on a mat")
        store.check()


def test_pages_of_an_older_file_have_no_time_and_keep_their_places_in_the_index(path: Path) -> None:
    columns = "INSERT INTO page (rowid, pid, space, id, message, role, tokens, text)"
    rows = [f"{columns} VALUES ({place}, 1, '', {place}, 1, 'user', 3, 'page {word}')" for place, word in OLD.items()]
    as_it_was(path, 3, *rows)
    with opened(path) as store:
        store.check()
        assert [(r[2], *r[-2:]) for r in store.read("page", (1,))] == [
            (n, 0, f"page {word}") for n, word in OLD.items()
        ]
        for place, word in OLD.items():
            assert [r[2] for _, r in store.match(word, [(1, "")], 5)] == [place]
        store.commit(put("page", row("page", pid=1, space="", id=9, text="page nine")))
        store.check()
        assert [r[2] for _, r in store.match("nine", [(1, "")], 5)] == [9]


def test_a_region_of_an_older_file_is_kept(path: Path) -> None:
    as_it_was(path, 4, "INSERT INTO region VALUES ('facts', 3, 9)")
    with opened(path) as store:
        assert store.load()["region"] == [("facts", 3, 0, 9)]


def versions(path: Path) -> tuple[int, int]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT user_version, application_id FROM pragma_user_version, pragma_application_id")
    pair = found.fetchone()
    connection.close()
    return (pair[0], pair[1])


def test_migrations_run_in_order_once(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("kernel", row("kernel", name="n", value="1")))
    assert versions(path) == (NEWEST, APPLICATION)
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
