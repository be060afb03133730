"""A store with a key: nothing of it can be read without the key, and a key that does not fit changes nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stores import KEY, change, opened, put, python, refusal, row
from tokix.storage import SqliteStore, StoreError, cipher, glance

pytest.importorskip("sqlcipher3")

OTHER = KEY[::-1]
PASSPHRASE = "it's \"a\"; DROP TABLE page; -- naïve x'"
#: A word that is in every kind of column, and in the index of words.
WORD = "walrus"
TEXT = f"the {WORD} and the carpenter"


def plain(folder: Path, word: str = WORD) -> list[str]:
    """Name the files in which the word can be read."""
    spellings = [word.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(spelling in path.read_bytes() for spelling in spellings)]


def fill(store: SqliteStore) -> None:
    store.commit(put("process", row("process", pid=1, program=WORD, args=f'["{WORD}"]')))
    store.commit(put("journal", row("journal", pid=1, call=TEXT, value=TEXT * 1000)))
    store.commit(put("message", *(row("message", seq=n, body=TEXT) for n in range(500))))
    store.commit(put("page", *(row("page", pid=1, space="", id=n, text=TEXT) for n in range(500))))
    store.commit(put("vector", row("vector", pid=1, space="", id=0, data=WORD.encode())))


@pytest.fixture
def filled(path: Path) -> Path:
    """An encrypted file that a kill has left, with most of its rows in the log."""
    with python(f"from test_encrypted_store import *; killed(Path({str(path)!r}))", **ours()) as child:
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert path.with_name("tokix.db-wal").stat().st_size > 50_000
    return path


def ours() -> dict[str, dict[str, str]]:
    """Let a child find this module."""
    return {"env": {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}}


def killed(path: Path) -> None:
    store = SqliteStore(path, key=KEY)
    fill(store)
    os.kill(os.getpid(), signal.SIGKILL)


# ---- what can be read


@pytest.mark.parametrize("key", [KEY, PASSPHRASE])
def test_nothing_can_be_read_while_it_is_open_nor_afterwards(path: Path, key: str) -> None:
    with opened(path, key) as store:
        fill(store)
        assert {"tokix.db", "tokix.db-wal"} <= {file.name for file in path.parent.iterdir()}
        assert plain(path.parent) == []
        assert len(store.match(f"a {WORD}?", [(1, "")], 3)) == 3
        store.check()
    assert plain(path.parent) == []
    with opened(path, key) as store:
        assert len(store.load()["message"]) == 500
    with opened(path.with_name("plain") / "tokix.db") as store:
        fill(store)
        assert plain(path.parent) == ["tokix.db-wal"], "the test would see it"
    assert plain(path.parent) == ["tokix.db"]


def test_nothing_can_be_read_after_a_kill_and_nothing_is_lost(filled: Path) -> None:
    assert plain(filled.parent) == []
    with opened(filled, KEY) as store:
        store.check()
        assert len(store.load()["message"]) == 500
        assert len(store.match(WORD, [(1, "")], 600)) == 500


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_deleted_is_overwritten(path: Path, key: str | None) -> None:
    with opened(path, key) as store:
        assert store._raw.execute("PRAGMA secure_delete").fetchone() == (1,)  # SQLCipher's file cannot be looked into
        fill(store)
        store.commit({table: {(1,): None} for table in ("page", "vector")})
        store.commit({"process": {(1,): None}, "message": {(n,): None for n in range(500)}})
        store.commit(put("journal", row("journal", pid=1, call='forget{"page":0}')))
        store.rebuild_words()
    assert plain(path.parent) == []


def test_temporary_tables_stay_in_memory(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sort of 20 MB, with a folder for temporary files in which none can be made."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path / "none"))
    with opened(path, KEY) as store:
        assert store._raw.execute("PRAGMA temp_store").fetchone() == (2,)
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
        rows = store._raw.execute(f"{many} SELECT hex(randomblob(500)) AS text FROM n ORDER BY text").fetchall()
        assert rows == sorted(rows)


def test_sqlcipher_itself_can_open_it_with_the_passphrase(path: Path) -> None:
    with opened(path, PASSPHRASE) as store:
        fill(store)
    with closing(cipher.driver(KEY).connect(str(path))) as other:
        quoted = PASSPHRASE.replace("'", "''")
        other.execute(f"PRAGMA key = '{quoted}'")
        assert other.execute("SELECT count(*) FROM message").fetchone() == (500,)


def test_equal_stores_with_equal_passphrases_are_different_files(tmp_path: Path) -> None:
    for name in "ab":
        with opened(tmp_path / name / "tokix.db", PASSPHRASE):
            pass
    first, second = ((tmp_path / name / "tokix.db").read_bytes() for name in "ab")
    assert first[:16] != second[:16]
    assert first[16:32] != second[16:32]


# ---- keys that do not fit


def test_a_key_that_does_not_fit_changes_nothing(filled: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = filled.with_name("tokix.db-wal")
    before = filled.read_bytes(), log.read_bytes()
    for key in (OTHER, PASSPHRASE, KEY + "0", "x'" + KEY + "'0"):
        assert "the key does not fit" in refusal(filled, key)
        assert glance.outcomes(filled, key) == 0
    assert "it is encrypted; if so, give its key with --key-file FILE" in refusal(filled)
    assert glance.outcomes(filled) == 0
    assert "the key is empty" in refusal(filled, "")
    assert capfd.readouterr() == ("", ""), "SQLCipher says nothing of its own"
    assert (filled.read_bytes(), log.read_bytes()) == before
    assert glance.outcomes(filled, KEY) == 1
    with opened(filled, KEY) as store:
        assert len(store.load()["message"]) == 500


def test_a_key_for_a_plain_file(path: Path) -> None:
    with opened(path) as store:
        fill(store)
    assert "the file is not encrypted; leave the key out" in refusal(path, KEY)
    assert glance.outcomes(path, KEY) == 0
    with opened(path) as store:
        assert len(store.load()["message"]) == 500


def test_other_files_and_a_key(path: Path) -> None:
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    assert "not encrypted" in refusal(path, KEY)
    path.write_text("Dear diary,\n" * 1000)
    assert "the key does not fit, or the beginning of the file is damaged" in refusal(path, KEY)
    path.write_text("short")
    refusal(path, KEY)


def test_no_sqlcipher(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlcipher3", None)
    assert "pip install 'tokix[encryption]'" in refusal(path, KEY)
    assert not path.exists()
    assert glance.unfinished(path, KEY) == (None, ())
    with opened(path) as store:
        fill(store)


# ---- what is damaged


@pytest.fixture
def closed(path: Path) -> Path:
    with opened(path, KEY) as store:
        fill(store)
    return path


def spoil(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_one_bit_anywhere_is_noticed(closed: Path) -> None:
    pages = closed.stat().st_size // 4096
    noticed = 0
    for page in range(1, pages):
        spoil(closed, 4096 * page + 1000)
        with pytest.raises(StoreError), opened(closed, KEY) as store:
            store.check()
        spoil(closed, 4096 * page + 1000)
        noticed += 1
    assert noticed == pages - 1 > 40
    with opened(closed, KEY) as store:
        store.check()


@pytest.mark.parametrize("place", [3, 20, 2000])
def test_a_damaged_beginning(closed: Path, place: int) -> None:
    spoil(closed, place)
    assert "the beginning of the file is damaged" in refusal(closed, KEY)
    spoil(closed, place)
    with opened(closed, KEY) as store:
        store.check()


def test_errors_of_both_drivers_are_of_the_store(path: Path) -> None:
    with opened(path, KEY) as store:
        store._raw.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StoreError, match="make room") as caught:
            store.commit(put("message", *(row("message", seq=n, body=str(n) * 1000) for n in range(300))))
        assert isinstance(caught.value.__cause__, cipher.errors())
        assert not isinstance(caught.value.__cause__, sqlite3.Error)
        assert store.load()["message"] == []
    with pytest.raises(StoreError, match="closed"):
        store.load()


def test_a_first_page_that_is_cut_but_in_the_log_too(filled: Path) -> None:
    """As a loss of power can leave it in the middle of a checkpoint."""
    spoil(filled, 2000)
    before = filled.read_bytes()
    assert "the key does not fit" in refusal(filled, OTHER)
    assert filled.read_bytes() == before
    with opened(filled, KEY) as store:
        store.check()
        assert len(store.load()["message"]) == 500


def test_a_file_whose_making_was_cut_short(path: Path) -> None:
    """A kill in the first transaction leaves a journal: who opens it next begins anew."""
    code = "import sys; sys.path.insert(0, sys.argv[2]); from test_encrypted_store import *; unborn(Path(sys.argv[1]))"
    with python(code, path, Path(__file__).parent) as child:
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert path.stat().st_size
    assert path.with_name("tokix.db-journal").stat().st_size
    for key in (KEY, PASSPHRASE):
        with opened(path.with_name("tokix.db"), key) as store:
            fill(store)
            store.check()
        path.unlink()


def unborn(path: Path) -> None:
    """Die when the first pages of a new file are written, and not yet its own."""
    raw = cipher.connect(path, KEY)
    raw.execute("PRAGMA cache_size = 1")
    raw.execute("BEGIN")
    for n in range(30):
        raw.execute(f"CREATE TABLE t{n} (x)")
        raw.execute(f"INSERT INTO t{n} VALUES (zeroblob(9000))")
    os.kill(os.getpid(), signal.SIGKILL)
