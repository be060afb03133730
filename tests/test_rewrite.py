"""A store is encrypted, decrypted, or gets another key: whole, or not at all, whenever it is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from stores import KEY, opened, put, python, row
from tokix.kernel.ports import TABLES
from tokix.storage import SqliteStore, StoreError
from tokix.storage.cipher import encrypted
from tokix.storage.rewrite import rewrite
from tokix.storage.sqlite import beside

pytest.importorskip("sqlcipher3")

WORDS = "correct horse"
CHANGES = [(None, KEY), (KEY, WORDS), (WORDS, None)]

WORKER = """
import os, resource, shutil, signal, sys
from pathlib import Path
from tokix.storage import SqliteStore, rewrite

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def mortal(owner, name, when, n, counted=[0]):
    '''Die before or after the n-th call of all that are mortal.'''
    original = getattr(owner, name)
    def call(*args, **more):
        counted[0] += 1
        if (counted[0], when) == (n, "before"):
            die()
        done = original(*args, **more)
        if (counted[0], when) == (n, "after"):
            die()
        return done
    setattr(owner, name, call)

path, old, new, when, n = Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3] or None, sys.argv[4], int(sys.argv[5])
if when == "size":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
for owner, name in [
    (SqliteStore, "__init__"), (SqliteStore, "settle"), (SqliteStore, "take"), (SqliteStore, "check"),
    (SqliteStore, "close"), (shutil, "copymode"), (os, "replace"), (os, "fsync"), (shutil, "rmtree"),
]:
    mortal(owner, name, when, n)
rewrite.rewrite(path, old, new)
"""


def fill(path: Path, key: str | None) -> None:
    with opened(path, key) as store:
        for table in TABLES:
            store.commit(put(table, *(row(table, **{key_of(table): n}) for n in range(3) if numbered(table))))
        store.commit(put("page", *(row("page", pid=1, space="", id=n, text=f"walrus {n}") for n in range(50))))
        store.commit(put("message", *(row("message", seq=n, body=f"walrus {n}" * 1000) for n in range(100))))


def key_of(table: str) -> str:
    return next(iter(TABLES[table].columns))


def numbered(table: str) -> bool:
    return next(iter(TABLES[table].columns.values())) is int


def content(path: Path, key: str | None) -> object:
    """Give all that is in a store; it has to be whole."""
    with opened(path, key) as store:
        store.check()
        rows = {table: store.read(table, ()) for table in TABLES}
        return rows, store.load(), store.match("a walrus?", [(1, "")], 60)


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_all_is_there_and_only_the_new_key_fits(path: Path, old: str | None, new: str | None) -> None:
    fill(path, old)
    before = content(path, old)
    path.chmod(0o640)
    rewrite(path, old, new)
    assert sorted(file.name for file in path.parent.iterdir()) == ["kernel.lock", "tokix.db"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert (b"walrus" in path.read_bytes()) == (new is None)
    with pytest.raises(StoreError):
        SqliteStore(path, key=old)
    assert content(path, new) == before


def test_a_log_that_a_kill_has_left_is_taken_along(path: Path) -> None:
    code = "import os, sys; sys.path.insert(0, sys.argv[2]); from test_rewrite import *; left(Path(sys.argv[1]))"
    with python(code, path, Path(__file__).parent) as child:
        child.communicate()
    assert path.with_name("tokix.db-wal").stat().st_size > 0
    rewrite(path, None, KEY)
    with opened(path, KEY) as store:
        assert store.load()["kernel"] == [("name", "value")]
    assert not path.with_name("tokix.db-wal").exists()


def left(path: Path) -> None:
    store = SqliteStore(path)
    store.commit({"kernel": {("name",): ("name", "value")}})
    os.kill(os.getpid(), signal.SIGKILL)


def survivor(path: Path, keys: list[str | None]) -> str | None:
    """Give the one key that fits what a kill has left."""
    fitting = []
    for key in keys:
        try:
            SqliteStore(path, key=key).close()
            fitting.append(key)
        except StoreError:
            pass
    [only] = fitting
    return only


def killed(path: Path, old: str | None, new: str | None, when: str, n: int) -> bool:
    with python(WORKER, path, old or "", new or "", when, n) as child:
        child.communicate()
    assert child.returncode in (0, -signal.SIGKILL, -signal.SIGXFSZ)
    return child.returncode != 0


@pytest.mark.parametrize(("old", "new"), [CHANGES[0], (KEY, None)])
def test_a_kill_at_any_step_leaves_one_whole_store(tmp_path: Path, old: str | None, new: str | None) -> None:
    left = []
    for n in range(1, 100):
        path = tmp_path / str(n) / "tokix.db"
        fill(path, old)
        before = content(path, old)
        died = killed(path, old, new, "before" if n % 2 else "after", n)
        key = survivor(path, [old, new])
        assert content(path, key) == before
        assert not beside(path).exists(), "nor is anything left of a copy"
        if key is not None:
            assert not any(b"walrus" in file.read_bytes() for file in path.parent.iterdir())
        left.append(key)
        if not died:
            break
    assert left == sorted(left, key=[old, new].index), "there is one moment"
    assert set(left) == {old, new}
    assert len(left) > 12


@pytest.mark.parametrize("size", [5000, 40_000, 100_000, 170_000, 250_000])
def test_a_kill_inside_a_write_leaves_the_old_store(path: Path, size: int) -> None:
    fill(path, KEY)
    before = content(path, KEY)
    assert killed(path, KEY, None, "size", size)
    assert content(path, KEY) == before
    assert not beside(path).exists()


def test_a_copy_that_is_not_sound_replaces_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = SqliteStore.take

    def careless(self: SqliteStore, other: SqliteStore) -> None:
        take(self, other)
        self._raw.execute("DELETE FROM blob")

    fill(path, KEY)
    before = content(path, KEY)
    monkeypatch.setattr(SqliteStore, "take", careless)
    with pytest.raises(StoreError, match="large text that is not there"):
        rewrite(path, KEY, None)
    assert content(path, KEY) == before
    assert not beside(path).exists()


def test_a_store_in_use_and_a_wrong_key(path: Path) -> None:
    fill(path, KEY)
    with opened(path, KEY), pytest.raises(StoreError, match="in use by another kernel"):
        rewrite(path, KEY, None)
    with pytest.raises(StoreError, match="the key does not fit"):
        rewrite(path, WORDS, None)
    assert sorted(file.name for file in path.parent.iterdir()) == ["kernel.lock", "tokix.db"]
    content(path, KEY)


def test_a_link_is_refused_for_another_kernel_can_have_what_it_leads_to(path: Path, tmp_path: Path) -> None:
    fill(path, None)
    link = tmp_path / "other" / "tokix.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with pytest.raises(StoreError, match=f"is a link: take the state directory that it leads to, {path.parent}"):
        rewrite(link, None, KEY)
    assert link.is_symlink()
    assert not encrypted(path)
