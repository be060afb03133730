"""A file of SQLite, plain or encrypted.

With a key it is a file of SQLCipher 4: each page is encrypted (AES-256) and authenticated (HMAC-SHA512) on its way to
the disk, those of the log and of the journal too. So rows, vectors and the index of words are in it alike, they are
searched as in a plain file, and temporary tables stay in memory.

A key is text: 64 hexadecimal digits are the key itself, and anything else is a passphrase, of which SQLCipher's own
derivation makes one (PBKDF2). It is done here, once for a file, so that SQL only ever has digits of a key in it.

The invariant: a key that does not fit changes nothing.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from contextlib import closing
from functools import lru_cache
from hashlib import pbkdf2_hmac
from pathlib import Path
from types import ModuleType
from typing import cast

from tokix.storage.rows import StoreError

#: How a plain file begins; an encrypted one begins with its salt.
_PLAIN = b"SQLite format 3\0"
#: SQLCipher 4 derives a key in so many rounds, 0.2 s.
_ROUNDS = 256_000


def connect(path: Path, key: str | None, mode: str = "rwc") -> sqlite3.Connection:
    """Open a file, which may not be there yet; raises StoreError without SQLCipher. Transactions are the caller's."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = cast(
        sqlite3.Connection, driver(key).connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    )
    try:
        if key is not None:
            connection.execute("PRAGMA cipher_log_level = NONE")  # it would write to the standard error
            connection.execute(f'PRAGMA key = "{_digits(path, key)}"')
            connection.execute("PRAGMA cipher_compatibility = 4")
            connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def driver(key: str | None) -> ModuleType:
    """Give the module that opens a file with this key, or with none; raises StoreError where it is not installed."""
    if key is None:
        return sqlite3
    try:
        from sqlcipher3 import dbapi2
    except ImportError:
        raise StoreError("an encrypted file needs SQLCipher: pip install 'tokix[encryption]'") from None
    return cast(ModuleType, dbapi2)


def errors() -> tuple[type[Exception], ...]:
    """Give what the drivers raise that are loaded."""
    cipher = sys.modules.get("sqlcipher3.dbapi2")
    return (sqlite3.Error, cipher.Error) if cipher else (sqlite3.Error,)


def encrypted(path: Path) -> bool:
    """Say whether a file is an encrypted one, or none of SQLite: from outside they look alike."""
    return bool(_head(path)) and _head(path) != _PLAIN


def require(path: Path, key: str | None) -> None:
    """Raise StoreError unless the key fits the file, which nobody writes meanwhile. To a new file every key fits."""
    if key == "":
        raise StoreError("the key is empty")
    if key is None:
        if encrypted(path):
            raise StoreError(
                "the file is not a database, or it is encrypted; if so, give its key with --key-file FILE or in "
                "TOKIX_KEY_FILE; else move the file away, or choose another state directory"
            )
        return
    driver(key)
    if not _head(path):
        return
    if not encrypted(path):
        raise StoreError("the file is not encrypted; leave the key out, or encrypt it with `tokix state encrypt`")
    if _size(path, "-journal"):
        return  # the file is as a kill has left it, and only who writes to it can repair that
    if _fits(path, key, "ro&immutable=1"):  # so nothing is locked, made or repaired
        return
    if _size(path, "-wal") and _fits(path, key, "ro"):
        return  # a loss of power has cut the file's first page, and the log has it
    raise StoreError(
        "the key does not fit, or the beginning of the file is damaged; nothing was changed: "
        "give the key with which it was encrypted, or restore a copy of the file"
    )


def _fits(path: Path, key: str, mode: str) -> bool:
    """Say whether the first page can be read with a key."""
    with closing(connect(path, key, mode)) as look:
        try:
            look.execute("PRAGMA schema_version").fetchone()
        except errors() as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB":
                raise
            return False
        return True


def _size(path: Path, ending: str) -> int:
    """Give the bytes of a file of SQLite beside its main one, 0 if there is none."""
    beside = path.with_name(path.name + ending)
    return beside.stat().st_size if beside.exists() else 0


def _head(path: Path) -> bytes:
    """Give the first 16 bytes of a file, or none where there is no file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(16)


def _digits(path: Path, key: str) -> str:
    """Write the key of a file in the form that needs no derivation, with its salt where that was derived from."""
    if re.fullmatch("[0-9A-Fa-f]{64}", key):
        return f"x'{key}'"
    salt = _head(path) or os.urandom(16)
    return f"x'{_derived(key, salt)}{salt.hex()}'"


@lru_cache(maxsize=8)
def _derived(passphrase: str, salt: bytes) -> str:
    return pbkdf2_hmac("sha512", passphrase.encode(), salt, _ROUNDS, 32).hex()
