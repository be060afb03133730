"""What is in the file of a store, and beside it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from stores import LIMIT, change, opened, put, row
from tokix import cli
from tokix.storage import SqliteStore, StoreError


def pragma(store: SqliteStore, name: str) -> Any:
    return store._raw.execute(f"PRAGMA {name}").fetchone()[0]


def test_durable_sets_the_pragma(path: Path) -> None:
    for durable, synchronous in (("process", 1), ("power", 2)):
        store = SqliteStore(path, durable)  # type: ignore[arg-type]
        assert (pragma(store, "synchronous"), pragma(store, "journal_mode")) == (synchronous, "wal")
        store.close()


def test_close_leaves_one_file_and_the_lock(path: Path) -> None:
    for letter in "ab":
        with opened(path) as store:
            store.commit(put("message", *(row("message", seq=n, body=letter * 100) for n in range(1000))))
            assert path.with_name("tokix.db-wal").stat().st_size > 100_000
    assert {file.name for file in path.parent.iterdir()} == {"tokix.db", "kernel.lock"}
    assert (path.parent / "kernel.lock").read_text() == str(os.getpid())


def test_the_folder_is_made_and_private(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b" / "tokix.db"):
        assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0


def blobs(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    texts = [text for (text,) in connection.execute("SELECT text FROM blob ORDER BY text")]
    connection.close()
    return texts


def test_equal_text_is_stored_once(path: Path) -> None:
    large, other = "a" * (LIMIT + 1), "b" * (LIMIT + 1)
    with opened(path) as store:
        store.commit(put("process", *(row("process", pid=pid) for pid in (1, 2))))
        store.commit(put("journal", *(row("journal", pid=pid, call=large, value=other) for pid in (1, 2))))
        store.commit(put("message", row("message", body=large), row("message", seq=1, body="c" * LIMIT)))
        loaded = store.load()
        assert loaded["journal"][0][6] is loaded["journal"][1][6], "and held once in memory"
        assert store._raw.execute("SELECT max(length(call)), max(length(value)) FROM journal").fetchone() == (32, 32)
    assert blobs(path) == [large, other]


def test_unreferenced_text_is_collected_at_open(path: Path) -> None:
    texts = [letter * 5000 for letter in "abcd"]
    with opened(path) as store:
        store.commit(put("message", *(row("message", seq=n, body=text) for n, text in enumerate(texts))))
        store.commit(put("process", row("process", pid=1, image=texts[0], reaped=1)))
        store.commit({"message": {(0,): None, (1,): None, (2,): row("message", seq=2, body="c")}})
    assert blobs(path) == texts
    with opened(path) as store:
        store.check()
        assert store.dead() == [row("process", pid=1, image=texts[0], reaped=1)]
    assert blobs(path) == [texts[0], texts[3]], "the reaped one still has its image"


def test_text_that_looks_like_a_reference(path: Path) -> None:
    large = "a" * 5000
    with opened(path) as store:
        store.commit(put("message", row("message", seq=1, body=large)))
        (reference,) = store._raw.execute("SELECT body FROM message").fetchone()
        copies = [reference.hex(), reference.decode("latin-1"), str(reference), f"x'{reference.hex()}'"]
        store.commit(put("message", *(row("message", seq=n, body=text) for n, text in enumerate(copies, 2))))
        assert [r[5] for r in store.load()["message"]] == [large, *copies]


def test_missing_text_is_noticed(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("message", row("message", body="a" * 5000)))
    change(path, "DELETE FROM blob")
    with opened(path) as store:
        with pytest.raises(StoreError, match="restore a copy"):
            store.load()
        with pytest.raises(StoreError, match="restore a copy"):
            store.check()


def test_an_index_of_words_that_is_not_that_of_the_pages_is_noticed_and_can_be_made_anew(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("page", row("page", pid=1, space="", id=0, text="a cat")))
    change(path, "DROP TRIGGER page_change", "UPDATE page SET text = 'a dog'")
    with (
        opened(path) as store,
        pytest.raises(StoreError, match="the index of words is not that of the pages") as caught,
    ):
        store.check()
    command = str(caught.value).partition("`tokix ")[2].partition("`")[0]
    assert cli.main([*command.split(), "--state", str(path.parent)]) == 0
    with opened(path) as store:
        store.check()
        assert len(store.match("dogs", [(1, "")], 5)) == 1
