"""The state directory: one system. A kernel that runs has it for itself; all that outlives a kernel is in it.

tokix.db      the truth (see `tokix.storage`), encrypted where there is a key
kernel.lock   held by the kernel that runs
control.sock  the way to it, for other commands
running       the pid whose program is driven now (see `tokix.watchdog`)
deaths.json   who was running when kernels died
index         what is near in large archives, made anew when it is gone (see `tokix.index`)
history       what was typed in the shell
crash-*.txt   reports of what went wrong

With a key nothing here can be read without it: there is no history, and reports have no text but that of tokix. What is
left, process ids and counts, says nothing of what was said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokix.storage import MemoryStore, StoreError, cipher
from tokix.storage.lock import alone

if TYPE_CHECKING:
    from tokix.kernel.ports import Store

Durable = Literal["process", "power", "none"]

TRUTH = "tokix.db"
RUNNING = "running"
DEATHS = "deaths.json"
HISTORY = "history"
INDEX = "index"


def default_state() -> Path:
    """Give the state directory of this person: $TOKIX_STATE, or `tokix` where the XDG standard has such things."""
    if here := os.environ.get("TOKIX_STATE"):
        return Path(here).absolute()
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "state") / "tokix"


@contextmanager
def opened(state: Path | None, durable: Durable, key: str | None = None) -> Iterator[Store]:
    """Open a state directory, which nobody else can do meanwhile; without one, a store that forgets.

    Raises StoreError, for a key that does not fit too. With `durable="none"` the directory is only a meeting point.
    """
    if state is None:
        yield MemoryStore()
    elif durable == "none":
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(state):
            yield MemoryStore()
    else:
        from tokix.storage import SqliteStore

        with closing(SqliteStore(state / TRUTH, durable, key)) as store:
            yield store


def private(state: Path, key: str | None = None) -> bool:
    """Say whether nothing that was said may be left in a state directory, or elsewhere, for all to read."""
    return key is not None or cipher.encrypted(state / TRUTH)


def left_plain(state: Path) -> list[Path]:
    """Give what a kernel without a key has left in a state directory for all to read, beside the truth."""
    return [
        path
        for path in sorted(state.glob("*"))
        if path.name in (HISTORY, INDEX) or path.match("crash-*.txt") or path.match(".tokix-*")
    ]


def busy(state: Path) -> bool:
    """Say whether somebody has the state directory open."""
    try:
        with alone(state):
            return False
    except StoreError:
        return True
    except OSError:
        return False
