"""DBOS: one step of a workflow, whose result is committed to the SQLite system database before the next begins.

A workflow calls a step that returns its argument, n times; the clock starts and stops inside the workflow, so its own
start and end do not count. With `--sqlite=default` the settings are those of DBOS, which keeps SQLite's own: a rollback
journal and synchronous=FULL. It has no option for others, but passes `db_engine_kwargs` on, and this is how `wal` and
`wal-normal` get in: write-ahead log, the second with synchronous=NORMAL (safe from kill -9, not from a power cut).
"""

import argparse
import json
import sqlite3
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from dbos import DBOS, DBOSConfig

WAL = "PRAGMA journal_mode=WAL;"
PRAGMAS = {"default": "", "wal": WAL, "wal-normal": WAL + "PRAGMA synchronous=NORMAL;"}


class Connection(sqlite3.Connection):
    """A connection with the pragmas of `--sqlite`."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.executescript(PRAGMAS[options.sqlite])


@DBOS.step()
def step(i: int) -> int:
    return i


@DBOS.workflow()
def workflow(n: int) -> float:
    begin = perf_counter()
    for i in range(n):
        step(i)
    return perf_counter() - begin


def measure(n: int, repeat: int, database: Path) -> list[float]:
    config = DBOSConfig(name="steps", system_database_url=f"sqlite:///{database}", log_level="ERROR")
    if options.sqlite != "default":
        config["db_engine_kwargs"] = {"connect_args": {"factory": Connection}}
    DBOS(config=config)
    DBOS.launch()
    warm = max(10, n // 10)
    workflow(warm)
    us = [workflow(n) / n * 1e6 for _ in range(repeat)]
    DBOS.destroy()
    (rows,) = sqlite3.connect(database).execute("SELECT count(*) FROM operation_outputs").fetchone()
    assert rows == warm + n * repeat, "not every step was journalled"
    return us


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--n", type=int, default=200)
parser.add_argument("--repeat", type=int, default=5)
parser.add_argument("--sqlite", choices=PRAGMAS, default="default")
options = parser.parse_args()
with TemporaryDirectory() as folder:
    us = measure(options.n, options.repeat, Path(folder) / "dbos.sqlite")
what = f"workflow step in SQLite {sqlite3.sqlite_version}, settings: {options.sqlite}"
print(json.dumps({"peer": "dbos", "version": version("dbos"), "what": what, "us": us}))
