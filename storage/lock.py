"""One kernel at a time has a state directory.

`flock` on a file in it, which holds the owner's process id as its text. The system releases the lock when the owner is
gone, however that happened, so the file is never removed and its text says nothing while nobody holds the lock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokix.storage.rows import StoreError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold `kernel.lock` of the folder; raises StoreError, with the process id of the owner, when another has it."""
    # Python opens files close-on-exec, so a program that a driver starts does not keep the lock of a dead kernel.
    with (folder / "kernel.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise StoreError(
                f"{folder} is in use by another kernel, process {owner}: stop it, or choose another state directory"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            # Closing is not enough while a forked child has the file open, too.
            fcntl.flock(file, fcntl.LOCK_UN)
