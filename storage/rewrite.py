"""Encrypt a store, decrypt it, or change its key.

The rows go into a new file beside, which takes the place of the old one when it is whole and on the disk.

The invariant: the name of the store is that of a whole file at any time, the old one or the new, and no log lies beside
it that belongs to the other. What a kill leaves of a copy goes when the store is opened next.
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from tokix.storage.rows import StoreError
from tokix.storage.sqlite import SqliteStore, beside, explained


def rewrite(path: Path, key: str | None, new: str | None) -> None:
    """Write the file of a store, which has one key or none, anew with another or none; raises StoreError.

    It takes as much room again on the disk. What was in the old file can be found in the free blocks of the disk until
    they are used again.
    """
    if path.is_symlink():  # who has the lock beside it need not have that of what it leads to
        raise StoreError(f"{path} is a link: take the state directory that it leads to, {path.resolve().parent}")
    with closing(SqliteStore(path, "power", key)) as old:
        fresh = beside(old.path) / path.name
        try:
            with closing(SqliteStore(fresh, "power", new)) as copy:
                copy.settle()  # a new file needs no log, which would be as long again
                copy.take(old)
                copy.check()
            old.settle()
            with explained(old.path, "replace"):
                shutil.copymode(old.path, fresh)
                sync(fresh)
                os.replace(fresh, old.path)
                sync(old.path.parent)
        finally:
            shutil.rmtree(fresh.parent, ignore_errors=True)


def sync(path: Path) -> None:
    """Put a file or a folder on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
