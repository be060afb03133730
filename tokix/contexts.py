"""Context files: what a process has in its window and its archive, and what a machine has computed of it.

    tokix context 1 DIGEST      the version, and the sha256 of the next line
    {"model": …}                JSON: see `Header`
    frames                      one after the other, as `Machine.read` gives them
    DIGEST                      the sha256 of the frames

Invariants: a file has its name only when it is whole and on the disk; a frame counts only after all frames were
compared with their digest, and only for a machine of the same arithmetic, for a bit that differs would go on into the
answers of everybody who begins with the same words. Without its frames a context is the same, and computed again.

A context file is for other systems, and never encrypted; so none is written into an encrypted state directory.

Nothing here waits for the machine: `Cabinet.answer` runs a job on a thread of its own, which asks the machine's thread
for a few frames at a time, so that ticks go on in between.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOTDIR, EROFS
from errno import ENOENT as MISSING
from errno import EPERM as FORBIDDEN
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

from anyio import from_thread, to_thread
from pydantic import Field, ValidationError

from tokix.kernel.events import Answer, Pack, Unpack, Unpacked
from tokix.kernel.frames import FRAME, frames_for
from tokix.syscalls import EAGAIN, EINVAL, EIO, ENOENT, EPERM, Role, Saved, SyscallError, Value

if TYPE_CHECKING:
    from tokix.archive import Archive
    from tokix.host import MachineThread
    from tokix.kernel.events import Interrupt
    from tokix.kernel.ports import Machine

VERSION = 3
#: Bytes of frames that are read or written at once.
CHUNK = 8 << 20
_MAGIC = re.compile(rb"tokix context (\d{1,9})(?: ([0-9a-f]{64}))?\n")
#: The digest of the frames, and the end of its line.
_TRAILER = 65

Natural = Annotated[int, Field(ge=0)]
Read = Callable[[Sequence[int], int], bytes]
Write = Callable[[Sequence[int], bytes], None]
Rows = tuple[list[Any], list[Any]]


class Header(Value):
    """What a context file says of itself. Vectors are in base64."""

    model: str
    arithmetic: str
    image: str
    computed: Natural
    frame_size: Natural
    pages: list[tuple[int, int, Role, Natural, float, str]]
    vectors: list[tuple[int, str, str]]

    @property
    def size(self) -> int:
        """Give the bytes of all frames."""
        return frames_for(self.computed) * self.frame_size


class Cabinet:
    """Writes and reads the context files of a machine."""

    def __init__(self, machine: Machine, archive: Archive, closed: Path | None = None) -> None:
        """Into the folder `closed` nothing is written."""
        self.machine, self.archive, self.closed = machine, archive, closed

    def job(self, effect: Pack | Unpack, read: Read, write: Write) -> Callable[[], Saved | Unpacked]:
        """Give the work of an effect, which raises SyscallErrors. Of the archive it is what is there now."""
        if isinstance(effect, Pack):
            return partial(self.pack, effect, self.archive.content(effect.spaces), read)
        return partial(self.unpack, effect, write)

    async def answer(
        self, effect: Pack | Unpack, job: Callable[[], Saved | Unpacked], post: Callable[[Interrupt], None]
    ) -> None:
        """Run a job beside the event loop."""
        try:
            value = await to_thread.run_sync(job)
        except SyscallError as error:
            post(Answer(effect.key, error=error))
        else:
            post(Answer(effect.key, value))

    # ---- writing

    def pack(self, effect: Pack, rows: Rows, read: Read) -> Saved:
        """Write a context file."""
        if self.closed and Path(effect.path).resolve().is_relative_to(self.closed.resolve()):
            raise EPERM(f"{effect.path} is in an encrypted state directory, and context files are not encrypted")
        pages, vectors = rows
        header = Header(
            model=self.machine.name,
            arithmetic=self.machine.arithmetic,
            image=effect.image,
            computed=effect.computed,
            frame_size=self.machine.frame_size,
            pages=pages,
            vectors=[(id, encoder, b64encode(data).decode()) for id, encoder, data in vectors],
        )
        with told(effect.path), fresh(Path(effect.path)) as file:
            line = header.model_dump_json().encode() + b"\n"
            file.write(f"tokix context {VERSION} {sha256(line).hexdigest()}\n".encode() + line)
            digest = sha256()
            for places, tokens in self.chunks(effect.places, effect.computed):
                data = read(places, tokens)
                digest.update(data)
                file.write(data)
            file.write(digest.hexdigest().encode() + b"\n")
            return Saved(tokens=effect.tokens, computed=effect.computed, bytes=file.tell())

    def chunks(self, places: Sequence[int], tokens: int) -> Iterator[tuple[Sequence[int], int]]:
        """Cut places into parts, with the number of tokens in each."""
        step = max(1, CHUNK // self.machine.frame_size)
        for at in range(0, len(places), step):
            part = places[at : at + step]
            yield part, min(len(part) * FRAME, tokens - at * FRAME)

    # ---- reading

    def unpack(self, effect: Unpack, write: Write) -> Unpacked:
        """Read a context file, and fill frames from it."""
        with told(effect.path), existing(effect.path) as file:
            header, seal = opened(file, effect.path)
            if header.model != self.machine.name:
                raise EINVAL(
                    f"{effect.path} was saved on the model {header.model}, and this is {self.machine.name}; "
                    "its tokens mean nothing here"
                )
            if effect.frames:
                if seal != effect.seal:
                    raise EAGAIN(f"{effect.path} has been replaced while it was read")
                self.fill(file, header, effect, write)
        ours = (self.machine.arithmetic, self.machine.frame_size)
        same = (header.arithmetic, header.frame_size) == ours
        pages: list[Any] = header.pages
        return Unpacked(seal, header.image, header.computed if same else 0, pages, self.vectors(header, effect.path))

    def fill(self, file: IO[bytes], header: Header, effect: Unpack, write: Write) -> None:
        """Fill as many frames as are wanted, and compare all with their digest."""
        digest = sha256()
        for numbers, _ in self.chunks(range(frames_for(header.computed)), header.computed):
            data = file.read(len(numbers) * header.frame_size)
            digest.update(data)
            if frames := effect.frames[numbers[0] : numbers[-1] + 1]:
                write(frames, data[: len(frames) * header.frame_size])
        if file.read(_TRAILER) != digest.hexdigest().encode() + b"\n":
            raise damaged(effect.path)

    def vectors(self, header: Header, path: str) -> list[tuple[int, str, bytes]]:
        """Give the vectors that the encoder here understands; it makes the others itself."""
        encoder = self.archive.encoder
        try:
            found = [(id, name, b64decode(text, validate=True)) for id, name, text in header.vectors]
        except Error:
            raise damaged(path) from None
        return [row for row in found if encoder and (row[1], len(row[2])) == (encoder.name, 4 * encoder.dimensions)]


def beside(machine: Machine, thread: MachineThread) -> tuple[Read, Write]:
    """Give the functions by which a job asks a machine that has a thread of its own."""
    return partial(from_thread.run, thread.call, machine.read), partial(from_thread.run, thread.call, machine.fill)


# ---- files


def opened(file: IO[bytes], path: str) -> tuple[Header, str]:
    """Read the beginning of a context file; gives its digest, too, which is the seal of the file."""
    magic = _MAGIC.fullmatch(file.readline(200))
    if magic is None:
        raise EINVAL(f"{path} is no context file")
    if int(magic[1]) != VERSION or magic[2] is None:
        raise EINVAL(f"{path} is a context file of version {magic[1].decode()}, and this tokix reads version {VERSION}")
    line = file.readline()
    seal = sha256(line).hexdigest()
    if seal != magic[2].decode():
        raise damaged(path)
    try:
        header = Header.model_validate_json(line)
    except ValidationError:
        raise EINVAL(f"{path} is no context file that tokix has written") from None
    if os.fstat(file.fileno()).st_size != file.tell() + header.size + _TRAILER:
        raise damaged(path)
    return header, seal


def damaged(path: str) -> EIO:
    return EIO(f"{path} is damaged: it is not what was saved")


@contextmanager
def existing(path: str) -> Iterator[IO[bytes]]:
    """Open a file to read. Whatever else has the name is not waited for."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise EINVAL(f"{path} is no file")
        with open(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


@contextmanager
def fresh(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that has its name when the block is done, and is on the disk then; else it is gone."""
    if path.exists() and not path.is_file():
        raise EINVAL(f"{path} is there, and is no file")
    number, name = tempfile.mkstemp(prefix=".tokix-", dir=path.parent)
    try:
        with open(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(number)
        os.replace(name, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def told(path: str) -> Iterator[None]:
    """Let what the system refuses be an error of the call."""
    try:
        yield
    except OSError as error:
        text = f"{path}: {error.strerror}"
        if error.errno == MISSING:
            raise ENOENT(text) from None
        if error.errno in (EACCES, FORBIDDEN, EROFS):
            raise EPERM(text) from None
        if error.errno in (EISDIR, ELOOP, ENAMETOOLONG, ENOTDIR):
            raise EINVAL(text) from None
        raise EIO(text) from None
