"""Job control: which programs a shell has started, and which of them has the terminal.

A job is a pipeline and what its programs have started. One job at most is in front: what is typed is for it, Ctrl-C
interrupts it, and Ctrl-Z stops it. INT goes to the programs of the pipeline, who may have something to finish; if one
of them ends by it, its descendants are interrupted, too. STOP and CONT are for all of them at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from tokix.shell.client import Client
from tokix.shell.screen import Output, Screen
from tokix.shell.status import exit_code, sentence
from tokix.shell.table import brief
from tokix.shell.ttys import Tty
from tokix.shell.usage import Failure
from tokix.syscalls import ESRCH, ExitStatus, Kill, Signal, Spawn, Stat, SyscallError, Wait

#: Makes the terminal of the job with this number.
MakeTty = Callable[[int], Tty]
#: Gives a piece of the input, "" at its end.
Source = Callable[[], Awaitable[str]]
#: Waits for the end of a process.
Ending = Callable[[int], Awaitable[ExitStatus]]


class Keyboard:
    """What is typed: for the job in front, and, where that has not read it, for whoever comes next."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = ""

    def unread(self, text: str) -> None:
        """Give back what was not wanted."""
        self._ahead += text

    def line(self) -> str | None:
        """Take a line that nobody has read, if there is a whole one."""
        line, end, rest = self._ahead.partition("\n")
        if not end:
            return None
        self._ahead = rest
        return line

    async def read(self) -> str:
        """Give the next piece, "" at the end."""
        if not self._ahead:
            return await self._source()
        text, self._ahead = self._ahead, ""
        return text


@dataclass(eq=False)
class Job:
    """A pipeline that was started."""

    number: int
    text: str
    tty: Tty
    output: Output
    pids: list[int]
    statuses: dict[int, ExitStatus] = field(default_factory=dict)
    stopped: bool = False
    #: This shell has started it.
    own: bool = True
    #: Somebody waits in front of it; set when there is a reason to leave: it has ended, or was stopped.
    leave: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)
    #: Who is to be interrupted when a program of the pipeline has ended by INT.
    followers: list[int] = field(default_factory=list)

    @property
    def code(self) -> int:
        """Give the exit code of the last program of the pipeline."""
        return exit_code(self.statuses[self.pids[-1]])

    @property
    def end(self) -> str:
        """Say how that has ended, if there is something to say."""
        status = self.statuses[self.pids[-1]]
        return sentence(status.model_copy(update={"program": brief(status.program)}))

    @property
    def state(self) -> str:
        """Say in a word how it is."""
        return "stopped" if self.stopped else "running"


class Jobs:
    """The jobs of a shell."""

    def __init__(
        self,
        client: Client,
        screen: Screen,
        group: TaskGroup,
        make_tty: MakeTty,
        keyboard: Keyboard,
        labelled: bool,
    ) -> None:
        """`labelled`: the output of a job that is not in front says whose it is."""
        self._client, self._screen, self._group, self._make_tty = client, screen, group, make_tty
        self._keyboard, self._labelled = keyboard, labelled
        self._all: dict[int, Job] = {}
        self._count = 0
        self.front: Job | None = None
        #: What is written on terminals that are no job's.
        self._others: list[Output] = []

    # ---- which there are

    def unfinished(self) -> list[Job]:
        return list(self._all.values())

    def get(self, name: str) -> Job:
        """Find a job by its number, with or without %; the newest if no name is given. Raises Failure."""
        number = name.removeprefix("%")
        if not name and self._all:
            return self._all[max(self._all)]
        if number.isdecimal() and int(number) in self._all:
            return self._all[int(number)]
        raise Failure(f"no job {name}; `jobs` shows them" if name else "no job is there")

    async def look(self) -> None:
        """Learn which jobs somebody else has stopped, or let go on."""
        states = {process.pid: process.state for process in await self._client.call(Stat())}
        for job in self._all.values():
            found = {states[pid] for pid in job.pids if pid in states} - {"ZOMBIE"}
            job.stopped = found == {"STOPPED"}

    async def _tree(self, job: Job) -> list[int]:
        """Give the living processes of a job: those of its pipeline first, then all who descend from them."""
        table = {process.pid: process for process in await self._client.call(Stat()) if not process.status}
        found = [pid for pid in job.pids if pid in table]
        for pid in found:  # which grows
            found += [child.pid for child in table.values() if child.ppid == pid]
        return found

    # ---- they begin

    async def start(self, calls: Sequence[Spawn], text: str, front: bool) -> Job:
        """Start a pipeline, which may be shown in front from its first word.

        Raises SyscallError if one of its programs cannot be started; then none of them runs.
        """
        self._count += 1
        tty = self._make_tty(self._count)
        pids: list[int] = []
        try:
            for place, call in enumerate(calls):
                pids.append(await self._client.call(call.model_copy(update={"fds": self._fds(tty, place, len(calls))})))
        except SyscallError:
            for pid in pids:
                with suppress(ESRCH):
                    await self._client.call(Kill(pid=pid, signal=Signal.KILL))
                await self._client.call(Wait(pid=pid))
            raise
        job = Job(self._number(), text, tty, self._output(), pids)
        job.output.front(front)
        return self._begin(job, lambda pid: self._client.call(Wait(pid=pid)))

    def _fds(self, tty: Tty, place: int, many: int) -> dict[int, str]:
        pipes = [f"pipe:{self._count}.{place}" for place in range(many - 1)]
        return {
            **tty.fds,
            **({0: pipes[place - 1]} if place else {}),
            **({1: pipes[place]} if place < many - 1 else {}),
        }

    def adopt(self, text: str, pids: list[int], tty: Tty, ending: Ending, stopped: bool) -> None:
        """Take charge of processes that somebody else has started."""
        job = Job(self._number(), text, tty, self._output(), pids, own=False, stopped=stopped)
        if self._labelled:
            self._screen.line(f"[{job.number}] {'stopped' if stopped else 'goes on'}: {text}")
        self._begin(job, ending)

    def _number(self) -> int:
        return max(self._all, default=0) + 1

    def _output(self) -> Output:
        return Output(self._screen, f"[{self._number()}]" if self._labelled else "")

    def _begin(self, job: Job, ending: Ending) -> Job:
        self._all[job.number] = job
        job.tty.open(job.output.show, self._group)
        self._group.start_soon(self._attend, job, ending)
        return job

    def overhear(self) -> Output:
        """Make the output of a terminal that is no job's, such as the one where devices ask their questions."""
        self._others.append(Output(self._screen, "[tty]" if self._labelled else ""))
        return self._others[-1]

    async def _attend(self, job: Job, ending: Ending) -> None:
        """Wait for the end of a job."""
        for pid in job.pids:
            status = job.statuses[pid] = await ending(pid)
            if status.reason == "killed" and status.detail == Signal.INT:
                await self._send(Signal.INT, job.followers)
        await job.tty.settled()
        unread = await job.tty.close()
        if job is self.front:
            self._keyboard.unread(unread)
        job.output.close()
        del self._all[job.number]
        job.over.set()
        if job is not self.front and self._labelled:
            self._screen.lines(f"[{job.number}] {job.end or f'done: {job.text}'}\n")
        job.leave.set()

    # ---- they come to the front, and go back

    async def watch(self, job: Job, *, asking: bool = False) -> bool:
        """Have a job in front until it has ended or was stopped; says whether it has ended.

        One that is stopped goes on. With `asking`, it is in front also no longer than until it waits for input; what
        is typed meanwhile is for whoever comes next.
        """
        job.leave = anyio.Event()
        self.front = job
        for output in (job.output, *self._others):
            output.front(True)
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._type, job, not asking)
                if asking:
                    beside.start_soon(self._until_asked, job)
                if job.stopped:
                    await self.signal(job, Signal.CONT)
                if not job.over.is_set():
                    await job.leave.wait()
                beside.cancel_scope.cancel()
        finally:
            self.front = None
            for output in (job.output, *self._others):
                output.front(False)
        await self._screen.drained()
        return job.over.is_set()

    async def _until_asked(self, job: Job) -> None:
        await job.tty.asked(job.pids)
        await job.tty.settled()
        job.leave.set()

    async def _type(self, job: Job, own: bool) -> None:
        """Pass on what is typed, to the job itself, or only to what asks on its behalf."""
        while True:
            await job.tty.wants(own)
            text = await self._keyboard.read()
            self._screen.at(fresh=text.endswith("\n"))
            await job.tty.give(text)
            if not text:
                return

    # ---- signals

    async def signal(self, job: Job, sign: Signal) -> None:
        """Signal a job: INT as Ctrl-C does, all others to everybody in it at once."""
        pids = await self._tree(job)
        if sign is Signal.INT:
            job.followers = [pid for pid in pids if pid not in job.pids]
            pids = [pid for pid in pids if pid in job.pids]
        await self._send(sign, pids)
        if sign is Signal.STOP:
            job.stopped = True
            job.leave.set()
        elif sign is Signal.CONT:
            job.stopped = False

    async def _send(self, sign: Signal, pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ESRCH):  # it has ended meanwhile
                await self._client.call(Kill(pid=pid, signal=sign))


def as_data(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Describe jobs, for `jobs --json`."""
    return [{"job": job.number, "state": job.state, "pids": job.pids, "text": job.text} for job in jobs]
