"""Streams: the terminal, pipes, and nothing.

A stream is a durable queue of text with offsets. Pipes join processes; `tty:out` is read by the outside, which
acknowledges what it has shown, and after a restart gets the rest again, with the same offsets; `tty:in` is written by
the outside. There can be more terminals, `tty:NAME:in` and `tty:NAME:out`: they are there for as long as somebody is on
them, or something is not shown. A pipe ends for its readers when the last writer has closed it, and breaks for its
writers when the last reader is gone. A full stream makes writers wait; the text of a burst is never held up.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tokix.kernel import taking
from tokix.kernel.events import Prompt, Show
from tokix.kernel.outcome import BLOCKED, NULL
from tokix.syscalls import EBADF, EINVAL, EPIPE, Read, Write
from tokix.syscalls.base import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process

#: Characters in a stream before writers wait.
CAPACITY = 65536
TTY_IN, TTY_OUT, NULL_STREAM = "tty:in", "tty:out", "null"
INIT_FDS: Mapping[int, str] = {0: NULL_STREAM, 1: TTY_OUT, 2: TTY_OUT}
TTY_FDS: Mapping[int, str] = {0: TTY_IN, 1: TTY_OUT, 2: TTY_OUT}
#: Streams that are always there: nobody keeps count of who has an end of them.
_UNCOUNTED = {NULL_STREAM, TTY_IN, TTY_OUT}
_TERMINAL = re.compile("tty:([A-Za-z0-9_.-]{1,64})")


class Chunk(NamedTuple):
    """A piece of text, and who wrote it."""

    offset: int
    pid: int
    fd: int
    text: str


@dataclass(slots=True, eq=False)
class Stream:
    """Text on its way."""

    name: str
    chunks: deque[Chunk] = field(default_factory=deque)
    size: int = 0
    next: int = 0
    #: Pids with an end of it, and whether there ever was one.
    readers: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)
    read: bool = False
    written: bool = False
    #: Pids that have said their last word.
    closed: set[int] = field(default_factory=set)
    #: The outside has ended its input.
    eof: bool = False
    waiting_readers: deque[Branch] = field(default_factory=deque)
    waiting_writers: deque[Branch] = field(default_factory=deque)

    @property
    def pipe(self) -> bool:
        return self.name.startswith("pipe:")

    @property
    def visible(self) -> bool:
        """What is written to it is for the outside."""
        return self.name.startswith("tty:") and self.name.endswith(":out")

    @property
    def ended(self) -> bool:
        """No more text will come."""
        return self.eof or (self.pipe and self.written and not self.writers)

    @property
    def broken(self) -> bool:
        """Nobody will read any more."""
        return self.pipe and self.read and not self.readers


def target(process: Process, fd: int, spec: str) -> str:
    """Give the name of the stream that `Spawn` means by `tty`, `tty:NAME`, `null` or `pipe:NAME`; raises EINVAL."""
    if spec == "tty":
        return TTY_FDS.get(fd, TTY_OUT)
    if _TERMINAL.fullmatch(spec):
        return f"{spec}:out" if fd else f"{spec}:in"
    if spec == "null":
        return NULL_STREAM
    kind, _, name = spec.partition(":")
    if kind != "pipe" or not name:
        raise EINVAL(f"descriptor {fd}: {spec!r} is not tty, tty:NAME, null or pipe:NAME")
    return f"pipe:{process.pid}:{name}"


def get(k: Kernel, name: str) -> Stream:
    stream = k.streams.get(name)
    if stream is None:
        stream = k.streams[name] = Stream(name)
    return stream


def inherited(k: Kernel, parent: Process) -> Mapping[int, str]:
    """Give the descriptors that a child gets: those of its parent, but for pipes on which that said its last word."""
    shut = {name for name in parent.fds.values() if name in k.streams and parent.pid in k.streams[name].closed}
    return {fd: name for fd, name in parent.fds.items() if fd == 0 or name not in shut} if shut else parent.fds


def open_ends(k: Kernel, process: Process) -> None:
    """A new process has an end of every stream among its descriptors: 0 is for reading."""
    for fd, name in process.fds.items():
        if name not in _UNCOUNTED:
            if name.startswith("pipe:"):
                own(k, name)
            join(k, process, get(k, name), writes=fd != 0)


def own(k: Kernel, name: str) -> None:
    """Remember whose pipe it is."""
    if owner := k.procs.get(int(name.split(":")[1])):
        owner.made = owner.made or set()
        owner.made.add(name)


def join(k: Kernel, process: Process, stream: Stream, writes: bool) -> None:
    """Count a process among the readers or the writers of a stream."""
    pids = stream.writers if writes else stream.readers
    if stream.name in _UNCOUNTED or process.pid in pids:
        return
    pids.add(process.pid)
    stream.written, stream.read = stream.written or writes, stream.read or not writes
    process.pipes = process.pipes or set()
    process.pipes.add(stream.name)
    save(k, stream)


def close_ends(k: Kernel, process: Process) -> None:
    """A process has ended: so have its ends."""
    owned = set(process.made or ())
    for name in sorted(owned | (process.pipes or set())):
        stream = k.streams.get(name)
        if stream is None:
            continue
        stream.readers.discard(process.pid)
        stream.writers.discard(process.pid)
        if name in owned:  # nobody can open another end any more
            stream.read = stream.written = True
        settle(k, stream)
    process.pipes = process.made = None


def settle(k: Kernel, stream: Stream) -> None:
    """An end was closed: who waits for the other side goes on; a stream that nobody can reach goes away."""
    finish(k, stream)
    if stream.broken:
        while stream.waiting_writers:
            k.reply(stream.waiting_writers.popleft(), error=EPIPE("nobody reads any more"))
    owner = k.procs.get(int(stream.name.split(":")[1])) if stream.pipe else None
    unseen = stream.visible and stream.chunks
    if stream.readers or stream.writers or unseen or (owner and not owner.status and not stream.broken):
        return save(k, stream)
    for chunk in stream.chunks:
        k.erase("chunk", (stream.name, chunk.offset))
    k.erase("stream", (stream.name,))
    del k.streams[stream.name]
    if owner and owner.made:
        owner.made.discard(stream.name)
    return None


def finish(k: Kernel, stream: Stream) -> None:
    """Tell the readers if no more will come."""
    while stream.ended and not stream.chunks and stream.waiting_readers:
        k.reply(stream.waiting_readers.popleft(), "")


# ---- calls


def read(k: Kernel, b: Branch, c: Read) -> object:
    stream = resolve(k, b, c.fd, writes=False)
    if stream is None:
        return ""
    join(k, b.proc, stream, writes=False)
    if stream.chunks and taking.may_take(b):
        return pull(k, stream, c.limit)
    if stream.ended and not stream.chunks:
        return ""
    stream.waiting_readers.append(b)
    if not stream.pipe:
        k.effects.append(Prompt(stream.name))
    return k.until(b, c.timeout)


def write(k: Kernel, b: Branch, c: Write) -> object:
    stream = resolve(k, b, c.fd, writes=True)
    if stream is None:
        return NULL
    if b.proc.pid in stream.closed:
        raise EBADF(f"descriptor {c.fd} was closed for writing")
    join(k, b.proc, stream, writes=True)
    if stream.broken:
        raise EPIPE("nobody reads any more")
    if stream.size >= CAPACITY:
        k.begin(b, order=next(k.serial))
        stream.waiting_writers.append(b)
        return BLOCKED
    accept(k, stream, b)
    return NULL


def accept(k: Kernel, stream: Stream, b: Branch) -> None:
    """Take the text of a Write."""
    if b.call.text:
        fd = b.call.fd if isinstance(b.call.fd, int) else 1
        push(k, stream, b.proc.pid, fd, b.call.text)
    if b.call.close and stream.pipe:
        stream.closed.add(b.proc.pid)
        stream.writers.discard(b.proc.pid)
        if b.proc.pipes and b.proc.pid not in stream.readers:
            b.proc.pipes.discard(stream.name)
        settle(k, stream)


def resolve(k: Kernel, b: Branch, fd: int | str, writes: bool) -> Stream | None:
    """Give the stream of a descriptor, None for null; raises EBADF."""
    if isinstance(fd, str):
        name = f"pipe:{b.proc.pid}:{fd.removeprefix('pipe:')}"
        if not fd.startswith("pipe:") or name not in k.streams:
            raise EBADF(f"{fd}: not a pipe of this process; spawn a process with it first")
        return k.streams[name]
    if fd not in b.proc.fds:
        raise EBADF(f"descriptor {fd} is not open")
    if writes == (fd == 0):
        raise EBADF(f"descriptor {fd} is for {'reading' if fd == 0 else 'writing'}")
    name = b.proc.fds[fd]
    return None if name == NULL_STREAM else get(k, name)


def withdraw(k: Kernel, b: Branch) -> None:
    """Take back a Read or a Write that waits."""
    fd = b.call.fd
    name = b.proc.fds.get(fd, "") if isinstance(fd, int) else f"pipe:{b.proc.pid}:{fd.removeprefix('pipe:')}"
    if stream := k.streams.get(name):
        for waiting in (stream.waiting_readers, stream.waiting_writers):
            if b in waiting:
                waiting.remove(b)


# ---- text


def emit(k: Kernel, process: Process, fd: int, text: str) -> None:
    """Write for a process that cannot wait; where nobody reads, the text is dropped."""
    name = process.fds.get(fd, NULL_STREAM)
    if name != NULL_STREAM:
        stream = get(k, name)
        if not stream.broken and process.pid not in stream.closed:
            join(k, process, stream, writes=True)
            push(k, stream, process.pid, fd, text)


def push(k: Kernel, stream: Stream, pid: int, fd: int, text: str) -> None:
    chunk = Chunk(stream.next, pid, fd, text)
    stream.next += 1
    stream.size += len(text)
    stream.chunks.append(chunk)
    k.insert("chunk", (stream.name, chunk.offset), (stream.name, *chunk))
    if stream.visible:
        k.effects.append(Show(stream.name, *chunk))
    save(k, stream)
    for reader in tuple(stream.waiting_readers):
        if stream.chunks and taking.may_take(reader):
            stream.waiting_readers.remove(reader)
            k.reply(reader, pull(k, stream, reader.call.limit))


def pull(k: Kernel, stream: Stream, limit: int) -> str:
    """Take up to `limit` characters; writers that waited for room go on."""
    parts: list[str] = []
    while stream.chunks and limit:
        chunk = stream.chunks.popleft()
        part, rest = chunk.text[:limit], chunk.text[limit:]
        parts.append(part)
        limit -= len(part)
        if rest:
            stream.chunks.appendleft(chunk._replace(text=rest))
            k.put("chunk", (stream.name, chunk.offset), (stream.name, *stream.chunks[0]))
        else:
            k.erase("chunk", (stream.name, chunk.offset))
    text = "".join(parts)
    drain(k, stream, len(text))
    return text


def drain(k: Kernel, stream: Stream, characters: int) -> None:
    stream.size -= characters
    while stream.waiting_writers and stream.size < CAPACITY:
        writer = stream.waiting_writers.popleft()
        accept(k, stream, writer)
        k.reply(writer, NULL)


def shown(k: Kernel, name: str, offset: int) -> None:
    """The outside has what came up to an offset."""
    stream = k.streams.get(name)
    if stream is None:
        return
    characters = 0
    while stream.chunks and stream.chunks[0].offset <= offset:
        chunk = stream.chunks.popleft()
        k.erase("chunk", (name, chunk.offset))
        characters += len(chunk.text)
    drain(k, stream, characters)
    if name not in _UNCOUNTED and not stream.writers:
        settle(k, stream)


def feed(k: Kernel, name: str, text: str | None) -> None:
    """Text, or its end, comes in from the outside; for a terminal that nobody is on any more, it is dropped."""
    stream = get(k, name) if name == TTY_IN else k.streams.get(name)
    if stream is None:
        return
    if text:
        push(k, stream, 0, 0, text)
    elif text is None:
        stream.eof = True
        finish(k, stream)


# ---- durability


def save(k: Kernel, stream: Stream) -> None:
    pids = [sorted(pids) for pids in (stream.readers, stream.writers, stream.closed)]
    note = [stream.next, *pids, stream.read, stream.written]
    k.put("stream", (stream.name,), (stream.name, to_json(note)))


def recover(k: Kernel, notes: list[tuple[Any, ...]], chunks: list[tuple[Any, ...]]) -> None:
    """Restore the streams of the store; what was not acknowledged is shown again."""
    for name, note in notes:
        stream = get(k, name)
        stream.next, readers, writers, closed, stream.read, stream.written = from_json(note)
        stream.readers, stream.writers, stream.closed = set(readers), set(writers), set(closed)
        if stream.pipe:
            own(k, name)
        for pid in stream.readers | stream.writers:
            process = k.procs[pid]
            process.pipes = process.pipes or set()
            process.pipes.add(name)
    for name, offset, pid, fd, text in sorted(chunks):
        chunk = Chunk(offset, pid, fd, text)
        stream = get(k, name)
        stream.chunks.append(chunk)
        stream.size += len(chunk.text)
        if stream.visible:
            k.effects.append(Show(name, *chunk))
