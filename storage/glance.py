"""A look at a store from outside, for who has not opened it: before a boot, or while another process is its kernel.

This is the only other connection to the file. It is read-only, so that it neither writes nor checkpoints (see
`sqlite`), and it gives what it finds: of a file that is not there, or not yet one of ours, nothing. Whoever opens the
store is told what is wrong with it, the key of an encrypted file too.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tokix.storage import cipher
from tokix.storage.rows import StoreError


class Unfinished(NamedTuple):
    """What goes on at the next boot."""

    #: The model on which it was begun; None if there is nothing.
    model: str | None = None
    #: Programs with their arguments, as JSON.
    programs: tuple[tuple[str, str], ...] = ()


def unfinished(path: Path, key: str | None = None) -> Unfinished:
    """Give what is unfinished in a store, without init, and without foreign processes: their other ends are gone."""
    living = 'status IS NULL AND pid > 1 AND NOT "foreign"'
    programs = _ask(path, f"SELECT program, args FROM process WHERE {living} ORDER BY pid", key)
    model = _ask(path, "SELECT value FROM kernel WHERE name = 'model'", key)
    return Unfinished(str(model[0][0]), tuple(programs)) if programs and model else Unfinished()


def outcomes(path: Path, key: str | None = None) -> int:
    """Count the outcomes in all journals."""
    return sum(count for (count,) in _ask(path, "SELECT count(*) FROM journal", key))


def _ask(path: Path, question: str, key: str | None) -> list[tuple[Any, ...]]:
    try:
        with closing(cipher.connect(path, key, "ro")) as file:
            return file.execute(question).fetchall()
    # The boot that follows opens it too, and says what is wrong.
    except cipher.errors():
        return []
    except StoreError:
        return []
