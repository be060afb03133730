"""Text files below one folder, as a device.

What may be opened is the business of `tokix.drivers.beneath`. Here every answer and every wait is bounded, and a file
changes as a whole: `write` puts the text beside the file, makes it durable, and renames it, so that a reader or a crash
sees the old text or the new one. A kill between the two leaves a `.tokix-*.tmp` that nothing else uses. Changes take
turns, so that an `edit` loses nothing that another process wrote meanwhile.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from tokix.drivers.base import Driver, op
from tokix.drivers.beneath import Root, enter, explained, refuse_irregular, regular, split
from tokix.syscalls import EINVAL, EPERM, DeviceInfo, Value

#: Bytes of a file that can be read or written.
MAX_FILE = 8 << 20
#: Names in a folder that can be listed.
MAX_ENTRIES = 10_000
#: What one search may look through.
MAX_SEARCH_FILES, MAX_SEARCH_BYTES, MAX_SEARCH_DEPTH = 10_000, 64 << 20, 50
#: Characters of a line that `search` shows.
MAX_LINE = 200
#: Characters that an answer has if nobody asks for more: what the window of a small model can take.
MAX_TEXT = 8000

RelativePath = Annotated[
    str, Field(min_length=1, max_length=4096, description="relative to the device's root, such as notes/today.md")
]
Kind = Literal["file", "folder", "link", "other"]


class FileInfo(Value):
    """What `stat` and `list` say about an entry; a link is named, never followed."""

    name: str
    kind: Kind
    #: In bytes.
    size: int
    #: Seconds since 1970.
    modified: float


class Lines(Value):
    """What `lines` read."""

    text: str
    #: The number of the line after these; None is the end of the file.
    next: int | None
    #: How many lines the file has.
    total: int
    note: str = ""


class Match(Value):
    """A line that `search` found; lines count from 1."""

    path: str
    line: int
    text: str


# Named, because in the class below `list` is an op.
Listing = list[FileInfo]
Matches = list[Match]
Paths = list[str]


class Files(Driver):
    """The text files below a folder. Raises OSError if it cannot be opened."""

    def __init__(self, folder: Path, *, write: bool = False) -> None:
        """Without `write` nothing can be changed."""
        self._root = Root(folder)
        self._write = write
        self._turn = threading.Lock()

    def describe(self, name: str) -> DeviceInfo:
        """Describe the ops; those that would only be refused are left out."""
        device = super().describe(name)
        if self._write:
            return device
        return device.model_copy(update={"ops": [info for info in device.ops if info.effect == "pure"]})

    @op(effect="pure")
    def read(
        self,
        path: RelativePath,
        offset: Annotated[int, Field(ge=0, description="in characters")] = 0,
        limit: Annotated[int, Field(ge=1, le=1 << 20, description="in characters")] = MAX_TEXT,
    ) -> str:
        """Read a text file from an offset on, up to a limit; the empty text is its end."""
        return self._text(path)[offset : offset + limit]

    @op(effect="pure")
    def lines(
        self,
        path: RelativePath,
        first: Annotated[int, Field(ge=1, description="the number of a line; they count from 1")] = 1,
        count: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> Lines:
        """Read some lines of a text file; `next` is the number of the line to go on with, null at the end."""
        return _lines(self._text(path), first, count)

    @op(effect="pure")
    def list(
        self,
        path: RelativePath = ".",
        offset: Annotated[int, Field(ge=0, description="in entries")] = 0,
        limit: Annotated[int, Field(ge=1, le=MAX_ENTRIES, description="in entries")] = 200,
    ) -> Listing:
        """List a folder from an offset on, up to a limit; the empty list is its end."""
        with explained(path), self._root.folder(split(path)) as folder:
            return [_info(name, found) for name, found in islice(_entries(folder), offset, offset + limit)]

    @op(effect="pure")
    def stat(self, path: RelativePath) -> FileInfo:
        """Tell kind, size and time of a file or folder."""
        with explained(path), self._root.folder(split(path)[:-1]) as parent:
            name = split(path)[-1] if split(path) else "."
            return _info(name, os.lstat(name, dir_fd=parent))

    @op(effect="pure")
    def search(
        self,
        text: Annotated[str, Field(min_length=1, description="as it stands in the line")],
        path: RelativePath = ".",
        limit: Annotated[int, Field(ge=1, le=1000)] = 20,
    ) -> Matches:
        """Find the first lines that hold a text, in all text files of a folder and its folders."""
        with explained(path), self._below(path) as found:
            return [*islice(_matches(text, found), limit)]

    @op(effect="pure")
    def find(
        self,
        pattern: Annotated[str, Field(min_length=1, max_length=255, description="such as report.md or *.md")],
        path: RelativePath = ".",
        limit: Annotated[int, Field(ge=1, le=1000)] = 100,
    ) -> Paths:
        """Find files by name, in a folder and its folders; * stands for any characters."""
        with explained(path), self._below(path) as found:
            named = (file.path for file in found if fnmatchcase(_unicode(file.name), pattern))
            return [*islice(named, limit)]

    @op(effect="idempotent")
    def write(self, path: RelativePath, text: str) -> None:
        """Put a text into a file in place of what it held; makes the file and its folders if need be."""
        content = self._writable(path, text)
        with self._turn, explained(path), self._root.parent(path, make=True) as (parent, name):
            _replace(parent, name, content)

    @op(effect="unsafe")
    def edit(
        self,
        path: RelativePath,
        old: Annotated[str, Field(min_length=1, description="a text that stands in the file once")],
        new: str,
    ) -> None:
        """Replace a text that stands in a file exactly once."""
        self._writable(path)
        with self._turn:
            before = self._text(path)
            if (times := before.count(old)) != 1:
                raise EINVAL(
                    f"{path}: old stands in the file {times} times; "
                    + ("give more of the text around it" if times else "it has to be as in the file, space by space")
                )
            content = self._writable(path, before.replace(old, new))
            with explained(path), self._root.parent(path) as (parent, name):
                _replace(parent, name, content)

    @op(effect="unsafe")
    def append(self, path: RelativePath, text: str) -> None:
        """Add a text to the end of a file; makes the file and its folders if need be."""
        content = self._writable(path, text)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with (
            self._turn,
            explained(path),
            self._root.parent(path, make=True) as (parent, name),
            regular(parent, name, flags) as file,
        ):
            if os.fstat(file).st_size + len(content) > MAX_FILE:
                raise OSError(errno.EFBIG, "full")
            _put(file, content)
            os.fsync(parent)

    @op(effect="idempotent")
    def delete(self, path: RelativePath) -> None:
        """Delete a file or an empty folder; one that is not there is no error."""
        self._writable(path)
        with self._turn, explained(path), suppress(FileNotFoundError), self._root.parent(path) as (parent, name):
            found = os.lstat(name, dir_fd=parent)
            if stat.S_ISDIR(found.st_mode):
                os.rmdir(name, dir_fd=parent)
            else:
                refuse_irregular(found)
                os.unlink(name, dir_fd=parent)
            os.fsync(parent)

    def _text(self, path: str) -> str:
        with explained(path), self._root.parent(path) as (parent, name), regular(parent, name, os.O_RDONLY) as file:
            content = _content(file)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise EINVAL(f"{path}: not a text file; byte {error.start} is not UTF-8") from None

    @contextmanager
    def _below(self, path: str) -> Iterator[Iterator[_File]]:
        """Walk through the files of a folder and its folders."""
        names = split(path)
        prefix = "".join(name + "/" for name in names)
        with self._root.folder(names) as folder, closing(_walk(folder, prefix, MAX_SEARCH_DEPTH)) as found:
            yield _bounded(found)

    def _writable(self, path: str, text: str = "") -> bytes:
        if not self._write:
            raise EPERM(f"{path}: the device is read-only; whoever mounts it can say `write`")
        content = text.encode()
        if len(content) > MAX_FILE:
            raise EINVAL(f"{path}: a text of {len(content)} bytes; {MAX_FILE} can be written")
        return content


def _content(file: int) -> bytes:
    with open(file, "rb", closefd=False) as reader:
        content = reader.read(MAX_FILE + 1)  # not by the size, which a growing file or one of /proc belies
    if len(content) > MAX_FILE:
        raise OSError(errno.EFBIG, "large")
    return content


def _put(file: int, content: bytes) -> None:
    with open(file, "wb", closefd=False) as writer:
        writer.write(content)
    os.fsync(file)


def _replace(parent: int, name: str, content: bytes) -> None:
    mode = _mode_to_keep(parent, name)
    # A random name, not one made of the key: two kernels may have the same keys and the same folder.
    beside = f".tokix-{secrets.token_hex(8)}.tmp"
    try:
        with regular(parent, beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            if mode is not None:
                os.fchmod(file, mode)
            _put(file, content)
        os.replace(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        with suppress(FileNotFoundError):  # as it should be
            os.unlink(beside, dir_fd=parent)
    os.fsync(parent)


def _mode_to_keep(parent: int, name: str) -> int | None:
    """Give the mode of the file that is replaced; raises OSError if it is none, or one that may not be written."""
    try:
        found = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return None
    refuse_irregular(found)
    if not found.st_mode & 0o222:  # the rename would not care
        raise PermissionError(errno.EACCES, "read-only")
    return found.st_mode & 0o777


def _entries(folder: int) -> Iterator[tuple[str, os.stat_result]]:
    """Look at the entries of a folder, in the order of their names."""
    with os.scandir(folder) as scan:
        names = sorted(entry.name for entry in islice(scan, MAX_ENTRIES + 1))
    if len(names) > MAX_ENTRIES:
        raise EINVAL(f"a folder has more than {MAX_ENTRIES} entries")
    for name in names:
        with suppress(FileNotFoundError):  # gone since
            yield name, os.lstat(name, dir_fd=folder)


_KINDS: dict[int, Kind] = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


def _info(name: str, found: os.stat_result) -> FileInfo:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    return FileInfo(name=_unicode(name), kind=kind, size=found.st_size, modified=found.st_mtime)


def _unicode(name: str) -> str:
    """Write the bytes of a name that are not UTF-8 with backslashes, for a reply is JSON."""
    return os.fsencode(name).decode(errors="backslashreplace")


#: What a search does not stop for: an entry that is gone since it was listed, and one that the host keeps from us.
_PASSED_OVER = (FileNotFoundError, PermissionError)


class _File(NamedTuple):
    """A regular file that a walk has come to, and the folder where it is, open until the walk goes on."""

    folder: int
    name: str
    path: str
    size: int


def _walk(folder: int, prefix: str, depth: int) -> Generator[_File]:
    """Go through the files of a folder, in the order of their names, and through those of its folders."""
    for name, found in _entries(folder):
        path = prefix + _unicode(name)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk_below(folder, name, path, depth)
        elif stat.S_ISREG(found.st_mode):
            yield _File(folder, name, path, found.st_size)


def _walk_below(parent: int, name: str, path: str, depth: int) -> Generator[_File]:
    if depth == 0:
        raise EINVAL(f"{path}: folders are nested more than {MAX_SEARCH_DEPTH} deep")
    try:
        folder = enter(parent, name)
    except _PASSED_OVER:
        return
    try:
        yield from _walk(folder, path + "/", depth - 1)
    finally:
        os.close(folder)


def _bounded(walk: Iterator[_File]) -> Iterator[_File]:
    for number, file in enumerate(walk, start=1):
        if number > MAX_SEARCH_FILES:
            raise EINVAL(f"{file.path}: too much to search through; search in a smaller folder")
        yield file


def _matches(text: str, files: Iterator[_File]) -> Iterator[Match]:
    needle, size = text.encode(), 0
    for file in files:
        content = _readable(file)
        size += len(content)
        if size > MAX_SEARCH_BYTES:
            raise EINVAL(f"{file.path}: too much to search through; search in a smaller folder")
        if needle not in content:
            continue
        try:
            lines = content.decode().split("\n")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            if (column := line.find(text)) >= 0:
                start = max(0, column + len(text) - MAX_LINE)
                yield Match(path=file.path, line=number, text=line[start : start + MAX_LINE])


def _readable(file: _File) -> bytes:
    """Give the content of a file; nothing of one that is too large, gone or not for us."""
    if file.size <= MAX_FILE:
        with suppress(*_PASSED_OVER), regular(file.folder, file.name, os.O_RDONLY) as opened:
            return _content(opened)
    return b""


def _lines(text: str, first: int, count: int) -> Lines:
    lines = text.removesuffix("\n").split("\n") if text else []
    taken: list[str] = []
    for line in lines[first - 1 : first - 1 + count]:
        if taken and sum(map(len, taken)) + len(taken) + len(line) > MAX_TEXT:
            break
        taken.append(line)
    part, after, note = "\n".join(taken), first + len(taken), ""
    if len(part) > MAX_TEXT:  # it is one line
        note = f"line {first} is cut: it has {len(part)} characters, which `read` gives from an offset on"
    return Lines(text=part[:MAX_TEXT], next=after if after <= len(lines) else None, total=len(lines), note=note)
