"""The truth on disk: two implementations of the kernel's `Store` port, one for tests and one that survives a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokix.storage.memory import MemoryStore
from tokix.storage.rows import StoreError

if TYPE_CHECKING:
    from tokix.storage.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "StoreError"]


def __getattr__(name: str) -> object:
    """Import SQLAlchemy (150 ms) only for those who want a `SqliteStore`."""
    if name == "SqliteStore":
        from tokix.storage.sqlite import SqliteStore

        return SqliteStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
