"""What a person sees: the output of many, on one terminal, in an order that can be read.

The job in front writes as it likes. What all others write is shown in whole lines, with the number of the job at the
beginning of each: above the line that is being typed, and never in the middle of a line of the job in front.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import groupby
from typing import NamedTuple

import anyio

#: Writes text to a descriptor.
Put = Callable[[int, str], Awaitable[None]]
#: Characters of a line after which it is shown without its end.
LONGEST = 4096
#: Characters of lines that wait for the job in front to end its own; then they wait no longer.
MANY = 16384


def nothing() -> None:
    """Nobody needs to know that it was shown."""


class Piece(NamedTuple):
    """Text on its way to a descriptor, and what to do when it is there."""

    fd: int
    text: str
    shown: Callable[[], None] = nothing


@asynccontextmanager
async def at_once() -> AsyncIterator[None]:
    """Write where the cursor is: no line is being typed."""
    yield


class Screen:
    """Everything that a shell shows goes through here, and is written by one."""

    def __init__(self, put: Put, tidy: bool) -> None:
        """A `tidy` screen puts lines at the beginning of one; where nobody looks, every character is the programs'."""
        self._put, self._tidy = put, tidy
        self._pieces: deque[Piece] = deque()
        self._ready = self._drained = anyio.Event()
        self._drained.set()
        #: Makes room above the line that is being typed.
        self.above: Callable[[], AbstractAsyncContextManager[None]] = at_once
        #: The cursor is at the beginning of a line, when all that is queued is written.
        self._fresh = True
        #: Whole lines that wait for the beginning of one.
        self._later: list[Piece] = []

    def show(self, text: str, fd: int = 1, shown: Callable[[], None] = nothing) -> None:
        """Queue a text."""
        self._pieces.append(Piece(fd, text, shown))
        if self._drained.is_set():
            self._drained = anyio.Event()
        self._ready.set()
        if text:
            self.at(text.endswith("\n"))

    def line(self, text: str, fd: int = 1) -> None:
        """Queue a line, now, and at the beginning of one."""
        self.begin()
        self.show(f"{text}\n", fd)

    def lines(self, text: str, fd: int = 1, shown: Callable[[], None] = nothing) -> None:
        """Queue whole lines of somebody who is not in front, as soon as the cursor is at the beginning of a line."""
        if self._fresh or not self._tidy:
            self.show(text, fd, shown)
            return
        self._later.append(Piece(fd, text, shown))
        if sum(len(piece.text) for piece in self._later) > MANY:
            self.begin()

    def begin(self) -> None:
        """Bring the cursor to the beginning of a line, behind all that is queued."""
        if self._tidy and not self._fresh:
            self.show("\n")

    def at(self, fresh: bool) -> None:
        """Note where the cursor is, if it was not the screen that has moved it."""
        self._fresh = fresh
        if fresh and self._later:
            later, self._later = self._later, []
            for piece in later:
                self.show(piece.text, piece.fd, piece.shown)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Let somebody else draw on the terminal; what is shown meanwhile waits."""
        over = anyio.Event()

        @asynccontextmanager
        async def later() -> AsyncIterator[None]:
            await over.wait()
            yield

        await self.drained()
        before, self.above = self.above, later
        try:
            yield
        finally:
            self.above = before
            over.set()

    async def drained(self) -> None:
        """Wait until all is written."""
        await self._drained.wait()

    async def write(self) -> None:
        """Write what is shown, for ever; raises OSError if that is not possible."""
        while True:
            self._ready = anyio.Event()
            while self._pieces:
                pieces = list(self._pieces)
                async with self.above():
                    for fd, group in groupby(pieces, key=lambda piece: piece.fd):
                        await self._put(fd, "".join(piece.text for piece in group))
                for piece in pieces:
                    self._pieces.popleft()
                    piece.shown()
            self._drained.set()
            await self._ready.wait()


class Output:
    """What one job writes."""

    def __init__(self, screen: Screen, label: str) -> None:
        """A job with a label shows whole lines that begin with it, unless it is in front; one without, all at once."""
        self._screen, self._label = screen, label
        self._held: dict[int, list[Piece]] = {}
        self._front = not label

    def show(self, fd: int, text: str, shown: Callable[[], None] = nothing) -> None:
        """Take a piece; `shown` is called when it is on the screen."""
        held = self._held.setdefault(fd, [])
        held.append(Piece(fd, text, shown))
        if self._front:
            self._flush(fd)
        elif "\n" in text or sum(len(piece.text) for piece in held) > LONGEST:
            self._lines(fd)

    def front(self, front: bool) -> None:
        """Show all as it comes, or whole lines only."""
        self._front = front or not self._label
        if self._front:
            for fd in tuple(self._held):
                self._flush(fd)

    def close(self) -> None:
        """Show what is left."""
        for fd, held in tuple(self._held.items()):
            if self._front:
                self._flush(fd)
            elif held:
                self.show(fd, "\n")

    def _flush(self, fd: int) -> None:
        for piece in self._held.pop(fd, ()):
            self._screen.show(piece.text, fd, piece.shown)

    def _lines(self, fd: int) -> None:
        """Show the whole lines among what is held; a line that is too long is broken."""
        held = self._held.pop(fd)
        text = "".join(piece.text for piece in held)
        end = text.rfind("\n") + 1 or len(text)
        rest = text[end:]
        if rest:  # the last piece is not shown yet
            self._held[fd] = [Piece(fd, rest, held.pop().shown)]
        whole = text[:end].removesuffix("\n").split("\n")
        lines = "".join(f"{self._label} {line}\n" for line in whole)
        self._screen.lines(lines, fd, lambda: _all_shown(held))


def _all_shown(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.shown()
