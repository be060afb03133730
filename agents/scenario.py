"""scenario {…}: a cast of processes, what flows between them, and what must hold at the end.

A scenario is a shell script that can be checked before it runs: who is started with what and when, whose output is
whose input, which messages are sent, for whom to wait. `tokix.scenario` reads one from a YAML file; this program
plays it, and is a process as any other: killed in the middle, it goes on.

It only spawns and waits. What takes time is a child: one sleeps until a moment, one writes a text into a pipe, one
copies an output and keeps it. So the whole play is one loop over the ends of children.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from tokix.agents.crew import end
from tokix.agents.script import Actor, Expected, Letter, Moment, Scenario, problems, unlike, unlike_output
from tokix.syscalls import (
    EINTR,
    EINVAL,
    EPIPE,
    Devices,
    ExitStatus,
    Read,
    Send,
    Sleep,
    Spawn,
    Stat,
    SyscallError,
    Wait,
    Write,
    program,
)

#: Characters of an output that are kept for `expect`.
KEPT = 100_000


@program()
async def main(scenario: Scenario) -> int | None:
    """Play a scenario; gives 1 if something does not hold at its end."""
    if wrong := [f"{'.'.join(map(str, problem.where))}: {problem.what}" for problem in problems(scenario)]:
        raise EINVAL("; ".join(wrong))
    mounted = {device.name for device in await Devices()}
    if missing := [name for name in scenario.devices if name not in mounted]:
        raise EINVAL(f"the device {missing[0]} is not mounted; run the scenario with a kernel of its own")
    play = Play(scenario)
    try:
        await play.run()
    except EINTR:
        await end(play.running)
        raise
    wrong = play.failures or await play.judge()
    for line in wrong:
        await Write(fd=2, text=f"{scenario.name}: {line}\n")
    if not wrong:
        count = len(scenario.awaited)
        ended = "1 process has" if count == 1 else f"{count} processes have"
        await Write(fd=2, text=f"{scenario.name}: {ended} ended as expected\n")
    return 1 if wrong else None


class Play:
    """A scenario on its way."""

    def __init__(self, plan: Scenario) -> None:
        self.plan = plan
        #: What each living child is: a kind of helper or "process", and for whom.
        self.running: dict[int, tuple[str, Any]] = {}
        self.pids: dict[str, int] = {}
        self.ended: dict[str, ExitStatus] = {}
        self.outputs: dict[str, str] = {}
        #: Who has not begun: processes by name, messages by number; those whose moment is awaited, or has come.
        self.pending: dict[str | int, Actor | Letter] = {}
        self.pending.update(plan.processes)  # the first, for a message may be to one of them
        self.pending.update(enumerate(plan.messages))
        self.timed: set[str | int] = set()
        self.due: set[str | int] = set()
        self.readers = {other: name for name, actor in plan.processes.items() for other in actor.stdin.of}
        #: Pipes with several writers, which this process holds open until the last of them has ended.
        self.held = {name for name, actor in plan.processes.items() if len(actor.stdin.of) > 1}
        self.watched = {name for name, expected in plan.expect.items() if expected.output}
        self.failures: list[str] = []

    async def run(self) -> None:
        """Let everybody play until all that is awaited has ended; then end the rest."""
        while not self.failures:
            await self.begin()
            if self.failures or self.over():
                break
            await self.take(await Wait())
        await end(self.running)

    def over(self) -> bool:
        kept = self.watched - self.outputs.keys()
        return all(name in self.ended and name not in kept for name in self.plan.awaited)

    async def begin(self) -> None:
        """Begin all that can begin now."""
        for key, entry in [*self.pending.items()]:
            if entry.after is not None and entry.after not in self.ended:
                continue
            if entry.at != Moment() and key not in self.due:
                if key not in self.timed:
                    self.timed.add(key)
                    await self.spawn("alarm", key, Spawn(program=":alarm", args=[entry.at.seconds, entry.at.ticks]))
            elif isinstance(entry, Letter):
                await self.send(key, entry)
            else:
                del self.pending[key]
                await self.start(str(key), entry)

    async def send(self, key: str | int, letter: Letter) -> None:
        """Send a message, if its receiver is there."""
        if letter.to not in self.pids:
            return
        del self.pending[key]
        try:
            await Send(to=self.pids[letter.to], body=letter.body, tag=letter.tag, block=False)
        except EINTR:
            raise
        except SyscallError as error:
            self.failures.append(f"message {int(key) + 1} to {letter.to}: {error}")

    async def start(self, name: str, actor: Actor) -> None:
        """Start a process, and what stands at its ends."""
        fds: dict[int, str] = {}
        if not actor.stdin.tty:
            fds[0] = f"pipe:{name}" if actor.stdin.of or actor.stdin.text is not None else "null"
        out = {1: f"pipe:{self.readers[name]}"} if name in self.readers else {1: "null"} if actor.out == "null" else {}
        fds |= {1: f"pipe:{name}.out"} if name in self.watched else out
        await self.spawn(
            "process",
            name,
            Spawn(
                program=actor.program,
                args=actor.args,
                nice=actor.nice,
                caps=actor.caps,
                limits=actor.limits,
                fds=fds,
            ),
        )
        if actor.stdin.text is not None:
            await self.spawn("feed", name, Spawn(program=":feed", args=[actor.stdin.text], fds={1: f"pipe:{name}"}))
        if name in self.watched:
            await self.spawn("keep", name, Spawn(program=":keep", fds={0: f"pipe:{name}.out", **out}))
        for reader in {name, self.readers.get(name)} & self.held:
            with suppress(EPIPE):
                await Write(fd=f"pipe:{reader}", text="")

    async def spawn(self, kind: str, whose: Any, call: Spawn) -> None:
        if self.failures:
            return
        try:
            pid = await call
        except EINTR:
            raise
        except SyscallError as error:
            self.failures.append(f"{whose}: {error}")
            return
        self.running[pid] = kind, whose
        if kind == "process":
            self.pids[whose] = pid

    async def take(self, status: ExitStatus) -> None:
        """A child has ended."""
        kind, whose = self.running.pop(status.pid)
        match kind:
            case "alarm":
                self.due.add(whose)
            case "keep":
                self.outputs[whose] = status.value or ""
            case "process":
                self.ended[whose] = status
                reader = self.readers.get(whose)
                if reader in self.held and all(other in self.ended for other in self.plan.processes[reader].stdin.of):
                    self.held.discard(reader)
                    with suppress(EPIPE):
                        await Write(fd=f"pipe:{reader}", text="", close=True)

    async def judge(self) -> list[str]:
        """Say what does not hold."""
        lines: list[str] = []
        for name in self.plan.awaited:
            expected, status = self.plan.expect.get(name, Expected()), self.ended[name]
            lines += [f"{name}: {line}" for line in unlike(expected, status)]
            if expected.tokens:
                [info] = await Stat(pid=status.pid, dead=True)
                if not expected.tokens.holds(info.tokens):
                    lines.append(f"{name}: it has used {info.tokens} tokens, and not {expected.tokens}")
            if expected.output:
                lines += [f"{name}: its output {line}" for line in unlike_output(expected.output, self.outputs[name])]
        return lines


# ---- the helpers


async def alarm(seconds: float, ticks: int) -> None:
    """End at a moment."""
    if ticks:
        await Sleep(ticks=ticks)
    else:
        await Sleep(seconds=seconds)


async def feed(text: str) -> None:
    """Be the input of a process; it need not read all of it."""
    with suppress(EPIPE):
        await Write(text=text)


async def keep() -> str:
    """Copy what comes in, in whole lines, and give the beginning of it."""
    kept = rest = ""
    while text := await Read():
        kept = (kept + text)[:KEPT]
        lines, end, rest = (rest + text).rpartition("\n")
        await copy(lines + end)
    await copy(rest)
    return kept


async def copy(text: str) -> None:
    if text:
        with suppress(EPIPE):
            await Write(text=text)
