"""The terminal of a job, seen from the shell's side: each job has one of its own.

A shell is the only reader of the terminal that a person sits at, and passes on what is typed to the job in front. So no
job can take a line that is meant for another, and one in the background that reads has to wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from tokix.shell.client import Client
from tokix.syscalls import EBADF, EPIPE, ESRCH, ETIMEDOUT, Read, Stat, SyscallError, Write

#: Takes a piece of output: descriptor, text, and what to call when it is on the screen.
Show = Callable[[int, str, Callable[[], None]], None]
#: Seconds between two looks at a job that talks.
GLANCE = 0.05


class Tty(Protocol):
    """The terminal of one job."""

    @property
    def fds(self) -> Mapping[int, str]:
        """Give what its programs get for their descriptors."""

    def open(self, show: Show, group: TaskGroup) -> None:
        """Begin to hand over what is written; the programs have been started."""

    async def wants(self, own: bool) -> None:
        """Wait until a line is to be read from the keyboard: for the job (`own`), or for what asks on its behalf."""

    async def asked(self, pids: list[int]) -> None:
        """Wait until a process of the job waits for input, having read all that was given."""

    async def give(self, text: str) -> None:
        """Hand over what was typed, "" at its end."""

    async def settled(self) -> None:
        """Wait until all that is written is handed over."""

    async def close(self) -> str:
        """The job has ended; gives back what was typed for it and never read."""


class Pipes:
    """A terminal made of pipes, for a kernel whose own terminal is elsewhere."""

    def __init__(self, client: Client, name: str, drained: Callable[[], Awaitable[None]]) -> None:
        """`drained` waits until the screen has shown all: nothing more is read before."""
        self.fds = {0: f"pipe:{name}.in", 1: f"pipe:{name}.out", 2: f"pipe:{name}.err"}
        self._client, self._drained = client, drained
        self._given = False

    def open(self, show: Show, group: TaskGroup) -> None:
        self._show = show
        for fd in (1, 2):
            group.start_soon(self._copy, fd)

    async def _copy(self, fd: int) -> None:
        while text := await self._client.call(Read(fd=self.fds[fd])):
            self._show(fd, text, lambda: None)
            await self._drained()

    async def wants(self, own: bool) -> None:
        if own:
            return await checkpoint()  # nobody says, so all that is typed is passed on
        await anyio.sleep_forever()
        return None

    async def asked(self, pids: list[int]) -> None:
        while True:
            with suppress(ESRCH):
                found = [await self._client.call(Stat(pid=pid)) for pid in pids]
                if any("read" in process.on.split() for [process] in found):
                    return
            await anyio.sleep(GLANCE)

    async def give(self, text: str) -> None:
        self._given = True
        with suppress(EPIPE, EBADF):  # nobody reads any more
            await self._client.call(Write(fd=self.fds[0], text=text, close=not text))

    async def settled(self) -> None:
        for fd in (1, 2):
            with suppress(ETIMEDOUT):  # of those who wait for text, the first to come is served first
                while text := await self._client.call(Read(fd=self.fds[fd], timeout=0)):
                    self._show(fd, text, lambda: None)

    async def close(self) -> str:
        if not self._given:
            return ""
        parts = []
        with suppress(SyscallError):
            while text := await self._client.call(Read(fd=self.fds[0], timeout=0)):
                parts.append(text)
        return "".join(parts)
