"""A foreign process, seen from its own side: the kernel is elsewhere, behind a Unix socket.

    async with connect(folder, "ps") as client:
        for process in await client.call(Stat()):
            ...

The wire carries JSON lines. First `{"program":"ps"}`, answered by `{"pid":7}`; then calls `{"id":"1","call":{…}}`, each
answered by `{"id":"1","ok":true,"value":…}` or `{"id":"1","ok":false,"error":{"errno":…,"detail":…,"key":…}}` when
its outcome is decided, in that order. The connection is the process: when one ends, so does the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tokix.syscalls import Syscall
from tokix.syscalls.base import to_json
from tokix.syscalls.errors import decode_error

R = TypeVar("R")

SOCKET = "control.sock"
#: Bytes of one line.
MAX_LINE = 1 << 20
#: What the kernel of Linux has for the path of a socket, less one.
MAX_PATH = 107


class NoKernel(Exception):
    """No kernel runs on a state directory."""


class Gone(Exception):
    """The kernel has closed the connection: this process has ended."""


class Client(Protocol):
    """What both kinds of foreign processes can do: those behind a socket, and those beside the kernel."""

    pid: int

    async def call(self, call: Syscall[R]) -> R:
        """Give the reply; raises its SyscallError, or Gone. Several calls can wait at the same time."""


def outcome(call: Syscall[R], ok: bool, text: str) -> R:
    """Decode what a `Reply` carries; raises the error that it is."""
    if not ok:
        raise decode_error(text)
    value: R = call.reply.validate_json(text)
    return value


@asynccontextmanager
async def connect(folder: Path, program: str) -> AsyncIterator[SocketClient]:
    """Become a foreign process of the kernel that runs on a state directory; raises NoKernel."""
    try:
        with reachable(folder / SOCKET) as path:
            stream = await anyio.connect_unix(path)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NoKernel(f"no kernel runs on {folder}") from None
    async with stream:
        try:
            client = await SocketClient.attach(stream, program)
        except Gone:  # it was about to end
            raise NoKernel(f"no kernel runs on {folder}") from None
        yield client


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """Give a path to a socket that is short enough for the system; raises OSError if there is none.

    The limit is on the text of the path: a long one is reached through its folder, which Linux can name by descriptor.
    """
    text = str(path)
    if len(os.fsencode(text)) <= MAX_PATH or not Path("/proc/self/fd").exists():
        yield text
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class SocketClient:
    """The connection. Nothing runs in the background: one of those who wait for a reply reads for all of them."""

    def __init__(self, stream: ByteStream) -> None:
        self.pid = 0
        self._stream = stream
        self._lines = BufferedByteReceiveStream(stream)
        self._ids = count(1)
        self._replies: dict[str, tuple[bool, str]] = {}
        self._waiting: dict[str, anyio.Event] = {}
        self._sending, self._reading = anyio.Lock(), False

    @classmethod
    async def attach(cls, stream: ByteStream, program: str) -> SocketClient:
        """Begin: say the name of the program, learn the pid."""
        client = cls(stream)
        await client._send({"program": program})
        client.pid = (await client._receive())["pid"]
        return client

    async def call(self, call: Syscall[R]) -> R:
        """Give the reply; raises its SyscallError, or Gone. Several calls can wait at the same time."""
        key = str(next(self._ids))
        await self._send({"id": key, "call": call.model_dump(mode="json")})
        try:
            while key not in self._replies:
                if self._reading:
                    self._waiting[key] = anyio.Event()
                    await self._waiting[key].wait()
                else:
                    await self._read()
        finally:
            self._waiting.pop(key, None)
            for woken in [*self._waiting.values()][:1]:  # to read from here on, if nobody does
                woken.set()
        return outcome(call, *self._replies.pop(key))

    async def _read(self) -> None:
        """Take one line, and wake whoever waits for it."""
        self._reading = True
        try:
            line = await self._receive()
        finally:
            self._reading = False
        text = to_json(line["value"] if line["ok"] else line["error"])
        if line["id"] is None:  # about a line that could not be read, and so not about a call of ours
            raise Gone(text)
        self._replies[line["id"]] = (line["ok"], text)
        if line["id"] in self._waiting:
            self._waiting[line["id"]].set()

    async def _send(self, line: dict[str, Any]) -> None:
        text = json.dumps(line).encode() + b"\n"
        if len(text) > MAX_LINE:
            raise ValueError(f"a call of {len(text)} bytes; {MAX_LINE} can be sent")
        async with self._sending:
            try:
                await self._stream.send(text)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                raise Gone("the kernel has closed the connection") from error

    async def _receive(self) -> Any:
        try:
            line = json.loads(await self._lines.receive_until(b"\n", 1 << 30))
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Gone("the kernel has closed the connection") from error
        if "hangup" in line:
            raise Gone(line["hangup"])
        return line
