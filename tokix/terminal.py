"""The terminal: three descriptors that the kernel's processes share, or, for a shell, one of its own for each job.

Output is acknowledged after it was written, never before: what nobody has seen is shown again by the next kernel.
Nothing is read before a process asks for it. Neither reading nor writing holds up the kernel, and both can be
cancelled at any time: they wait until a descriptor is ready, and then ask for no more than it can do at once.
"""

from __future__ import annotations

import os
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from select import PIPE_BUF
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from tokix.kernel.events import Input, Prompt, Show, Shown
from tokix.shell import ttys


class Outside(Protocol):
    """Where a kernel shows what is written, and asks for input."""

    def show(self, show: Show) -> None:
        """Take a piece of output."""

    def prompt(self, prompt: Prompt) -> None:
        """Note that a process waits for input."""

    def report(self, text: str) -> None:
        """Tell the operator something, from any thread."""

    async def drained(self) -> None:
        """Wait until all output is written and acknowledged."""

    async def write(self, acknowledge: Callable[[Shown], None]) -> None:
        """Show the output, for ever; raises OSError if that is not possible."""

    async def read(self, give: Callable[[Input], None]) -> None:
        """Read for those who ask, for ever."""


class Terminal:
    """Shows what processes write, and reads what they ask for."""

    def __init__(self, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self._in, self._out, self._err = Source(stdin), stdout, stderr
        self._shows: deque[Show] = deque()
        self._lines = 0
        self._asked = self._ready = self._drained = anyio.Event()
        self._drained.set()

    def show(self, show: Show) -> None:
        """Queue a piece of output."""
        self._shows.append(show)
        if self._drained.is_set():
            self._drained = anyio.Event()
        self._ready.set()

    def prompt(self, prompt: Prompt) -> None:
        """Note that a process waits for input."""
        self._lines += 1
        self._asked.set()

    def report(self, text: str) -> None:
        """Tell the operator something, from any thread."""
        with suppress(OSError):  # nobody is there to be told
            os.write(self._err, f"tokix: {text}\n".encode(errors="replace"))

    async def drained(self) -> None:
        """Wait until all output is written and acknowledged."""
        await self._drained.wait()

    async def write(self, acknowledge: Callable[[Shown], None]) -> None:
        """Write what is shown, for ever; raises OSError if that is not possible."""
        while True:
            self._ready = anyio.Event()
            while self._shows:
                shows = list(self._shows)
                for fd, group in groupby(shows, key=lambda show: self._err if show.fd == 2 else self._out):
                    await put(fd, "".join(show.text for show in group))
                for _ in shows:
                    self._shows.popleft()
                for stream in dict.fromkeys(show.stream for show in shows):
                    acknowledge(Shown(stream, max(show.offset for show in shows if show.stream == stream)))
            self._drained.set()
            await self._ready.wait()

    async def read(self, give: Callable[[Input], None]) -> None:
        """Read for those who ask, for ever."""
        while True:
            self._asked = anyio.Event()
            while self._lines:
                text = await self._in.read()
                self._lines -= 1
                give(Input("tty:in", text or None))
            await self._asked.wait()


class Terminals:
    """As many terminals as there are jobs, each with a `Port`, on which a shell shows and types what it likes."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` shows a line to the operator, from any thread."""
        self.report = tell
        self.stranger: Callable[[Port], None] = _nobody
        self._acknowledge: Callable[[Shown], None] = _unheard
        self._give: Callable[[Input], None] = _unheard
        self.asked = Bell()
        #: The terminal without a name, where devices ask: the answer is typed into the job that is in front.
        self.common = Port("tty", self)
        self._ports = {"tty": self.common}

    def port(self, stream: str) -> Port:
        """Give the port of a terminal, by the name of any of its streams: `tty:in`, `tty:NAME:out`, …."""
        tty = stream.rpartition(":")[0]
        if tty not in self._ports:
            self._ports[tty] = Port(tty, self)
        return self._ports[tty]

    def acknowledge(self, shown: Shown) -> None:
        self._acknowledge(shown)

    def give(self, text: Input) -> None:
        self._give(text)

    def claim(self, name: str) -> Port:
        """Give the port of a terminal of that name; what happens there waits until it is opened."""
        port = self.port(f"tty:{name}:out")
        port.opened = True
        return port

    def greet(self, stranger: Callable[[Port], None]) -> None:
        """Tell somebody of the terminals that nobody has opened, now and whenever there is a new one."""
        self.stranger = stranger
        for port in tuple(self._ports.values()):
            if not port.opened:
                stranger(port)

    def show(self, show: Show) -> None:
        port = self.port(show.stream)
        if not port.opened:
            self.stranger(port)
        port.show(show)

    def prompt(self, prompt: Prompt) -> None:
        self.port(prompt.stream).wanted += 1
        self.asked.ring()

    async def drained(self) -> None:
        await checkpoint()

    async def write(self, acknowledge: Callable[[Shown], None]) -> None:
        self._acknowledge = acknowledge
        await anyio.sleep_forever()

    async def read(self, give: Callable[[Input], None]) -> None:
        self._give = give
        await anyio.sleep_forever()


def _nobody(port: Port) -> None:
    """Let a stranger wait."""


def _unheard(event: Shown | Input) -> None:
    raise AssertionError("the kernel has not begun yet")


class Bell:
    """Wakes all who wait for it."""

    def __init__(self) -> None:
        self._rung = anyio.Event()

    def ring(self) -> None:
        self._rung.set()
        self._rung = anyio.Event()

    async def wait(self) -> None:
        await self._rung.wait()


class Port:
    """One terminal, as a shell has it: a `tokix.shell.ttys.Tty`. What comes before it is opened waits."""

    def __init__(self, tty: str, terminals: Terminals) -> None:
        self.fds = dict.fromkeys(range(3), tty)
        #: Somebody has it, or will have it soon.
        self.opened = False
        #: How many wait for a line.
        self.wanted = 0
        self._tty, self._terminals = tty, terminals
        self._take: ttys.Show | None = None
        self._early: list[Show] = []
        #: Offsets on their way to the screen; those that are there but not yet acknowledged.
        self._open: deque[int] = deque()
        self._seen: set[int] = set()

    # ---- the kernel's side

    def show(self, show: Show) -> None:
        if self._take is None:
            self._early.append(show)
            return
        self._open.append(show.offset)
        self._take(show.fd, show.text, lambda: self._shown(show))

    def _shown(self, show: Show) -> None:
        """Acknowledge in the order of the offsets: one is for all before it."""
        self._seen.add(show.offset)
        last = None
        while self._open and self._open[0] in self._seen:
            last = self._open.popleft()
            self._seen.discard(last)
        if last is not None:
            self._terminals.acknowledge(Shown(show.stream, last))

    # ---- the shell's side

    def open(self, show: ttys.Show, group: TaskGroup) -> None:
        self.hear(show)

    def hear(self, show: ttys.Show) -> None:
        """Hand over what is written, from the first."""
        self.opened, self._take = True, show
        early, self._early = self._early, []
        for piece in early:
            self.show(piece)

    async def wants(self, own: bool) -> None:
        while not (self._terminals.common.wanted or (own and self.wanted)):
            await self._terminals.asked.wait()

    async def asked(self, pids: list[int]) -> None:
        while not self.wanted:
            await self._terminals.asked.wait()

    async def give(self, text: str) -> None:
        await checkpoint()
        port = self._terminals.common if self._terminals.common.wanted else self
        port.wanted = max(0, port.wanted - 1)
        self._terminals.give(Input(f"{port._tty}:in", text or None))

    async def settled(self) -> None:
        await checkpoint()  # all is handed over in the moment in which it comes

    async def close(self) -> str:
        return ""


class Source:
    """Text from a descriptor. A terminal gives a line at a time; a pipe or a file gives what there is."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = getincrementaldecoder("utf-8")("replace")

    async def read(self) -> str:
        """Give the next piece, "" at the end, and where the descriptor is closed."""
        while True:
            piece = await self._piece()
            text = self._decoder.decode(piece, final=not piece)
            if text or not piece:
                return text

    async def _piece(self) -> bytes:
        try:
            await anyio.wait_readable(self._fd)
        except PermissionError:  # a regular file: it is always ready, and cannot be asked
            await checkpoint()
        except (ValueError, OSError):
            return b""
        try:
            return os.read(self._fd, 65536)
        except OSError:
            return b""


async def put(fd: int, text: str) -> None:
    """Write a text to a descriptor; raises OSError."""
    left = memoryview(text.encode(errors="replace"))
    while left:
        try:
            await anyio.wait_writable(fd)
            size = PIPE_BUF  # what a pipe takes at once when it is ready
        except PermissionError:  # a regular file: it is always ready, and cannot be asked
            await checkpoint()
            size = len(left)
        with suppress(BlockingIOError):  # somebody else was faster
            left = left[os.write(fd, left[:size]) :]
