"""The control socket: processes whose programs run elsewhere, such as `tokix ps` in another terminal.

Each connection is one foreign process; `tokix.shell.client` has the other side, and says what the lines look like. What
comes in may be anything: it is answered with an error, and never harms the kernel. A caller who does not read its
replies stops being heard, so that neither can fill the memory.
"""

from __future__ import annotations

import errno
import json
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import anyio
from pydantic import Field, ValidationError

from tokix.kernel.events import Detach, Interrupt, Trap
from tokix.shell.client import MAX_LINE, Gone, TooLong, Wire, outcome, reachable
from tokix.syscalls import EINVAL, AnySyscall, Syscall
from tokix.syscalls.abi import explain
from tokix.syscalls.base import Value
from tokix.syscalls.errors import encode_error

R = TypeVar("R")

#: Calls of one connection that wait or whose replies nobody has read yet.
MAX_CALLS = 1024


class Line(Protocol):
    """The other end of a foreign process, as the edge sees it."""

    def attached(self, pid: int) -> None:
        """It has become a process."""

    def replied(self, key: str, ok: bool, text: str) -> None:
        """A call has its outcome."""

    def hungup(self, reason: str) -> None:
        """The process has ended."""


class Hello(Value):
    """The first line of a connection."""

    program: Annotated[str, Field(min_length=1, max_length=200)]


class Asked(Value):
    """Every other line."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    call: AnySyscall


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen at a path, which only the holder of the folder's lock may do: a socket that is there is a dead one's."""
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        with reachable(path) as short:
            listener.bind(short)
        try:
            path.chmod(0o600)
            listener.listen()
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


class Control:
    """All connections."""

    def __init__(self, arrive: Callable[[Line, str], None], post: Callable[[Interrupt], None]) -> None:
        """`arrive` makes a foreign process of a line, and `post` hands interrupts to the kernel."""
        self._arrive, self._post = arrive, post
        self._connections = 0
        self._alone = anyio.Event()
        self._alone.set()

    async def serve(self, listener: socket.socket) -> None:
        """Take connections for ever."""
        async with anyio.create_task_group() as group:
            while True:
                await anyio.wait_readable(listener)
                try:
                    end, _ = listener.accept()
                except (BlockingIOError, ConnectionAbortedError):  # somebody has changed his mind
                    continue
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE):
                        raise
                    await anyio.sleep(0.1)  # too many open files: somebody has to leave first
                else:
                    group.start_soon(self._serve_one, end)

    async def alone(self) -> None:
        """Wait until nobody is connected."""
        await self._alone.wait()

    async def _serve_one(self, end: socket.socket) -> None:
        if not self._connections:
            self._alone = anyio.Event()
        self._connections += 1
        try:
            with end:
                await Connection(Wire(end), self._post).run(self._arrive)
        finally:
            self._connections -= 1
            if not self._connections:
                self._alone.set()


class Connection:
    """One foreign process."""

    def __init__(self, wire: Wire, post: Callable[[Interrupt], None]) -> None:
        self._wire, self._post = wire, post
        self._pid = 0
        self._attached, self._ready, self._written = anyio.Event(), anyio.Event(), anyio.Event()
        #: The process has ended, or has never been.
        self._ended = False
        #: Calls without an outcome, and lines that are not yet sent.
        self._open: set[str] = set()
        self._out: deque[bytes] = deque()

    # ---- what the edge tells it

    def attached(self, pid: int) -> None:
        self._pid = pid
        self._put(f'{{"pid":{pid}}}')
        self._attached.set()

    def replied(self, key: str, ok: bool, text: str) -> None:
        self._open.discard(key)
        self._put(f'{{"id":{json.dumps(key)},"ok":{json.dumps(ok)},"{"value" if ok else "error"}":{text}}}')

    def hungup(self, reason: str) -> None:
        self._ended = True
        self._put(json.dumps({"hangup": reason}))

    def _refuse(self, id: str | None, why: str) -> None:
        self._put(f'{{"id":{json.dumps(id)},"ok":false,"error":{encode_error(EINVAL(why))}}}')

    def _put(self, line: str) -> None:
        self._out.append(line.encode() + b"\n")
        self._ready.set()

    # ---- what it does

    async def run(self, arrive: Callable[[Line, str], None]) -> None:
        """Be a foreign process until one side leaves; who only stops talking gets the replies that are decided."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._write, group.cancel_scope)
                with suppress(Gone, TooLong):
                    await self._read(arrive)
                if self._pid:
                    self._post(Detach(self._pid))
                else:
                    self._ended = True
                    self._ready.set()
        finally:
            if self._pid:  # whatever happened; a second time is harmless
                self._post(Detach(self._pid))

    async def _read(self, arrive: Callable[[Line, str], None]) -> None:
        try:
            hello = Hello.model_validate_json(await self._line())
        except ValidationError as error:
            return self._refuse(None, explain(error))
        arrive(self, hello.program)
        await self._attached.wait()
        while True:
            self._take(await self._line())
            while len(self._open) + len(self._out) >= MAX_CALLS:
                self._written = anyio.Event()
                await self._written.wait()

    async def _line(self) -> bytes:
        try:
            return await self._wire.line(MAX_LINE)
        except TooLong:
            self._refuse(None, f"a line has at most {MAX_LINE} bytes")
            raise

    def _take(self, line: bytes) -> None:
        try:
            asked = Asked.model_validate_json(line)
        except ValidationError as error:
            return self._refuse(_id(line), explain(error))
        self._open.add(asked.id)
        return self._post(Trap(self._pid, asked.id, asked.call))

    async def _write(self, scope: anyio.CancelScope) -> None:
        """Send what is to be said; when the process has ended and all is said, the connection ends."""
        with suppress(Gone):
            while self._out or not self._ended:
                self._ready = anyio.Event()
                while self._out:
                    await self._wire.send(self._out[0])
                    self._out.popleft()
                    self._written.set()
                if not self._ended:
                    await self._ready.wait()
        scope.cancel()


class Local:
    """A foreign process inside the kernel's own: a client without a wire."""

    def __init__(self, post: Callable[[Interrupt], None]) -> None:
        self.pid = 0
        self.here = anyio.Event()
        self._post = post
        self._ids = count(1)
        self._open: dict[str, anyio.Event] = {}
        self._replies: dict[str, tuple[bool, str]] = {}
        self._ended = ""

    def attached(self, pid: int) -> None:
        self.pid = pid
        self.here.set()

    def replied(self, key: str, ok: bool, text: str) -> None:
        self._replies[key] = (ok, text)
        self._open.pop(key).set()

    def hungup(self, reason: str) -> None:
        self._ended = reason
        while self._open:
            self._open.popitem()[1].set()

    async def call(self, call: Syscall[R]) -> R:
        """Give the reply; raises its SyscallError, or Gone. Several calls can wait at the same time."""
        key = str(next(self._ids))
        if not self._ended:
            decided = self._open[key] = anyio.Event()
            self._post(Trap(self.pid, key, call))
            await decided.wait()
        if key not in self._replies:
            raise Gone(self._ended)
        return outcome(call, *self._replies.pop(key))


def _id(line: bytes) -> str | None:
    """Give the id of a line that is wrong otherwise."""
    try:
        found: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    id = found.get("id") if isinstance(found, dict) else None
    return id if isinstance(id, str) else None
