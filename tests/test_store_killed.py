"""A store that is killed, or cannot write, has whole commits."""

from __future__ import annotations

import random
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stores import opened, put, python, row, total
from tokix.storage import SqliteStore, StoreError

WORKER = """
import os, resource, signal, sys
from pathlib import Path
from tokix.kernel.ports import TABLES
from tokix.storage import SqliteStore

def rows(n):
    '''The n-th commit: new rows, an overwritten one, deleted ones, and large text.'''
    process = tuple({int: 1, str: "", float: 0.0}[kind] for kind in TABLES["process"].columns.values())
    reaped = list(TABLES["process"].columns).index("reaped")
    process = process[:reaped] + (0,) + process[reaped + 1:]
    entries = {(1, 0, 4 * n + i): str(n) * (1 + 3000 * i) for i in range(4)}
    return {
        "process": {(1,): process},
        "journal": {key: (*key, "p", "c" * 500, 1, value, 0.5) for key, value in entries.items()},
        "message": {(n,): (n, 1, "id", 1, "", ""), (n - 1,): None},
        "kernel": {("n",): ("n", str(n))},
    }

def work(path):
    '''Commit for ever, and tell each.'''
    store, n = SqliteStore(Path(path)), 0
    while True:
        n += 1
        store.commit(rows(n))
        print(n, flush=True)

def die_at(folder, n):
    '''Commit, and be killed by the system in the write that passes n bytes: of the file, its log or its index.'''
    if os.fork() == 0:
        store = SqliteStore(Path(folder, "tokix.db"))
        store.commit(rows(1))
        if n % 2:
            # Checkpoint often, so that it is the file that grows and not the log.
            store._raw.execute("PRAGMA wal_autocheckpoint = 20")
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
        for n in range(2, 1000):
            store.commit(rows(n))
        os._exit(0)
    assert os.WTERMSIG(os.wait()[1]) == signal.SIGXFSZ
"""


def assert_whole_commits(path: Path, least: int) -> None:
    """Check that the file is sound and has the commits 1 to n of WORKER, n >= least, and nothing of a later one."""
    with opened(path) as store:
        store.check()
        loaded = store.load()
        n = int(dict(loaded["kernel"])["n"])
        assert n >= least
        assert [r[2] for r in loaded["journal"]] == list(range(4, 4 * n + 4))
        assert [r[6] for r in loaded["journal"][-4:]] == [str(n) * (1 + 3000 * i) for i in range(4)]
        assert [r[0] for r in loaded["message"]] == [n]


@pytest.mark.parametrize("after", [1, 3, 10, 40, 300])
def test_sigkill_leaves_whole_commits(path: Path, after: int) -> None:
    with python(WORKER + "work(sys.argv[1])", path) as child:
        assert child.stdout is not None
        for _ in range(after):
            told = int(child.stdout.readline())
        child.kill()
        rest = child.stdout.read().split("\n")[:-1]
        assert child.wait() == -signal.SIGKILL
    assert_whole_commits(path, int(rest[-1]) if rest else told)


def test_death_inside_any_write_leaves_whole_commits(tmp_path: Path) -> None:
    generator = random.Random(1)
    limits = [generator.randrange(32768 + 60_000, 1_000_000) for _ in range(40)]
    folders = [tmp_path / str(limit) for limit in limits]
    code = WORKER + "for folder in sys.argv[1:]: die_at(folder, int(Path(folder).name))"
    with python(code, *folders) as child:
        child.communicate()
    assert child.returncode == 0
    for folder in folders:
        assert_whole_commits(folder / "tokix.db", 1)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Make writes after the first `size` bytes of any file fail, as on a full disk; Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 20, 24, 1000, 4096 + 24, 9000, 30000, 60000])
def test_a_failed_write_changes_nothing(path: Path, room: int) -> None:
    store = SqliteStore(path)
    store.commit(put("kernel", row("kernel", name="a", value="1")))
    before = store.load()
    new = put("message", *(row("message", seq=n, body=str(n) * 1000) for n in range(30)))
    with no_file_longer_than(path.with_name("tokix.db-wal").stat().st_size + room):
        with pytest.raises(StoreError, match=r"cannot commit to .*tokix\.db: .*disk") as caught:
            store.commit(new)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert store.load() == before
    store.close()
    with opened(path) as store:
        store.check()
        assert store.load() == before
        store.commit(new)
        assert len(store.load()["message"]) == 30


def test_a_full_file_changes_nothing(path: Path) -> None:
    store = SqliteStore(path)
    store._raw.execute("PRAGMA max_page_count = 40")
    with pytest.raises(StoreError, match="make room"):
        store.commit(put("message", *(row("message", seq=n, body=str(n) * 1000) for n in range(300))))
    assert total(store) == 0
    store.close()
    assert not path.with_name("tokix.db-wal").exists()


def test_a_busy_file(path: Path) -> None:
    store, other = SqliteStore(path), sqlite3.connect(path, isolation_level=None)
    store._raw.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program writes to the file"):
        store.commit(put("signal", row("signal", pid=1)))
    other.close()
    store.commit(put("signal", row("signal", pid=1)))
    store.close()


def test_use_after_close(path: Path) -> None:
    store = SqliteStore(path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.load()
    with pytest.raises(StoreError, match="closed"):
        store.commit(put("signal", row("signal", pid=1)))
