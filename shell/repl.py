"""The person's side: lines with editing, history and completion, while others write above them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import in_terminal
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from tokix.shell.complete import ShellCompleter
from tokix.shell.jobs import Keyboard
from tokix.shell.screen import at_once
from tokix.shell.shell import Leave, Shell

PROMPT = "tokix> "


class Cleared(Exception):
    """Ctrl-C: the line is not wanted any more."""


class Ended(Exception):
    """Ctrl-D on an empty line."""


async def talk(shell: Shell, keyboard: Keyboard, programs: Callable[[], Iterable[str]], history: Path | None) -> None:
    """Ask for lines and do what they say, until the person leaves. Raises Gone."""
    session: PromptSession[str] = PromptSession(
        history=remembered(history),
        completer=ShellCompleter(shell, programs),
        complete_while_typing=False,
        key_bindings=keys(),
        interrupt_exception=Cleared,
        eof_exception=Ended,
    )
    while True:
        try:
            text = await ask(shell, session, keyboard)
        except Cleared:
            continue
        except Ended:
            if shell.may_leave():
                return
            continue
        try:
            for line in text.splitlines():  # several, if they were pasted
                shell.stays()
                await shell.run(line)
        except Leave:
            return


async def ask(shell: Shell, session: PromptSession[str], keyboard: Keyboard) -> str:
    """Give the next line: one that was typed for a job that did not read it, or one that is typed now."""
    screen = shell.screen
    screen.begin()
    if (line := keyboard.line()) is not None:
        screen.line(f"{PROMPT}{line}")
        return line
    await screen.drained()

    @asynccontextmanager
    async def above() -> AsyncIterator[None]:
        async with in_terminal():
            yield

    screen.above = above
    try:
        text: str = await session.prompt_async(PROMPT, handle_sigint=False, set_exception_handler=False)
        return text
    finally:
        screen.above = at_once
        screen.at(fresh=True)


def remembered(path: Path | None) -> History:
    """Give the history in a file that only its owner can read; where there can be none, one that is forgotten."""
    if path is None:
        return InMemoryHistory()
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def keys() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("c-z")
    def nothing_is_in_front(event: KeyPressEvent) -> None:
        """Do nothing, instead of typing an invisible character."""

    return bindings
