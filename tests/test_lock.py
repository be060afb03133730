"""One kernel at a time: who has opened a store keeps all others out, for as long as it lives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stores import opened, python, total
from tokix.storage import SqliteStore, StoreError

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
