"""What Tab completes: commands, programs, options, processes, jobs and files."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from tokix.shell.client import Gone
from tokix.shell.shell import Shell
from tokix.shell.table import brief
from tokix.shell.usage import POLICIES, SIGNALS, VERBS, verb_parser
from tokix.syscalls import Stat, SyscallError

#: Commands whose words name processes, and those whose words name jobs.
WITH_PIDS = {"kill", "nice", "send", "logs", "pages", "recall", "save"}
WITH_JOBS = {"fg", "bg", "wait", *WITH_PIDS}
#: Commands with the name of a file.
WITH_FILES = {"save"}


class ShellCompleter(Completer):
    """Completes the word at the end of what is typed."""

    def __init__(self, shell: Shell, programs: Callable[[], Iterable[str]]) -> None:
        self._shell, self._programs = shell, programs

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        return iter(())  # who completes can wait: see below

    async def get_completions_async(self, document: Document, event: CompleteEvent) -> AsyncGenerator[Completion, None]:
        command = re.split(r"&&|\|\||[|;&]", document.text_before_cursor)[-1].lstrip()
        *words, last = command.split(" ")
        words = [word for word in words if word]
        async for text, about in self._known(words, last):
            if text.lower().startswith(last.lower()) and text != last:
                yield Completion(text, start_position=-len(last), display_meta=about)

    async def _known(self, words: list[str], last: str) -> AsyncIterator[tuple[str, str]]:
        """Give what can stand at this place, with a word about it."""
        if not words:
            for name in self._shell.commands:
                yield name, "command"
            for name in self._programs():
                yield name, "program"
        elif last.startswith("-"):
            for option in self._options(words[0]):
                yield option, ""
        else:
            async for found in self._arguments(words[0]):
                yield found
        if not words or words[0] not in self._shell.commands or words[0] in WITH_FILES:
            for path in files(last):
                yield path, ""

    async def _arguments(self, command: str) -> AsyncIterator[tuple[str, str]]:
        if command in WITH_JOBS:
            for job in self._shell.jobs.unfinished():
                yield f"%{job.number}", job.text
        if command in WITH_PIDS:
            try:
                table = await self._shell.client.call(Stat())
            except (SyscallError, Gone):  # whoever reads from the kernel will say so
                return
            for process in table:
                if process.pid not in (1, self._shell.client.pid):
                    yield str(process.pid), " ".join([brief(process.program), *map(str, process.args)])
        if command == "sched":
            for policy in POLICIES:
                yield policy, ""

    def _options(self, command: str) -> list[str]:
        verb = VERBS.get(command) or self._shell.place.more.get(command, (None,))[0]
        found = [f"-{name}" for name in SIGNALS] if command == "kill" else []
        if verb:
            parser = verb_parser(command, verb)
            found += [option for action in parser._actions for option in action.option_strings]  # there is no other way
        return found


def files(start: str) -> Iterator[str]:
    """Give the Python files and folders whose names begin like this."""
    folder = Path(start).expanduser() if start.endswith("/") else Path(start).expanduser().parent
    head = start[: start.rfind("/") + 1]
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    for path in found:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield f"{head}{path.name}/"
        elif path.suffix == ".py" or head:
            yield f"{head}{path.name}"
