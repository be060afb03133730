"""A file that is no store, or is not sound, is refused, and left as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stores import change, opened, put, refusal, row
from tokix.storage import StoreError


def test_not_a_database(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)
    assert "not a database" in refusal(path)


def test_database_of_another_program(path: Path) -> None:
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    assert "another program" in refusal(path)


def test_path_is_a_folder(path: Path) -> None:
    path.mkdir()
    assert "unable to open" in refusal(path)


def test_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in refusal(tmp_path / "file" / "tokix.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    assert "Permission denied" in refusal(folder / "tokix.db")


def test_newer_version(path: Path) -> None:
    with opened(path):
        pass
    change(path, "PRAGMA user_version = 99")
    assert "newer tokix (schema 99" in refusal(path)


def test_tables_that_changed_without_a_migration(path: Path) -> None:
    with opened(path):
        pass
    change(path, "ALTER TABLE message ADD COLUMN colour TEXT")
    assert "table 'message' has the columns" in refusal(path)


def test_damaged_file(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("message", *(row("message", seq=n, body="x" * 1000) for n in range(1000))))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(b"\xff" * (size - 4096 * 20))
    with opened(path) as store:
        with pytest.raises(StoreError, match="damaged"):
            store.check()
        with pytest.raises(StoreError, match=r"malformed.*recover"):
            store.load()


def test_file_cut_short(path: Path) -> None:
    with opened(path):
        pass
    os.truncate(path, 4096 + 100)
    assert "malformed" in refusal(path)
