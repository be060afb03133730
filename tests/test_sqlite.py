"""The database driver against what a model, or somebody behind it, could send: writes, other files, endless queries."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from driven import call
from tokix.drivers import Sqlite, sqlite
from tokix.syscalls import EAGAIN, EINVAL, EIO, ENOENT, EPERM, ETIMEDOUT, SyscallError

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "


def make(path: Path, script: str = "") -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, people INT);"
            "INSERT INTO city VALUES (1, 'Ulm', 126), (2, 'Graz', 291), (3, 'Bern', 134);"
            "CREATE INDEX by_name ON city (name);"
            "CREATE VIEW large AS SELECT * FROM city WHERE people > 130;" + script
        )
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make(tmp_path / "a ?#%é.db")


@pytest.fixture
def db(file: Path) -> Sqlite:
    return Sqlite(file)


@pytest.fixture
def writable(file: Path) -> Sqlite:
    return Sqlite(file, write=True)


def rows(driver: Sqlite, sql: str, *parameters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = call(driver, "query", sql=sql, parameters=[*parameters])["rows"]
    return found


def refused(driver: Sqlite, sql: str, name: str = "query", **more: Any) -> SyscallError:
    with pytest.raises(SyscallError) as caught:
        call(driver, name, sql=sql, **more)
    assert "\n" not in caught.value.detail
    return caught.value


# ---- reading


def test_query(db: Sqlite) -> None:
    found = call(db, "query", sql="SELECT name, people FROM city WHERE people > ? ORDER BY people", parameters=[130])
    assert found == {"rows": [{"name": "Bern", "people": 134}, {"name": "Graz", "people": 291}], "note": ""}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 AS a, 'x' AS b, NULL AS c, 1.5 AS d", {"a": 1, "b": "x", "c": None, "d": 1.5}),
        ("SELECT 9e999 AS a, -9e999 AS b, 9e999 - 9e999 AS c", {"a": "Infinity", "b": "-Infinity", "c": None}),
        ("SELECT x'00ff' AS a, zeroblob(1000) AS b", {"a": "BLOB of 2 bytes", "b": "BLOB of 1000 bytes"}),
        ("SELECT CAST(x'41ff42' AS TEXT) AS a", {"a": "A\\xffB"}),
        ("SELECT CAST(x'eda080' AS TEXT) AS a", {"a": "\\xed\\xa0\\x80"}),
        ("SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a", {"a": 1, "a_2": 2, "a_2_2": 3, "a_3": 4}),
        ("SELECT 9223372036854775807 AS a", {"a": 2**63 - 1}),
        ("VALUES (1)", {"column1": 1}),
        ("SELECT count(*) AS n FROM large", {"n": 2}),
        (
            "PRAGMA table_info(city)",
            {"cid": 0, "name": "id", "type": "INTEGER", "notnull": 0, "dflt_value": None, "pk": 1},
        ),
        ("SELECT char(0, 7, 27, 128169) AS a", {"a": "\0\a\x1b💩"}),
    ],
)
def test_every_value_leaves_as_json(db: Sqlite, sql: str, expected: dict[str, Any]) -> None:
    row = rows(db, sql)[0]
    assert row == expected
    assert json.loads(json.dumps(row, allow_nan=False)) == expected


def test_parameters_are_values_and_never_sql(db: Sqlite) -> None:
    nasty = "'; DROP TABLE city; --"
    assert rows(db, "SELECT ? AS a, ? AS b, ? AS c, ? AS d", nasty, None, True, 2.5) == [
        {"a": nasty, "b": None, "c": 1, "d": 2.5}
    ]
    for wrong in ([float("nan")], [float("inf")], [[1]], [{"a": 1}], {"a": 1}, "Ulm"):
        assert "parameters" in refused(db, "SELECT ?", parameters=wrong).detail
    assert refused(db, "SELECT ?", parameters=[2**63]).detail == "a whole number has more than 64 bits"
    assert "uses 1, and there are 2 supplied" in refused(db, "SELECT ?", parameters=[1, 2]).detail


def test_an_answer_is_cut_and_says_so(db: Sqlite) -> None:
    found = call(db, "query", sql=ENDLESS + "SELECT i FROM n", limit=3)
    assert found["rows"] == [{"i": 1}, {"i": 2}, {"i": 3}]
    assert found["note"] == "only the first 3 rows; there are more, see LIMIT and OFFSET, or count(*)"
    assert call(db, "query", sql="SELECT * FROM city", limit=3)["note"] == ""

    wide = call(db, "query", sql=ENDLESS + "SELECT i, printf('%.*c', 900, 'x') AS t FROM n", limit=1000)
    assert len(json.dumps(wide["rows"])) <= sqlite.MAX_REPLY + 200
    assert wide["note"].startswith(f"only the first {len(wide['rows'])} rows")

    [row] = (long := call(db, "query", sql="SELECT printf('%.*c', 5000, 'x') AS t"))["rows"]
    assert row["t"] == "x" * sqlite.MAX_TEXT + "…"
    assert long["note"] == "texts are cut after 2000 characters; substr(column, 2001) goes on"


def test_what_cannot_be_shown_is_refused(db: Sqlite) -> None:
    many = ", ".join(str(n) for n in range(101))
    assert refused(db, f"SELECT {many}").detail == "101 columns; select at most 100"
    large = ", ".join(f"printf('%.*c', 1900, 'x') AS c{n}" for n in range(20))
    assert "the first row is too large to be shown; select fewer columns" in refused(db, f"SELECT {large}").detail
    assert "too big" in refused(db, "SELECT zeroblob(9000000)").detail
    assert "too big" in refused(db, "SELECT replace(printf('%.*c', 900000, 'a'), 'a', 'aaaaaaaaaa')").detail


def test_tables(tmp_path: Path) -> None:
    file = make(
        tmp_path / "t.db",
        "CREATE TABLE bare (a, b TEXT, c AS (a + 1)); CREATE VIEW broken AS SELECT * FROM gone;"
        "CREATE VIRTUAL TABLE page USING fts5(body); INSERT INTO page VALUES ('hello world');",
    )
    found = call(Sqlite(file), "tables")
    assert found["note"] == ""
    assert {table["name"]: (table["kind"], table["columns"]) for table in found["tables"]} == {
        "bare": ("table", ["a", "b TEXT", "c"]),
        "broken": ("view", []),
        "city": ("table", ["id INTEGER", "name TEXT", "people INT"]),
        "large": ("view", ["id INTEGER", "name TEXT", "people INT"]),
        "page": ("table", ["body"]),
    }
    assert rows(Sqlite(file), "SELECT highlight(page, 0, '[', ']') AS h FROM page WHERE page MATCH 'hello'") == [
        {"h": "[hello] world"}
    ]


def test_many_tables_are_cut(tmp_path: Path) -> None:
    file = make(tmp_path / "t.db", "".join(f"CREATE TABLE t{n} (a_rather_long_name_of_a_column);" for n in range(400)))
    found = call(Sqlite(file), "tables")
    assert len(json.dumps(found["tables"])) < 2 * sqlite.MAX_REPLY
    assert found["note"] == f"only the first {len(found['tables'])} of 402; see sqlite_schema"


# ---- what is refused


WRITES = [
    "INSERT INTO city VALUES (9, 'x', 1)",
    "REPLACE INTO city VALUES (1, 'x', 1)",
    "UPDATE city SET name = 'x'",
    "DELETE FROM city",
    "DROP TABLE city",
    "DROP VIEW large",
    "CREATE TABLE t (a)",
    "CREATE TABLE t AS SELECT * FROM city",
    "CREATE INDEX i ON city (name)",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON city BEGIN SELECT 1; END",
    "ALTER TABLE city ADD COLUMN x",
    "ALTER TABLE city RENAME TO town",
    "REINDEX",
    "ANALYZE",
    "WITH x AS (SELECT 1) INSERT INTO city SELECT 9, 'x', 1",
    "INSERT INTO city VALUES (9, 'x', 1) RETURNING *",
    "EXPLAIN DELETE FROM city",
]
NEVER = [
    "ATTACH '{other}' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "VACUUM",
    "VACUUM INTO '{other}'",
    "PRAGMA journal_mode = WAL",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA user_version = 7",
    "PRAGMA temp_store_directory = '{other}'",
    "SELECT * FROM pragma_database_list",
    "SELECT load_extension('{other}')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT writefile('{other}', 'x')",
    "SELECT readfile('/etc/passwd')",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "CREATE TEMP TABLE t (a)",
    "CREATE TEMP VIEW t AS SELECT 1",
    "CREATE TEMP TRIGGER t AFTER INSERT ON city BEGIN SELECT 1; END",
    "CREATE TABLE temp.t (a)",
    "CREATE VIRTUAL TABLE v USING fts5(a)",
    "CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')",
    "UPDATE sqlite_master SET sql = 'x'",
    "DELETE FROM sqlite_schema",
    "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 2, 'x')",
    "SELECT 1; DELETE FROM city",
    "SELECT 1;\nATTACH '{other}' AS o",
]


@pytest.mark.parametrize("sql", WRITES)
def test_a_query_only_reads_whoever_may_write(file: Path, db: Sqlite, writable: Sqlite, sql: str) -> None:
    before = file.read_bytes()
    for driver in (db, writable):
        error = refused(driver, sql)
        assert type(error) is EPERM
        assert error.detail.endswith("; a query only reads")
    with pytest.raises(EPERM, match="the device is read-only; whoever mounts it can say `write`"):
        call(db, "execute", sql=sql)
    assert file.read_bytes() == before


@pytest.mark.parametrize("sql", NEVER)
def test_nothing_reaches_other_files_or_settings(
    tmp_path: Path, file: Path, db: Sqlite, writable: Sqlite, sql: str
) -> None:
    before, sql = file.read_bytes(), sql.format(other=tmp_path / "other")
    for driver, name in ((db, "query"), (writable, "query"), (writable, "execute")):
        assert type(refused(driver, sql, name)) in (EPERM, EINVAL)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_only_what_the_mount_allows_is_described(db: Sqlite, writable: Sqlite) -> None:
    assert [(op.name, op.effect) for op in db.describe("db").ops] == [("tables", "pure"), ("query", "pure")]
    assert [(op.name, op.effect) for op in writable.describe("db").ops][2:] == [("execute", "unsafe")]


def test_the_file_is_only_opened_for_reading(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the authorizer let all pass."""
    monkeypatch.setattr(sqlite.Session, "_authorize", lambda *_: sqlite3.SQLITE_OK)
    before = file.read_bytes()
    for sql in ("DELETE FROM city", "CREATE TABLE t (a)", "PRAGMA user_version = 7"):
        assert type(refused(Sqlite(file), sql)) is EPERM
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("SELCT 1", 'near "SELCT": syntax error'),
        ("SELECT", "incomplete input"),
        ("SELECT * FROM nowhere", "no such table: nowhere; `tables` has the names"),
        ("SELECT nope FROM city", "no such column: nope; `tables` has the names"),
        ("SELECT nope(1)", "no such function: nope"),
        ("SELECT 1\0", "null character"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT 1" + "+1" * 300, "maximum depth 200"),
        ("", "sql should have at least 1 character"),
        ("x" * 10_001, "sql should have at most 10000 characters"),
    ],
)
def test_a_mistake_is_explained(db: Sqlite, sql: str, complaint: str) -> None:
    error = refused(db, sql)
    assert type(error) is EINVAL
    assert complaint in error.detail


# ---- changes


def test_execute(file: Path, writable: Sqlite) -> None:
    for sql, parameters, expected in [
        ("CREATE TABLE river (id INTEGER PRIMARY KEY, name TEXT UNIQUE)", [], (0, [])),
        ("INSERT INTO river (name) VALUES (?), (?) RETURNING id, name", ["Aare", "Mur"], (2, [1, 2])),
        ("UPDATE river SET name = upper(name)", [], (2, [])),
        ("DELETE FROM river WHERE name = ?", ["MUR"], (1, [])),
        ("ALTER TABLE river ADD COLUMN km REAL", [], (0, [])),
        ("ALTER TABLE river RENAME TO stream", [], (0, [])),
        ("ALTER TABLE stream RENAME TO river", [], (0, [])),
        ("CREATE INDEX i ON river (km)", [], (0, [])),
        ("ANALYZE", [], (0, [])),
        ("DROP TABLE city", [], (0, [])),
        ("SELECT * FROM river", [], (0, [1])),
    ]:
        found = call(writable, "execute", sql=sql, parameters=parameters)
        assert (found["changed"], [row["id"] for row in found["rows"]]) == expected
    assert rows(writable, "SELECT * FROM river") == [{"id": 1, "name": "AARE", "km": None}]


def test_what_is_too_much_for_the_answer_is_changed_all_the_same(writable: Sqlite) -> None:
    sql = ENDLESS + "INSERT INTO city SELECT NULL, 'x', i FROM n LIMIT 5000 RETURNING *"
    found = call(writable, "execute", sql=sql)
    assert found["changed"] == 5000
    assert len(found["rows"]) < 1000
    assert found["note"]
    assert rows(writable, "SELECT count(*) AS n FROM city") == [{"n": 5003}]


def test_a_failed_change_leaves_nothing(writable: Sqlite) -> None:
    error = refused(writable, "INSERT INTO city VALUES (8, 'x', 1), (1, 'Ulm', 2)", "execute")
    assert (type(error), error.detail) == (EINVAL, "UNIQUE constraint failed: city.id")
    error = refused(
        Sqlite(writable._path, write=True, seconds=0.05),
        ENDLESS + "INSERT INTO city SELECT NULL, 'x', i FROM n",
        "execute",
    )
    assert type(error) is ETIMEDOUT
    assert rows(writable, "SELECT count(*) AS n FROM city") == [{"n": 3}]


def test_foreign_keys_hold(tmp_path: Path) -> None:
    file = make(tmp_path / "k.db", "CREATE TABLE mayor (city INT REFERENCES city)")
    assert "FOREIGN KEY" in refused(Sqlite(file, write=True), "INSERT INTO mayor VALUES (77)", "execute").detail


def test_a_lock_that_somebody_holds_is_waited_for_and_then_said(
    file: Path, writable: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.01)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert type(refused(writable, "DELETE FROM city", "execute")) is EAGAIN
        assert len(rows(writable, "SELECT * FROM city")) == 3


# ---- time


ENDLESS_QUERIES = [
    ENDLESS + "SELECT count(*) FROM n",
    ENDLESS + "SELECT i FROM n ORDER BY i",
    ENDLESS + "SELECT max(i) FROM n WHERE i < 0",
    "SELECT count(*) FROM " + ", ".join(f"city c{n}" for n in range(40)),
    ENDLESS + "SELECT 1 FROM n WHERE 'a' LIKE '%' || i || 'x%'",
]


@pytest.mark.parametrize("sql", ENDLESS_QUERIES)
def test_a_query_without_end_is_stopped(file: Path, sql: str) -> None:
    error = refused(Sqlite(file, seconds=0.05), sql)
    assert (type(error), error.detail) == (ETIMEDOUT, "stopped after 0.05 s; ask for less, with WHERE or LIMIT")


def test_a_query_runs_beside_the_event_loop_and_a_cancel_stops_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Sqlite(file, seconds=3600)
    looks, running, original = [0], threading.Event(), sqlite.Session._is_over

    def look(session: sqlite.Session) -> bool:
        looks[0] += 1
        running.set()
        return original(session)

    monkeypatch.setattr(sqlite.Session, "_is_over", look)

    async def main() -> None:
        with anyio.fail_after(60), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(driver.invoke, "query", {"sql": ENDLESS_QUERIES[0]}, "k")
                while not running.is_set():  # the loop is free meanwhile
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        assert scope.cancelled_caught
        seen = looks[0]
        await anyio.wait_all_tasks_blocked()
        assert looks[0] == seen  # it does not go on

    anyio.run(main)
    assert threading.active_count() < 10


def test_a_cancelled_change_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Sqlite(file, write=True, seconds=3600)
    running, original = threading.Event(), sqlite.Session._is_over

    def look(session: sqlite.Session) -> bool:
        running.set()
        return original(session)

    monkeypatch.setattr(sqlite.Session, "_is_over", look)

    async def main() -> None:
        with anyio.fail_after(60), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                sql = ENDLESS + "INSERT INTO city SELECT NULL, 'x', i FROM n"
                group.start_soon(driver.invoke, "execute", {"sql": sql}, "k")
                while not running.is_set():
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

    anyio.run(main)
    assert rows(driver, "SELECT count(*) AS n FROM city") == [{"n": 3}]


def test_a_cancel_between_the_statement_and_its_commit_leaves_nothing(
    file: Path, writable: Sqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[sqlite.Session, sqlite3.Connection], None] = sqlite.Session._commit

    def stopped(session: sqlite.Session, db: sqlite3.Connection) -> None:
        session.stop()
        original(session, db)

    monkeypatch.setattr(sqlite.Session, "_commit", stopped)
    assert type(refused(writable, "DELETE FROM city", "execute")) is ETIMEDOUT
    assert len(rows(writable, "SELECT * FROM city")) == 3


def test_more_statements_than_turns_all_get_theirs(file: Path, db: Sqlite) -> None:
    found: list[Any] = []

    async def one(n: int) -> None:
        value = await db.invoke("query", {"sql": "SELECT ? AS n, count(*) AS c FROM city", "parameters": [n]}, "k")
        found.append((value["rows"][0]["n"], value["rows"][0]["c"]))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for n in range(5 * sqlite.STATEMENTS):
                group.start_soon(one, n)

    anyio.run(main)
    assert sorted(found) == [(n, 3) for n in range(5 * sqlite.STATEMENTS)]


# ---- the file


def test_a_file_that_cannot_be_used_is_refused_when_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, and longer than the header of one " * 10)
    for path, complaint in (
        (tmp_path / "text", "text: file is not a database"),
        (tmp_path, "a folder"),
        (tmp_path / "none.db", "none.db: no such file; the option write makes it"),
        (tmp_path / "no" / "folder.db", "no such file"),
    ):
        with pytest.raises(ValueError, match=complaint):
            Sqlite(path)
    with pytest.raises(ValueError, match="unable to open database file"):
        Sqlite(tmp_path / "no" / "folder.db", write=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_new_database_is_made_where_it_can_be_changed(tmp_path: Path) -> None:
    driver = Sqlite(tmp_path / "new.db", write=True)
    call(driver, "execute", sql="CREATE TABLE t (a)")
    assert [table["name"] for table in call(driver, "tables")["tables"]] == ["t"]


def test_a_file_that_goes_or_breaks_while_it_is_mounted(file: Path, db: Sqlite) -> None:
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 4096)
    assert type(refused(db, "SELECT * FROM city")) is EIO
    file.unlink()
    assert type(refused(db, "SELECT * FROM city")) is EIO
    make(file)
    assert len(rows(db, "SELECT * FROM city")) == 3


def test_a_database_with_a_log_beside_it_can_be_read(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "w.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE t (a)")
        driver = Sqlite(tmp_path / "w.db")
        other.execute("INSERT INTO t VALUES (1)")
        assert rows(driver, "SELECT * FROM t") == [{"a": 1}]


def test_a_hostile_schema_runs_nothing(tmp_path: Path) -> None:
    file = make(
        tmp_path / "h.db",
        "CREATE VIEW trap AS SELECT load_extension('x') AS a; CREATE VIEW slow AS "
        + ENDLESS
        + "SELECT count(*) FROM n;",
    )
    driver = Sqlite(file, seconds=0.05)
    assert "load_extension" in refused(driver, "SELECT * FROM trap").detail
    assert type(refused(driver, "SELECT * FROM slow")) is ETIMEDOUT
    assert {table["name"] for table in call(driver, "tables")["tables"]} >= {"trap", "slow"}


def test_no_op_but_those_three(db: Sqlite) -> None:
    with pytest.raises(ENOENT, match="there is tables, query, execute"):
        call(db, "attach", path="x")
