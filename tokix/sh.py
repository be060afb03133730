"""`tokix sh`: what a shell needs of the place where it runs, and its life there."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import entry_points
from pathlib import Path
from shutil import get_terminal_size

import anyio
from anyio.lowlevel import checkpoint
from pydantic import ValidationError

from tokix import scenario
from tokix.commands import in_foreground
from tokix.doctor import examine
from tokix.failure import Interrupted
from tokix.host import handling
from tokix.programs import GROUP, ProgramError, Resolver, absolute, settled, shipped
from tokix.shell.client import Client, cause
from tokix.shell.jobs import Jobs, Keyboard, MakeTty
from tokix.shell.screen import Screen
from tokix.shell.shell import Leave, Place, Shell, script
from tokix.shell.table import Result
from tokix.shell.ttys import Pipes
from tokix.shell.usage import WRONG, Failure, Verb, add_json, argument
from tokix.state import HISTORY, private
from tokix.syscalls import Signal, Spawn
from tokix.syscalls.abi import explain
from tokix.terminal import Source, put

#: Signals of one kind that may wait to be heard; one more, and the kernel is held by a program and the process ends.
UNHEARD = 2
#: Seconds that jobs have to say something when the shell ends.
PATIENCE = 1.0


class Sitting:
    """The life of one shell, from its first line to its last."""

    def __init__(self, options: Namespace) -> None:
        self.options = options
        self.interactive = options.line is None and os.isatty(0) and os.isatty(1)
        self.screen = Screen(put, tidy=self.interactive)
        self.source = Source(0 if in_foreground() else -1)
        self.scope = anyio.CancelScope()
        self.cut = 0

    async def run(
        self, client: Client, make_tty: MakeTty | None, greeting: str, fate: str, adopt: Callable[[Jobs], None] | None
    ) -> int:
        """Be a shell, until it is left. Raises Gone, and Interrupted for a signal that asks for an end."""
        keyboard = Keyboard(self.source.read if self.interactive or self.options.line is not None else no_input)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.screen.write)
                jobs = Jobs(client, self.screen, group, make_tty or self.pipes(client), keyboard, self.interactive)
                shell = Shell(client, self.screen, jobs, self.place(fate, ends_jobs=make_tty is None))
                group.start_soon(shell.mail)
                group_of_one = own_group() if self.interactive else nullcontext()
                with group_of_one, listening(get_running_loop(), self.heard(shell, group.start_soon)), self.scope:
                    if self.interactive:
                        self.screen.line(greeting)
                    if adopt:
                        adopt(jobs)
                    await self.lines(shell, keyboard)
                with anyio.move_on_after(PATIENCE):
                    await shell.end()
                    await self.screen.drained()
                group.cancel_scope.cancel()
        except BaseExceptionGroup as problems:
            raise cause(problems) from None
        if self.cut:
            raise Interrupted(self.cut)
        return shell.code

    def pipes(self, client: Client) -> MakeTty:
        """Make the ttys of a shell whose kernel is elsewhere."""
        return lambda number: Pipes(client, str(number), self.screen.drained)

    async def lines(self, shell: Shell, keyboard: Keyboard) -> None:
        if self.interactive:
            from tokix.shell.repl import talk

            return await talk(shell, keyboard, known, self.history())
        try:
            if self.options.line is not None:
                await shell.run(self.options.line)
            else:
                await script(shell, self.source.read)
        except Leave:
            pass
        code = shell.code
        await shell.run("wait")
        shell.code = code
        return None

    def history(self) -> Path | None:
        """Give the file of what was typed; in an encrypted state directory there is none."""
        state = self.options.state
        return None if private(state, self.options.key) else state / HISTORY

    def place(self, fate: str, ends_jobs: bool) -> Place:
        return Place(
            spawn=self.spawn,
            fate=fate,
            ends_jobs=ends_jobs,
            more={
                "doctor": (Verb("Say what is there, what is missing, and what to do about it.", add_json), self.doctor),
                "version": (Verb("Print the version.", add_json), version),
            },
            interactive=self.interactive,
            state=self.options.state,
            width=lambda: get_terminal_size().columns if os.isatty(1) else None,
        )

    def spawn(self, command: list[str]) -> Spawn | None:
        """Make the call that starts a program or plays a scenario; None if a command is neither. Raises Failure."""
        word, *words = command
        if word.endswith(scenario.SUFFIXES):
            return self.staged(word, words)
        if (name := program(word)) is None:
            return None
        try:
            return Spawn(program=name, args=settled(name, [argument(word) for word in words]))
        except ValidationError as error:
            raise Failure(explain(error), WRONG) from None

    def staged(self, word: str, words: list[str]) -> Spawn:
        if words:
            raise Failure(f"a scenario takes no arguments, such as {words[0]}", WRONG)
        try:
            plan = scenario.load(scenario.locate(word))
        except scenario.ScenarioError as error:
            raise Failure("; ".join(error.lines), WRONG) from None
        there = {mount.name for mount in self.options.mount or ()}
        if missing := [mount.name for mount in scenario.mounts(plan) if mount.name not in there]:
            raise Failure(f"{word} needs the devices {', '.join(missing)}: `tokix run {word}` mounts them")
        return scenario.spawn(plan)

    def doctor(self, options: Namespace) -> Result:
        return examine(self.options.state, self.options.key)

    def heard(self, shell: Shell, start: Callable[..., object]) -> Mapping[int, Callable[[], object]]:
        """Say what each signal does."""
        handlers: dict[int, Callable[[], object]] = {
            signal.SIGINT: lambda: start(shell.interrupt),
            signal.SIGTERM: lambda: self.stop(signal.SIGTERM),
            signal.SIGHUP: lambda: self.stop(signal.SIGHUP),
        }
        if self.interactive:
            handlers[signal.SIGTSTP] = lambda: start(shell.front, Signal.STOP)
            handlers[signal.SIGQUIT] = lambda: start(shell.front, Signal.KILL)
        return handlers

    def stop(self, signum: int) -> None:
        self.cut = signum
        self.scope.cancel()


async def no_input() -> str:
    """Give the end of the input to the programs of a script, whose lines come from there."""
    await checkpoint()
    return ""


def version(options: Namespace) -> Result:
    from tokix import __version__
    from tokix.shell.table import Table

    return Result(Table(("TOKIX",), [[__version__]], {"tokix": __version__}))


def program(word: str) -> str | None:
    """Make the name of a program, if a word names one. Raises Failure for one that is there and cannot be used."""
    place, _, function = word.rpartition(":") if word.rpartition(":")[2].isidentifier() else (word, "", "")
    place = place or word
    file = place.endswith(".py") or Path(f"{place}.py").is_file() or ("/" in place and Path(place).is_file())
    if not (file or place in known() or _module(place, function)):
        return None
    try:
        Resolver().find(absolute(word))
    except ProgramError as error:
        if file:
            raise Failure(str(error), WRONG) from None
        return None
    return absolute(word)


def _module(place: str, function: str) -> bool:
    """Say whether a word looks like a module: a plain word does so only with a function, or any text would."""
    parts = place.split(".")
    own = parts[0] not in sys.stdlib_module_names
    return own and (len(parts) > 1 or bool(function)) and all(part.isidentifier() for part in parts)


def known() -> list[str]:
    """List the programs that are known by a name alone."""
    return [*(name for name in shipped() if name != "init"), *entry_points(group=GROUP).names]


@contextmanager
def listening(loop: AbstractEventLoop, handlers: Mapping[int, Callable[[], object]]) -> Iterator[None]:
    """Call a handler in the event loop for each signal that comes."""
    unheard: list[int] = []

    def arrived(signum: int, frame: object) -> None:
        if unheard.count(signum) >= UNHEARD:
            os._exit(128 + signum)
        unheard.append(signum)
        loop.call_soon_threadsafe(hear, signum)

    def hear(signum: int) -> None:
        unheard.remove(signum)
        handlers[signum]()

    with handling(arrived, handlers):
        yield


@contextmanager
def own_group() -> Iterator[None]:
    """Be a process group of one, in front of the terminal: Ctrl-Z must not stop whoever has started the shell."""
    before = os.getpgrp()
    if os.getpid() in (before, os.getsid(0)):
        yield
        return
    ttou = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # who takes the terminal is not in front of it yet
    try:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpgrp())
        yield
    finally:
        with suppress(OSError):  # the terminal or those who were in front of it are gone
            os.tcsetpgrp(0, before)
            os.setpgid(0, before)
        signal.signal(signal.SIGTTOU, ttou)


def report(screen: Screen) -> Callable[[str], None]:
    """Make what tells the operator something, from any thread."""
    loop = get_running_loop()

    def tell(text: str) -> None:
        try:
            loop_here = get_running_loop()
        except RuntimeError:
            loop_here = None
        if loop_here is loop:
            screen.line(f"tokix: {text}", 2)
        elif sys.stderr:  # the loop may be held by the very program that this is about
            os.write(2, f"tokix: {text}\n".encode(errors="replace"))

    return tell
