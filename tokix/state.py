"""The state directory: one system. A kernel that runs has it for itself; all that outlives a kernel is in it.

tokix.db      the truth (see `tokix.storage`)
kernel.lock   held by the kernel that runs
control.sock  the way to it, for other commands
running       the pid whose program is driven now (see `tokix.watchdog`)
deaths.json   who was running when kernels died
history       what was typed in the shell
crash-*.txt   reports of what went wrong
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tokix.storage import MemoryStore, StoreError
from tokix.storage.lock import alone

if TYPE_CHECKING:
    from tokix.kernel.ports import Store

Durable = Literal["process", "power", "none"]

TRUTH = "tokix.db"
RUNNING = "running"
DEATHS = "deaths.json"


def default_state() -> Path:
    """Give the state directory of this person: $TOKIX_STATE, or `tokix` where the XDG standard has such things."""
    if here := os.environ.get("TOKIX_STATE"):
        return Path(here).absolute()
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".local" / "state") / "tokix"


@contextmanager
def opened(state: Path | None, durable: Durable) -> Iterator[Store]:
    """Open a state directory, which nobody else can do meanwhile; without one, a store that forgets.

    Raises StoreError. With `durable="none"` the directory is only a meeting point.
    """
    if state is None:
        yield MemoryStore()
    elif durable == "none":
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(state):
            yield MemoryStore()
    else:
        from tokix.storage import SqliteStore

        with closing(SqliteStore(state / TRUTH, durable)) as store:
            yield store


def busy(state: Path) -> bool:
    """Say whether somebody has the state directory open."""
    try:
        with alone(state):
            return False
    except StoreError:
        return True
    except OSError:
        return False
