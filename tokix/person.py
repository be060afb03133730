"""The person at the terminal of a kernel, asked through the kernel itself.

A question is a foreign process that writes to the terminal and reads a line from it, as any process does. So questions
and programs share one screen and one keyboard by the kernel's own rules: what is written is shown in order and again
after a crash, a typed line belongs to whoever read first, `ps` shows who waits for an answer, and a question that is
cancelled gives its place up. Questions take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from tokix.syscalls import Read, Write

if TYPE_CHECKING:
    from tokix.boot import System


class Guest:
    """A `tokix.drivers.Person`. Whoever asks before the kernel is there waits for it."""

    def __init__(self) -> None:
        self._system: System | None = None
        self._seated = anyio.Event()
        self._turn = anyio.Lock()

    def sit(self, system: System) -> None:
        """Take the place in front of a kernel's terminal."""
        self._system = system
        self._seated.set()

    async def ask(self, question: str) -> str | None:
        """Show a question and give the line that is typed; None: the input has ended."""
        system = await self._kernel()
        async with self._turn, system.attach("tty") as client:
            await client.call(Write(text=question))
            line = ""
            while not line.endswith("\n"):
                # By the character, because what is behind the line belongs to the next who reads.
                piece = await client.call(Read(limit=1))
                if not piece:
                    return line or None
                line += piece
            return line.removesuffix("\n").removesuffix("\r")

    async def say(self, text: str) -> None:
        """Show a text."""
        system = await self._kernel()
        async with system.attach("tty") as client:
            await client.call(Write(text=text))

    async def _kernel(self) -> System:
        await self._seated.wait()
        assert self._system
        return self._system
