"""The terminal: three descriptors that the kernel's processes share.

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

import anyio
from anyio.lowlevel import checkpoint

from tokix.kernel.events import Input, Prompt, Show, Shown


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
