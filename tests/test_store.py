"""What a Store promises, asked of both stores; the double does what the real one does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import LIMIT, LOADED, OTHERS, Reopen, Row, put, python, row, total
from tokix.kernel.ports import ARCHIVE, TABLES, Key, Scalar, Store
from tokix.storage import MemoryStore, SqliteStore, StoreError

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


# ---- import


def test_importing_the_package_does_not_import_sqlalchemy() -> None:
    code = "import sys, tokix.storage; tokix.storage.MemoryStore; print('sqlalchemy' in sys.modules)"
    with python(code) as child:
        assert child.communicate()[0] == "False\n"
