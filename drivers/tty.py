"""The person at the terminal, as a device: a model can ask, and gets the answer as the reply.

A program reads descriptor 0 and writes descriptor 1; what reaches for a tool speaks to the person here. Both share one
keyboard and one screen, so there is one `Person`, who lets them take turns: questions are shown one at a time, and a
line that is typed belongs to whoever asked first.

Both ops are idempotent, as the kernel's own terminal is: after a crash a text is shown again, and a question is asked
again, for nobody has seen the answer to the first.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from tokix.drivers.base import Driver, op
from tokix.syscalls import EPIPE

Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Person(Protocol):
    """Somebody at a terminal."""

    async def ask(self, question: str) -> str | None:
        """Show a question and wait for a line; None: no line will ever come. It can be cancelled."""

    async def say(self, text: str) -> None:
        """Show a text."""


class Tty(Driver):
    """The terminal of the kernel, and the person in front of it."""

    def __init__(self, person: Person) -> None:
        self._person = person

    @op(effect="idempotent")
    async def ask(self, question: Text) -> str:
        """Ask the person at the terminal, and give the line that is typed."""
        answer = await self._person.ask(f"{_plain(question)}\n> ")
        if answer is None:
            raise EPIPE("ask: nobody answers; the input of the terminal has ended")
        return answer

    @op(effect="idempotent")
    async def say(self, text: Text) -> None:
        """Show a text to the person at the terminal."""
        await self._person.say(_plain(text) + "\n")


def _plain(text: str) -> str:
    """Give a text without the characters that command a terminal: what a model writes is shown, and does nothing."""
    return "".join(c if c in "\n\t" or c.isprintable() else "�" for c in text.rstrip("\n"))
