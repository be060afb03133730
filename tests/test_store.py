"""What a Store promises, asked of both stores; and of the SQLite one, what it does when it is killed or refused."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokix.kernel.ports import ARCHIVE, TABLES, Key, Scalar, Store
from tokix.storage import MemoryStore, SqliteStore, StoreError
from tokix.storage.migrations import STEPS, migrate
from tokix.storage.sqlite import _connected

LIMIT = 4096
DEFAULTS: dict[type, Scalar] = {int: 0, str: "", float: 0.0, bytes: b""}
OTHERS: dict[type, Scalar] = {int: 7, str: "text", float: 0.1, bytes: b"\x00\xff"}
#: Those that a kernel loads.
LOADED = [table for table in TABLES if table not in ARCHIVE]

Reopen = Callable[[], Store]
Row = tuple[Scalar, ...]


def row(table: str, **values: Scalar) -> Row:
    columns = TABLES[table].columns
    assert values.keys() <= columns.keys()
    return tuple(values.get(name, DEFAULTS[kind]) for name, kind in columns.items())


def put(table: str, *rows: Row) -> dict[str, dict[Key, Row | None]]:
    return {table: {r[: TABLES[table].keys]: r for r in rows}}


def total(store: Store) -> int:
    return sum(map(len, store.load().values()))


@pytest.fixture(params=["memory", "process", "power"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Give a function that opens the store, closing it first where it is open."""
    stores: list[Store] = [MemoryStore()]

    def again() -> Store:
        stores[-1].close()
        if request.param != "memory":
            stores.append(SqliteStore(tmp_path / "state" / "tokix.db", request.param))
        return stores[-1]

    yield again
    stores[-1].close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokix.db"


@contextmanager
def opened(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(path)
    try:
        yield store
    finally:
        store.close()


# ---- both stores


def test_new_store_is_empty(reopen: Reopen) -> None:
    assert reopen().load() == {table: [] for table in LOADED}
    assert reopen().dead() == []


@pytest.mark.parametrize("table", TABLES)
def test_rows_come_back(reopen: Reopen, table: str) -> None:
    kinds = list(TABLES[table].columns.values())
    first = row(table)
    second = tuple(OTHERS[kind] for kind in kinds)
    store = reopen()
    if table == "journal":
        store.commit(put("process", row("process", pid=0), row("process", pid=7)))
    store.commit(put(table, second, first))
    for _ in range(2):
        loaded = store.read(table, ()) if table in ARCHIVE else store.load()[table]
        assert loaded == [first, second], "in the order of the keys"
        assert all(type(r) is tuple and list(map(type, r)) == kinds for r in loaded)
        store = reopen()


def test_none_in_any_column_but_the_key(reopen: Reopen) -> None:
    for table, (keys, columns) in TABLES.items():
        if table == "journal":
            continue
        empty = row(table)[:keys] + (None,) * (len(columns) - keys)
        reopen().commit(put(table, empty))
        assert reopen().read(table, ()) == [empty]
        with pytest.raises(StoreError):
            reopen().commit(put(table, (None,) * len(columns)))


def test_overwrite(reopen: Reopen) -> None:
    reopen().commit(put("kernel", row("kernel", name="a", value="1"), row("kernel", name="b", value="2")))
    reopen().commit(put("kernel", row("kernel", name="a", value="3")))
    assert reopen().load()["kernel"] == [("a", "3"), ("b", "2")]


def test_delete(reopen: Reopen) -> None:
    reopen().commit(put("chunk", *(row("chunk", stream="tty", offset=n) for n in range(4))))
    reopen().commit({"chunk": {("tty", 1): None, ("tty", 3): None}})
    assert [r[:2] for r in reopen().load()["chunk"]] == [("tty", 0), ("tty", 2)]


def test_delete_of_a_missing_key(reopen: Reopen) -> None:
    store = reopen()
    store.commit({"chunk": {("tty", 1): None}, "process": {(5,): None}})
    assert total(store) == 0


def test_delete_and_put_in_one_commit(reopen: Reopen) -> None:
    store = reopen()
    store.commit(put("message", row("message", seq=1), row("message", seq=2)))
    store.commit({"message": {(1,): None, (2,): row("message", seq=2, body="new"), (3,): row("message", seq=3)}})
    assert store.load()["message"] == [row("message", seq=2, body="new"), row("message", seq=3)]


def test_nothing_to_commit(reopen: Reopen) -> None:
    store = reopen()
    store.commit({})
    store.commit({"journal": {}, "message": {}})
    assert total(store) == 0


def test_closing_twice(reopen: Reopen) -> None:
    store = reopen()
    store.close()
    store.close()


BAD: dict[str, Any] = {
    "no such table": {"jornal": {(1,): (1,)}},
    "too few columns": {"kernel": {("a",): ("a",)}},
    "too many columns": {"kernel": {("a",): ("a", "b", "c")}},
    "empty": {"kernel": {("a",): ()}},
    "another key": {"kernel": {("a",): ("b", "1")}},
    "int for text": {"kernel": {("a",): ("a", 1)}},
    "text for int": {"signal": {("1",): ("1", "")}},
    "bool for int": {"journal": {(1, 0, 1): row("journal", pid=1, seq=1, ok=True)}},
    "int for float": {"process": {(1,): row("process", pid=1, born=3)}},
    "NaN": {"process": {(1,): row("process", pid=1, born=float("nan"))}},
    "bytes": {"kernel": {("a",): ("a", b"\x00" * 32)}},
    "structure": {"kernel": {("a",): ("a", ["b"])}},
    "None in the key": {"chunk": {("tty", None): row("chunk", stream="tty", offset=None)}},
    "key too short": {"chunk": {(): None}},
    "key too short for a row": {"chunk": {("tty",): row("chunk", stream="tty")}},
    "key of another type": {"signal": {("1",): None}},
    "65 bits": {"signal": {(2**63,): (2**63, "")}},
    "65 bits, negative": {"signal": {(-(2**63) - 1,): (-(2**63) - 1, "")}},
    "lone surrogate": {"kernel": {("a",): ("a", "\ud800")}},
    "lone surrogate in the key": {"kernel": {("\udfff",): None}},
    "lone surrogate in large text": {"message": {(1,): row("message", seq=1, body="x" * LIMIT + "\udc80")}},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("bad_first", [False, True])
def test_all_or_nothing(reopen: Reopen, bad: dict[str, Any], bad_first: bool) -> None:
    store = reopen()
    store.commit(put("stream", row("stream", name="tty", note="1")))
    before = store.load()
    good = put("stream", ("tty", "2")) | put("partial", ("k", 0, "x" * 9000))
    with pytest.raises(StoreError):
        store.commit({**bad, **good} if bad_first else {**good, **bad})
    assert store.load() == before
    store.commit(good)
    after = store.load()
    assert reopen().load() == after != before


TEXTS = {
    "empty": "",
    "NaN": "NaN",
    "numbers": "1e999",
    "NUL": "a\x00b",
    "quotes": "'; DROP TABLE kernel; --\"`",
    "line ends": "\r\n\u2028\x85",
    "all planes": "\x7f\u0080\u07ff\ud7ff\ue000\uffff\U00010000\U0010ffff",
    "not normalised": "e\u0301 \u00e9",
    "beginning of a file": "\ufeffa",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("times", [1, LIMIT + 1])
def test_text_comes_back(reopen: Reopen, text: str, times: int) -> None:
    rows = {**put("kernel", row("kernel", name=text, value=text * times))}
    rows |= put("chunk", row("chunk", stream=text, text=text * times))
    reopen().commit(rows)
    loaded = reopen().load()
    assert loaded["kernel"] == [(text, text * times)]
    assert loaded["chunk"] == [row("chunk", stream=text, text=text * times)]


def test_keys_are_in_the_order_of_code_points(reopen: Reopen) -> None:
    names = ["", "A", "Z", "a", "aa", "é", "\uffff", "\U00010000"]
    reopen().commit(put("stream", *(row("stream", name=name) for name in reversed(names))))
    assert [r[0] for r in reopen().load()["stream"]] == names


def test_numbers_come_back(reopen: Reopen) -> None:
    ints = [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1]
    floats = [float("-inf"), 0.0, 5e-324, 1763780000.123456, 1.7976931348623157e308]
    both = zip(ints, floats, strict=True)
    reopen().commit(put("process", *(row("process", pid=i, tokens=i, born=f) for i, f in both)))
    loaded = reopen().load()["process"]
    columns = list(TABLES["process"].columns)
    assert [r[columns.index("tokens")] for r in loaded] == ints
    assert [str(r[columns.index("born")]) for r in loaded] == list(map(str, floats))


def test_large_text_comes_back(reopen: Reopen) -> None:
    large, other = "ä" * (LIMIT + 1), "b" * 1_000_000
    rows = {
        **put("process", row("process", pid=1, image=large, args=other)),
        **put("journal", row("journal", pid=1, seq=1, call=large, value=other)),
        **put("message", row("message", seq=1, body=large), row("message", seq=2, body="small")),
        **put("partial", row("partial", key="k", tokens=other)),
        **put("chunk", row("chunk", stream="tty", text="c" * LIMIT), row("chunk", stream="tty", offset=9, text=large)),
    }
    reopen().commit(rows)
    loaded = reopen().load()
    assert {table: loaded[table] for table in rows} == {table: list(rows[table].values()) for table in rows}


def test_large_text_is_overwritten(reopen: Reopen) -> None:
    for body in ("a" * 5000, "b" * 5000, "c", "d" * 5000):
        reopen().commit(put("message", row("message", seq=1, body=body)))
        assert reopen().load()["message"] == [row("message", seq=1, body=body)]


def family(pid: int, reaped: int) -> dict[str, Row]:
    """Rows of all tables that belong to a process."""
    key = f"1:0:{pid}"
    return {
        "process": row("process", pid=pid, image=str(pid) * 5000, reaped=reaped),
        "journal": row("journal", pid=pid, seq=1),
        "started": row("started", key=key, pid=pid),
        "partial": row("partial", key=key),
        "message": row("message", seq=pid, pid=pid, sender=1),
        "signal": row("signal", pid=pid),
        "chunk": row("chunk", stream="tty", offset=pid, pid=pid),
    }


def commit_all(store: Store, families: dict[int, dict[str, Row]]) -> None:
    tables = next(iter(families.values()))
    store.commit({table: put(table, *(rows[table] for rows in families.values()))[table] for table in tables})


def test_reaped_processes_are_not_loaded(reopen: Reopen) -> None:
    families = {pid: family(pid, reaped=pid % 2) for pid in range(1, 7)}
    commit_all(reopen(), families)
    loaded = reopen().load()
    for table in ("process", "journal", "started", "partial", "message", "signal"):
        assert loaded[table] == [families[pid][table] for pid in (2, 4, 6)], table
    assert len(loaded["chunk"]) == 6, "the outside may not have seen the last words of the dead"


def test_dead(reopen: Reopen) -> None:
    families = {pid: family(pid, reaped=1) for pid in (30, 4, 200)}
    commit_all(reopen(), families | {5: family(5, reaped=0)})
    assert reopen().dead() == [families[pid]["process"] for pid in (4, 30, 200)]
    reopen().commit({"process": {(30,): None}})
    assert reopen().dead() == [families[pid]["process"] for pid in (4, 200)]


def test_a_process_is_reaped_later(reopen: Reopen) -> None:
    commit_all(reopen(), {1: family(1, reaped=0)})
    assert len(reopen().load()["journal"]) == 1
    reopen().commit(put("process", row("process", pid=1, reaped=1)))
    store = reopen()
    assert store.load()["journal"] == []
    assert store.dead() == [row("process", pid=1, reaped=1)]


def test_open_business_of_nobody_is_loaded(reopen: Reopen) -> None:
    rows = {**put("started", row("started", key="k", pid=99)), **put("message", row("message", seq=1, pid=98))}
    rows |= {**put("partial", row("partial", key="without a start")), **put("signal", row("signal", pid=97))}
    reopen().commit(rows)
    assert total(reopen()) == 4


# ---- the archive: rows that stay in the store


def pages(*ids: int, pid: int = 1, space: str = "") -> dict[str, dict[Key, Row | None]]:
    return put("page", *(row("page", pid=pid, space=space, id=id, text=f"{pid}{space}{id}") for id in ids))


def found(store: Store, *prefix: Scalar, **more: Any) -> list[Scalar]:
    return [row[-1] for row in store.read("page", prefix, **more)]


def test_reading_by_the_beginning_of_a_key(reopen: Reopen) -> None:
    store = reopen()
    store.commit({"page": {**pages(3, 1, 2)["page"], **pages(1, pid=2)["page"], **pages(1, space="b")["page"]}})
    assert found(store) == ["11", "12", "13", "1b1", "21"]
    assert found(store, 1) == ["11", "12", "13", "1b1"]
    assert found(store, 1, "") == ["11", "12", "13"]
    assert found(store, 1, "", 2) == ["12"]
    assert found(store, 1, "", after=(1, "", 1), limit=1) == ["12"]
    assert found(store, 1, after=(1, "", 3)) == ["1b1"]
    assert found(store, 9) == []


def test_many_rows_are_copied_and_deleted_by_the_beginning_of_their_key(reopen: Reopen) -> None:
    store = reopen()
    store.commit({"page": {**pages(1, 2)["page"], **pages(1, space="b")["page"], **pages(7, pid=2)["page"]}})
    store.commit({"page": {(3, ""): (1, ""), (1, "", 2): None, (1,): None, **pages(9)["page"]}})
    kept = [(r[0], r[1], r[2], r[-1]) for r in reopen().read("page", ())]
    # Copies are made of what was there before; then rows go; then rows come.
    assert kept == [(1, "", 9, "19"), (2, "", 7, "27"), (3, "", 1, "11"), (3, "", 2, "12")]


@pytest.mark.parametrize("key", [(), ("x",), (1, ""), (1, "", 1, 1)])
def test_a_key_that_is_no_beginning_is_refused(reopen: Reopen, key: Key) -> None:
    store = reopen()
    store.commit(pages(1))
    with pytest.raises(StoreError):
        store.commit({"page": {key: (1,)}})
    assert found(store) == ["11"]


def test_which_pages_lack_a_vector(reopen: Reopen) -> None:
    store = reopen()
    store.commit(pages(1, 2, 3))
    store.commit(put("vector", row("vector", pid=1, id=2, encoder="a"), row("vector", pid=1, id=3, encoder="b")))
    assert store.unembedded("a") == [(1, "", 1), (1, "", 3)]
    assert store.unembedded("b") == [(1, "", 1), (1, "", 2)]


# ---- the double is as the real one

SMALL_INTS = st.integers(0, 2)
TEXT = st.one_of(st.sampled_from(["", "a", "b"]), st.integers(LIMIT - 1, LIMIT + 2).map(lambda n: "x" * n))
VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: SMALL_INTS,
    str: TEXT,
    float: st.floats(0, 3),
    bytes: st.binary(max_size=2),
}


@st.composite
def commits(draw: st.DrawFn) -> dict[str, dict[Key, Row | None]]:
    rows: dict[str, dict[Key, Row | None]] = {}
    for table in draw(st.lists(st.sampled_from(list(TABLES)), max_size=4)):
        keys, columns = TABLES[table]
        values = draw(st.tuples(*(VALUES[kind] for kind in columns.values())))
        rows.setdefault(table, {})[values[:keys]] = draw(st.sampled_from([values, values, None, values[1:]]))
        if keys > 1 and draw(st.booleans()):  # many rows at once
            width = draw(st.integers(0, keys - 1))
            other: Row = tuple(draw(VALUES[kind]) for kind in list(columns.values())[:width])
            rows[table][values[:width]] = draw(st.sampled_from([None, other, other, other[:-1]]))
    return rows


def tried(store: Store, rows: dict[str, dict[Key, Row | None]]) -> bool:
    try:
        store.commit(rows)
    except StoreError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(commits(), st.none()), max_size=12))
def test_both_stores_do_the_same(history: list[dict[str, dict[Key, Row | None]] | None]) -> None:
    """Random commits, good and bad, with reopenings between them (None)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokix.db")
        memory, sqlite = MemoryStore(), SqliteStore(path)
        for rows in history:
            if rows is None:
                sqlite.close()
                sqlite = SqliteStore(path)
            else:
                assert tried(memory, rows) == tried(sqlite, rows)
            assert sqlite.load() == memory.load()
            for table in TABLES:
                assert sqlite.read(table, ()) == memory.read(table, ())
                assert sqlite.read(table, (1,), limit=2) == memory.read(table, (1,), limit=2)
            assert sqlite.unembedded("a") == memory.unembedded("a")
            assert sqlite.dead() == memory.dead()
        sqlite.check()
        sqlite.close()


# ---- one kernel at a time


def python(code: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stdin=subprocess.PIPE, **options)


OPEN = """
import sys
from pathlib import Path
from tokix.storage import SqliteStore, StoreError
try:
    store = SqliteStore(Path(sys.argv[1]))
except StoreError as error:
    print("refused", error, flush=True)
else:
    print("opened", flush=True)
    sys.stdin.readline()
"""


def test_a_second_opener_in_this_process_is_refused(path: Path) -> None:
    with opened(path):
        with pytest.raises(StoreError, match=rf"another kernel, process {os.getpid()}\b"):
            SqliteStore(path)
        with pytest.raises(StoreError, match="another kernel"):
            SqliteStore(path.with_name("other.db"))
    with opened(path):
        pass


def test_a_second_opener_in_another_process_is_refused(path: Path) -> None:
    with opened(path), python(OPEN, path) as child:
        out, _ = child.communicate()
    assert out.startswith("refused")
    assert f"another kernel, process {os.getpid()}:" in out


def test_a_killed_owner_gives_up_the_lock(path: Path) -> None:
    with python(OPEN, path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "opened\n"
        with pytest.raises(StoreError, match=rf"another kernel, process {child.pid}\b"):
            SqliteStore(path)
        child.kill()
    with opened(path) as store:
        assert total(store) == 0


def test_a_program_that_outlives_its_kernel_does_not_keep_the_lock(path: Path) -> None:
    tool = "import sys; print('started', flush=True); sys.stdin.readline(); print('still here')"
    start = f"import subprocess; subprocess.Popen([sys.executable, '-c', {tool!r}], close_fds=False).wait()"
    code = OPEN.replace("sys.stdin.readline()", start)
    with python(code, path) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(2)] == ["opened\n", "started\n"]
        child.kill()
        child.wait()
        with opened(path):
            assert child.communicate("\n")[0] == "still here\n"


def test_a_failed_open_gives_up_the_lock(path: Path) -> None:
    path.write_text("not a database, " * 100)
    with pytest.raises(StoreError):
        SqliteStore(path)
    path.unlink()
    with opened(path):
        pass


# ---- killed

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
    return {
        "process": {(1,): process},
        "journal": {(1, 0, 4 * n + i): (1, 0, 4 * n + i, "p", "c" * 500, 1, str(n) * (1 + 3000 * i)) for i in range(4)},
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


# ---- the file


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


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_missing_text_is_noticed(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("message", row("message", body="a" * 5000)))
    change(path, "DELETE FROM blob")
    with opened(path) as store:
        with pytest.raises(StoreError, match="restore a copy"):
            store.load()
        with pytest.raises(StoreError, match="restore a copy"):
            store.check()


# ---- refused


def refusal(path: Path) -> str:
    """Give the text of the error, having checked that the file is as it was and stays openable by others."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    if before is not None:
        assert path.read_bytes() == before
    assert str(caught.value).startswith(f"cannot open {path}: ")
    return str(caught.value)


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


# ---- migrations


NEWEST = 1 + len(STEPS)


def test_an_old_file_gets_the_tables_of_today(path: Path) -> None:
    with opened(path) as store:
        store.commit(put("kernel", row("kernel", name="n", value="1")))
    change(path, "DROP TABLE page", "DROP TABLE vector", "PRAGMA user_version = 1")
    with opened(path) as store:
        assert versions(path)[0] == NEWEST
        assert store.load()["kernel"] == [("n", "1")]
        store.commit(put("page", row("page", text="kept")))
        assert store.read("page", (0, "")) == [row("page", text="kept")]
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


# ---- import


def test_importing_the_package_does_not_import_sqlalchemy() -> None:
    code = "import sys, tokix.storage; tokix.storage.MemoryStore; print('sqlalchemy' in sys.modules)"
    with python(code) as child:
        assert child.communicate()[0] == "False\n"
