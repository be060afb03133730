"""The shell: it reads lines, starts programs, and is a foreign process like any other.

A line is a command of the shell, a pipeline of programs, or, if its first word is neither, words for `chat`. The shell
itself waits for nothing but the job in front; the output of all others comes as it comes (see `tokix.shell.screen`).
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTSTP

import anyio

from tokix.shell.client import Client
from tokix.shell.jobs import Job, Jobs, as_data
from tokix.shell.line import Pipeline, parse, tokens
from tokix.shell.screen import Screen
from tokix.shell.status import one_line
from tokix.shell.table import Result, Table, render
from tokix.shell.usage import (
    FAILED,
    SIGNALLED,
    VERBS,
    WRONG,
    Failure,
    Parser,
    Verb,
    add_json,
    add_signal,
    dashed,
    verb_parser,
)
from tokix.shell.verbs import ACTS
from tokix.syscalls import Recv, Signal, Spawn, SyscallError
from tokix.syscalls.base import to_json

#: The program that gets the words that are no command.
CHAT = "chat"
#: The exit code of what SIGINT has ended.
INTERRUPTED = SIGNALLED + SIGINT
#: How a job is named.
_JOB = re.compile(r"%\d+")

HELP = """\
PROGRAM [ARG…]        run a program in front; with & at the end, in the background
A | B    A && B    A || B    A ; B
jobs [--json]         what this shell has started
fg [%N]  bg [%N]      bring a job to the front, or let a stopped one go on behind it
wait [%N…]            wait for jobs, or for all
kill [-SIGNAL] %N     end a job and all that it has started; kill [-SIGNAL] PID a process
nice N PID            change a priority; %N stands for the processes of a job here too
send PID TEXT         send a message
ps  top  free  pages PID  logs PID  devices  sched [POLICY]  …   see `COMMAND --help`; --json is everywhere
help  clear  exit

Ctrl-C interrupts the job in front, Ctrl-Z stops it and puts it into the background, Ctrl-\\ kills it. Ctrl-D ends its
input; on an empty line it leaves the shell. Tab completes, Ctrl-R searches what was typed before.
What the others write is shown in whole lines, above the line that is being typed.
"""


@dataclass(frozen=True)
class Place:
    """What the shell has to know of where it is."""

    #: Makes the call that starts what is typed; None if that is no program. Raises Failure for one that is broken.
    spawn: Callable[[list[str]], Spawn | None]
    #: Says what becomes of unfinished jobs when the shell leaves.
    fate: str
    #: Jobs are ended when the shell leaves.
    ends_jobs: bool
    #: More verbs, that need no kernel.
    more: dict[str, tuple[Verb, Callable[[Namespace], Result]]]
    #: A person sits at the terminal.
    interactive: bool
    #: The state directory.
    state: Path
    #: The width of the terminal, None if there is none.
    width: Callable[[], int | None]


class Leave(Exception):
    """The shell ends."""


class Shell:
    """Does what lines say."""

    def __init__(self, client: Client, screen: Screen, jobs: Jobs, place: Place) -> None:
        self.client, self.screen, self.jobs, self.place = client, screen, jobs, place
        self.code = 0
        #: Ctrl-C was pressed while this line ran.
        self.interrupted = False
        self._chat: Job | None = None
        self._warned = False
        self._scope: anyio.CancelScope | None = None
        self.builtins: dict[str, Callable[[list[str]], Awaitable[int]]] = {
            "help": self._help,
            "jobs": self._jobs,
            "fg": self._fg,
            "bg": self._bg,
            "wait": self._wait,
            "kill": self._kill,
            "clear": self._clear,
            "top": self._top,
            "exit": self._exit,
        }

    @property
    def commands(self) -> list[str]:
        """Name all words that the shell itself knows."""
        return sorted({*self.builtins, *VERBS, *self.place.more})

    async def mail(self) -> None:
        """Show messages to the shell, for ever. Somebody always reads from the kernel: so its end is seen at once."""
        while True:
            message = await self.client.call(Recv())
            body = message.body if isinstance(message.body, str) else to_json(message.body)
            tag = f" ({message.tag})" if message.tag else ""
            self.screen.lines(f"[message from {message.sender}{tag}] {one_line(body)}\n")

    # ---- lines

    async def run(self, line: str) -> int:
        """Do what a line says; gives the exit code. Raises Leave, and Gone."""
        self.interrupted = False
        with anyio.CancelScope() as self._scope:
            try:
                await self._line(line)
            except Failure as failure:
                self._complain(str(failure))
                self.code = failure.code
            except SyscallError as error:
                self._complain(str(error))
                self.code = FAILED
        if self._scope.cancelled_caught:
            self.code = INTERRUPTED
        await self.screen.drained()
        return self.code

    async def _line(self, line: str) -> None:
        if not self._is_command(line):
            self.code = await self._talk(line.strip())
            return
        for pipeline in parse(line):
            if not pipeline.joint or (self.code == 0) == (pipeline.joint == "&&"):
                self.code = await self._pipeline(pipeline)
            if self.interrupted and self.code == INTERRUPTED:
                return

    def _is_command(self, line: str) -> bool:
        """Say whether the first word of a line is a command or a program, or whether there is none."""
        try:
            first = next(tokens(line), None)
        except Failure:
            return False
        return first is None or first.kind == "mark" or first.text in self.commands or self._is_program(first.text)

    def _is_program(self, word: str) -> bool:
        try:
            return self.place.spawn([word]) is not None
        except Failure:  # whoever starts it will hear what is wrong with it
            return True

    async def _pipeline(self, pipeline: Pipeline) -> int:
        first, *rest = pipeline.commands
        name, *words = first
        if name in self.commands and not rest:
            return await self._command(name, words)
        for command in pipeline.commands:
            if command[0] in self.commands:
                raise Failure(f"{command[0]} is a command of the shell, and cannot be in a pipeline", WRONG)
        calls = [self._spawn(command) for command in pipeline.commands]
        job = await self.jobs.start(calls, pipeline.text, not pipeline.background)
        if pipeline.background:
            if self.place.interactive:
                self.screen.line(f"[{job.number}] process {' '.join(map(str, job.pids))}")
            return 0
        return await self._watch(job)

    def _spawn(self, command: list[str]) -> Spawn:
        call = self.place.spawn(command)
        if call is None:
            raise Failure(f"{command[0]} is neither a command nor a program; see `help`", WRONG)
        return call

    async def _watch(self, job: Job) -> int:
        """Have a job in front."""
        if not await self.jobs.watch(job):
            self.screen.line(f"[{job.number}] stopped: {job.text}")
            return SIGNALLED + SIGTSTP
        if job.end:
            self._complain(job.end)
        return job.code

    async def _talk(self, line: str) -> int:
        """Hand words to `chat`, and show the answer."""
        chat = self._chat
        if chat is None or chat.over.is_set():
            self._chat = chat = await self.jobs.start([self._spawn([CHAT])], CHAT, front=True)
        await chat.tty.give(f"{line}\n")
        if await self.jobs.watch(chat, asking=True):
            if chat.end:
                self._complain(chat.end)
            return chat.code
        if chat.stopped:
            self.screen.line(f"[{chat.number}] stopped: {CHAT}")
        return 0

    def _complain(self, text: str) -> None:
        """Tell the person something that is not the output."""
        self.screen.line(text if self.place.interactive else f"tokix: {text}", 2)

    # ---- commands

    async def _command(self, name: str, words: list[str]) -> int:
        if name in self.builtins:
            return await self.builtins[name](words)
        verb, _ = self.place.more.get(name) or (VERBS[name], None)
        options = self._parsed(verb_parser(name, verb), [name, *words])
        if options is None:
            return 0
        options.state = self.place.state
        return self._show(
            self.place.more[name][1](options) if name in self.place.more else await ACTS[name](self.client, options),
            options,
        )

    def _parsed(self, parser: Parser, words: list[str]) -> Namespace | None:
        """Read what was typed; %N stands for the processes of a job. None: help was wanted, and is shown."""
        _, *rest = dashed(words)
        if {"-h", "--help"} & set(rest):
            self.screen.show(parser.format_help())
            return None
        spelled: list[str] = []
        for word in rest:
            spelled += map(str, self.jobs.get(word).pids) if _JOB.fullmatch(word) else [word]
        return parser.parse_args(spelled)

    def _show(self, result: Result, options: Namespace) -> int:
        for complaint in result.complaints:
            self._complain(complaint)
        self.screen.show(render(result, json=options.json, width=self.place.width()))
        return result.code

    async def _help(self, words: list[str]) -> int:
        self.screen.show(HELP)
        return 0

    async def _jobs(self, words: list[str]) -> int:
        parser = Parser(prog="jobs", description="Show what this shell has started.")
        add_json(parser)
        if (options := self._parsed(parser, ["jobs", *words])) is None:
            return 0
        await self.jobs.look()
        jobs = self.jobs.unfinished()
        rows = [[f"%{job.number}", job.state, " ".join(map(str, job.pids)), job.text] for job in jobs]
        return self._show(Result(Table(("JOB", "STATE", "PID", "LINE"), rows, as_data(jobs))), options)

    async def _fg(self, words: list[str]) -> int:
        job = self.jobs.get(one(words))
        await self.jobs.look()
        self.screen.line(job.text)
        return await self._watch(job)

    async def _bg(self, words: list[str]) -> int:
        job = self.jobs.get(one(words))
        await self.jobs.look()
        if not job.stopped:
            raise Failure(f"job %{job.number} is not stopped")
        await self.jobs.signal(job, Signal.CONT)
        self.screen.line(f"[{job.number}] goes on: {job.text}")
        return 0

    async def _wait(self, words: list[str]) -> int:
        code = 0
        for job in [self.jobs.get(word) for word in words] if words else self._awaited():
            await job.over.wait()
            code = job.code
        return code

    def _awaited(self) -> list[Job]:
        """Give the jobs that will end by themselves: a conversation waits for us, and who knows about a stranger's."""
        return [job for job in self.jobs.unfinished() if job.own and not job.stopped and job is not self._chat]

    async def _kill(self, words: list[str]) -> int:
        """Signal jobs as a whole, and processes by their pids."""
        names = [word for word in words if _JOB.fullmatch(word)]
        others = [word for word in words if word not in names]
        if not names or {"-h", "--help"} & set(words):
            options = self._parsed(verb_parser("kill", VERBS["kill"]), ["kill", *words])
            return 0 if options is None else self._show(await ACTS["kill"](self.client, options), options)
        parser = Parser(prog="kill")
        add_signal(parser)
        options = parser.parse_args(dashed(["kill", *others])[1:])
        for job in [self.jobs.get(name) for name in names]:
            await self.jobs.signal(job, Signal(options.signal))
            if job.stopped and options.signal in ("TERM", "INT"):  # which it can only hear when it goes on
                await self.jobs.signal(job, Signal.CONT)
        return 0

    async def _top(self, words: list[str]) -> int:
        """Hand the screen over to `top`; what others write is shown when that is left."""
        if (options := self._parsed(verb_parser("top", VERBS["top"]), ["top", *words])) is None:
            return 0
        async with self.screen.lent():
            result = await ACTS["top"](self.client, options)
        return self._show(result, options)

    async def _clear(self, words: list[str]) -> int:
        if self.place.interactive:
            self.screen.show("\x1b[H\x1b[2J\x1b[3J")
        return 0

    async def _exit(self, words: list[str]) -> int:
        if words:
            word = one(words)
            if not word.isdecimal() or int(word) > 255:
                raise Failure("exit takes a number from 0 to 255", WRONG)
            self.code = int(word)
        if self.may_leave():
            raise Leave
        return self.code

    # ---- the end

    def may_leave(self) -> bool:
        """Say whether the shell can end now; the first time that something is unfinished, say what and stay."""
        waiting = [job for job in self.jobs.unfinished() if job is not self._chat]
        if waiting and self.place.interactive and not self._warned:
            self._warned = True
            many = f"{len(waiting)} jobs are" if len(waiting) > 1 else "a job is"
            self.screen.line(f"{many} unfinished and {self.place.fate}; leave again to leave")
            return False
        return True

    def stays(self) -> None:
        """Something else was typed: the next time, leaving asks again."""
        self._warned = False

    async def end(self) -> None:
        """End what does not outlive the shell: its conversation, and the jobs of one that has joined."""
        if self._chat and not self._chat.over.is_set():
            await self._chat.tty.give("")
        if self.place.ends_jobs:
            for job in self.jobs.unfinished():
                await self.jobs.signal(job, Signal.TERM)
                if job.stopped:
                    await self.jobs.signal(job, Signal.CONT)

    # ---- the keys

    async def interrupt(self) -> None:
        """Do what Ctrl-C does while a line runs: INT to the job in front, or an end to the line."""
        self.interrupted = True
        self.screen.at(fresh=False)  # the terminal shows ^C
        if self.jobs.front:
            await self.jobs.signal(self.jobs.front, Signal.INT)
        elif self._scope:
            self._scope.cancel()

    async def front(self, sign: Signal) -> None:
        """Signal the job in front, if there is one."""
        self.screen.at(fresh=False)  # the terminal shows ^Z, or what Ctrl-\\ looks like
        if self.jobs.front:
            await self.jobs.signal(self.jobs.front, sign)


def one(words: Sequence[str]) -> str:
    """Give the only word, or "" if there is none."""
    if len(words) > 1:
        raise Failure(f"{words[1]} is too much; see `help`", WRONG)
    return words[0] if words else ""


async def script(shell: Shell, read: Callable[[], Awaitable[str]]) -> None:
    """Do what the lines of a text say; `read` gives it in pieces, "" at the end. Raises Leave."""
    rest = ""
    while piece := await read():
        *whole, rest = (rest + piece).split("\n")
        for line in whole:
            await shell.run(line)
            if shell.interrupted:
                return
    await shell.run(rest)
