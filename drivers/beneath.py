"""Opening what lies below one folder, and nothing outside of it.

A path is walked from the descriptor of the root, one name at a time, each opened relative to the one before and never
through a symbolic link. So there is no moment between a check and a use: a folder that somebody swaps for a link during
the call is either the one that was opened, or it is refused. Invariant: every descriptor here was reached from the root
by the names of entries alone; no `..`, no link, no absolute path.

Linux could check the whole path in one openat2(RESOLVE_BENEATH), for which Python has no name; this is as tight, and
works on macOS too. A hard link cannot be told from a file: whoever can make one in here has already got the file.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from tokix.syscalls import EINVAL, EIO, ENOENT, EPERM, SyscallError


class Root:
    """A folder, held open as long as this object lives, so it may be moved. Raises OSError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def folder(self, names: tuple[str, ...], make: bool = False) -> Iterator[int]:
        """Open a folder, making what is missing if so wished."""
        # "." and not dup: two descriptors of one opening would share the position of the listing.
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._fd)
        try:
            for name in names:
                outer, folder = folder, enter(folder, name, make)
                os.close(outer)
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def parent(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that a path is in; gives it with the last name of the path."""
        names = split(path)
        if not names:
            raise IsADirectoryError(errno.EISDIR, "the root")
        with self.folder(names[:-1], make) as folder:
            yield folder, names[-1]


def split(path: str) -> tuple[str, ...]:
    """Split a path into the names below the root; raises EPERM for one that says it leaves."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise EPERM(f"{path}: outside of the device; paths are relative to its root and have no ..")
    if "\0" in path:
        raise EINVAL("a path has no NUL characters")
    return pure.parts


def enter(parent: int, name: str, make: bool = False) -> int:
    """Open a folder in a folder; the caller closes it."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):  # made by somebody else just now, and opened as carefully as any
            os.mkdir(name, dir_fd=parent)
        os.fsync(parent)
        return enter(parent, name)
    except NotADirectoryError:  # what Linux says of a link too
        _refuse_link(os.lstat(name, dir_fd=parent))
        raise


@contextmanager
def regular(parent: int, name: str, flags: int) -> Iterator[int]:
    """Open a regular file in a folder. Nothing else is waited for, as opening a FIFO would."""
    file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o666, dir_fd=parent)
    try:
        refuse_irregular(os.fstat(file))
        yield file
    finally:
        os.close(file)


def refuse_irregular(found: os.stat_result) -> None:
    """Raise OSError for anything but a regular file."""
    _refuse_link(found)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ENXIO, "FIFO, socket or device")


def _refuse_link(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "link")


_MEANING: dict[int, tuple[type[SyscallError], str]] = {
    errno.ENOENT: (ENOENT, "no such file or folder"),
    errno.ENOTDIR: (EINVAL, "a file stands where a folder is needed"),
    errno.EISDIR: (EINVAL, "a folder, not a file"),
    errno.ENXIO: (EINVAL, "not a regular file"),
    errno.ENOTEMPTY: (EINVAL, "the folder is not empty"),
    errno.ENAMETOOLONG: (EINVAL, "the name is too long"),
    errno.EFBIG: (EINVAL, "too large"),
    errno.ELOOP: (EPERM, "symbolic links are not followed"),
    errno.EACCES: (EPERM, "the host does not permit it"),
    errno.EPERM: (EPERM, "the host does not permit it"),
    errno.EROFS: (EPERM, "the host's file system is read-only"),
}


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn an OSError into the caller's terms: the path as it was given, nothing of the host's."""
    try:
        yield
    except OSError as error:
        code = error.errno or errno.EIO
        kind, text = _MEANING.get(code, (EIO, os.strerror(code)))
        raise kind(f"{path}: {text}") from None
