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
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import checkpoint

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
    """The other side has closed the connection; a kernel that does so says that this process has ended, and why."""


class TooLong(Exception):
    """A line has more bytes than it may have."""


def cause(problem: BaseException) -> BaseException:
    """Give the first of several problems that have one cause: the kernel is gone, or nobody reads the output."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem


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
    with socket.socket(socket.AF_UNIX) as end:
        try:
            with reachable(folder / SOCKET) as path:
                end.connect(path)
            client = await SocketClient.attach(Wire(end), program)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError, Gone):  # or it was about to end
            raise NoKernel(f"no kernel runs on {folder}; `tokix sh` or `tokix run` starts one") from None
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


class Wire:
    """One end of a socket that carries lines.

    Not a stream of anyio: those, when they are cancelled in the moment in which something arrives, leave a traceback
    on the terminal (`Future.set_result`, InvalidStateError). `wait_readable` does not.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._buffer = bytearray()

    async def line(self, limit: int | None = None) -> bytes:
        """Give the next line, without its end. Raises Gone, and TooLong for one with more bytes than the limit."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if limit is not None and seen > limit:
                raise TooLong
            self._buffer += await self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _receive(self) -> bytes:
        await checkpoint()
        while True:
            try:
                piece = self._end.recv(65536)
            except BlockingIOError:
                await anyio.wait_readable(self._end)
            except OSError as error:
                raise Gone(error.strerror or str(error)) from error
            else:
                if not piece:
                    raise Gone("it has closed the connection")
                return piece

    async def send(self, text: bytes) -> None:
        """Send whole lines. Raises Gone."""
        await checkpoint()
        left = memoryview(text)
        while left:
            try:
                left = left[self._end.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._end)
            except OSError as error:
                raise Gone(error.strerror or str(error)) from error


class SocketClient:
    """The connection. Nothing runs in the background: one of those who wait for a reply reads for all of them."""

    def __init__(self, wire: Wire) -> None:
        self.pid = 0
        self._wire = wire
        self._ids = count(1)
        self._replies: dict[str, tuple[bool, str]] = {}
        self._waiting: dict[str, anyio.Event] = {}
        self._sending, self._reading = anyio.Lock(), False

    @classmethod
    async def attach(cls, wire: Wire, program: str) -> SocketClient:
        """Begin: say the name of the program, learn the pid."""
        client = cls(wire)
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
            await self._wire.send(text)

    async def _receive(self) -> Any:
        line = json.loads(await self._wire.line())
        if "hangup" in line:
            raise Gone(line["hangup"])
        return line
