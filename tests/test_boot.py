"""The edge, in this process: the order of commit and effects, and what breaks."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest

import tokix
from stage import Screen, launch, play, resume, until
from tokix import boot as edge
from tokix.boot import System, boot
from tokix.failure import Interrupted, Stopped
from tokix.host import MachineThread
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Show, Trap
from tokix.kernel.kernel import Kernel
from tokix.shell.client import SOCKET
from tokix.storage import MemoryStore
from tokix.syscalls import ESRCH, GetPid, Kill, Recv, Send, Spawn, Think, Wait, Write
from tokix.terminal import Terminal

# ---- run


async def hello(name: str, times: int = 1) -> str:
    for _ in range(times):
        await Write(text=f"hello {name}\n")
    thought = await Think(prompt=name, max_tokens=4)
    return f"{name}: {len(thought.tokens)}"


def test_run_runs_a_function(screen: Screen) -> None:
    status = tokix.run(hello, "Ada", 2, terminal=screen)
    assert (status.reason, status.value) == ("exit", "Ada: 4")
    assert screen.shown == "hello Ada\nhello Ada\n"


def test_run_runs_a_program_by_name(screen: Screen) -> None:
    assert tokix.run("pingpong", 2, terminal=screen).value == {"rounds": 2}
    assert screen.shown == "ping 1, pong 1\nping 2, pong 2\n"


def test_run_twice_in_one_state_directory(screen: Screen, tmp_path: Path) -> None:
    for _ in range(2):
        assert tokix.run("echo", "hi", terminal=screen, state=tmp_path / "state").value is None
    assert screen.shown == "hi\nhi\n"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert not (tmp_path / "state" / SOCKET).exists()


def test_two_runs_give_the_same_output(tmp_path: Path) -> None:
    shown = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        screen = Screen(tmp_path / str(number))
        tokix.run("philosophers", 3, 2, terminal=screen)
        shown.append(screen.shown)
    assert shown[0] == shown[1] != ""


def test_an_exception_of_the_block_comes_out_as_it_is(screen: Screen) -> None:
    async def main() -> None:
        async with boot(terminal=screen), anyio.create_task_group():
            pass
        async with boot(terminal=screen) as system, system.attach("test") as client:
            await client.call(Kill(pid=99))

    with pytest.raises(ESRCH, match="no process 99"):
        play(main)


def test_a_block_that_is_cancelled_stops_the_kernel(screen: Screen) -> None:
    store = MemoryStore()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with boot(store=store, terminal=screen) as system:
                await launch(system, "echo", "hi")
                scope.cancel()
                await anyio.sleep_forever()

    play(main)
    assert screen.shown == "hi\n"
    assert not store.tables["chunk"], "what was shown is acknowledged"


# ---- the commit


class Failing(MemoryStore):
    """A store whose n-th commit fails."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def commit(self, rows: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError("the disk is full")
        super().commit(rows)


async def three(n: int) -> int:
    """Do what is seen outside, and what is seen by others, one after the other."""
    child = await Spawn(program="answer", args=[n])
    for number in range(n):
        await Send(to=child, body=number)
        await Write(text=f"{number}: {(await Recv(sender=child)).body}\n")
    await Think(prompt="and now?", max_tokens=3)
    await Wait(pid=child)
    return n


async def answer(n: int) -> None:
    for _ in range(n):
        message = await Recv()
        await Send(to=message.sender, body=message.body**2)


OWN = {"three": three, "answer": answer}


SAID = "0: 0\n1: 1\n2: 4\n"


def fails_at(n: int, folder: Path) -> bool:
    """Let the n-th commit fail; says whether there was one. The next kernel has to make of it what this one would."""
    folder.mkdir()
    screen, store = Screen(folder), Failing()
    store.left = n

    async def first() -> None:
        async with boot(store=store, terminal=screen, programs=OWN) as system:
            assert (await launch(system, "three", 3)).value == 3

    async def second() -> None:
        async with boot(store=store, terminal=screen, programs=OWN) as system:
            await resume(system)

    try:
        play(first)
    except Stopped as stop:
        what, _, report = str(stop).partition("; the report is ")
        assert what == "a commit failed, and the kernel has stopped: OSError: the disk is full"
        assert "in commit\n    raise OSError" in Path(report).read_text()
        Path(report).unlink()
    else:
        assert screen.shown == SAID
        return False
    before = screen.shown
    assert SAID.startswith(before), "what was let out is what would have been let out"
    begun = any("three" in row for row in store.tables["process"].values())
    play(second)
    after = screen.shown.removeprefix(before).splitlines(keepends=True)
    assert sorted({*before.splitlines(keepends=True), *after}) == (SAID.splitlines(keepends=True) if begun else [])
    assert len(after) == len(set(after)), "shown again, but once"
    return True


def test_a_failed_commit_stops_the_kernel_and_loses_nothing(tmp_path: Path) -> None:
    n = 1
    while fails_at(n, tmp_path / str(n)):
        n += 1
    assert n > 5


def test_the_tick_goes_first_and_nothing_is_let_out_before_it_is_committed(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def note(owner: type, name: str, word: str) -> None:
        real = getattr(owner, name)

        def noted(self: Any, what: Any) -> None:
            order.append(word)
            if isinstance(what, Show):
                assert (what.stream, what.offset) in store.tables["chunk"]
            real(self, what)

        monkeypatch.setattr(owner, name, noted)

    note(MachineThread, "start", "tick")
    note(MemoryStore, "commit", "commit")
    note(System, "start", "effect")
    store = MemoryStore()

    async def main() -> None:
        async with boot(store=store, terminal=screen, programs=OWN) as system:
            await launch(system, "three", 2)

    play(main)
    steps = " ".join(order)
    assert "tick commit" in steps, "the commit hides behind the forward"
    assert {before for before, word in pairwise(order) if word == "effect"} == {"commit", "effect"}


# ---- what else can break


def test_a_kernel_bug_stops_the_kernel_with_a_report(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Kernel, interrupts: Any, now: float) -> Any:
        raise KernelBug("free frames do not add up")

    monkeypatch.setattr(Kernel, "step", step)

    async def main() -> None:
        async with boot(tmp_path, terminal=screen) as system:
            await launch(system, "echo", "hi")

    with pytest.raises(
        Stopped, match="the kernel is wrong, and the kernel has stopped: KernelBug: free frames"
    ) as stop:
        play(main)
    [report] = tmp_path.glob("crash-*.txt")
    assert str(stop.value).endswith(f"the report is {report}")
    assert 'raise KernelBug("free frames do not add up")' in report.read_text()


def test_a_report_that_cannot_be_written_is_no_second_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    stop = edge.stopped("it broke", OSError("no disk"), tmp_path / "missing", 3)
    assert str(stop).endswith("OSError: no disk; the report could not be written anywhere")


def test_a_broken_machine_stops_the_kernel(screen: Screen, tmp_path: Path) -> None:
    class Broken(ToyMachine):
        def run(self, tick: Any) -> Any:
            raise MemoryError("no frames here")

    async def main() -> None:
        async with boot(tmp_path, machine=Broken(), terminal=screen) as system:
            await launch(system, "philosophers", 2, 1)

    with pytest.raises(Stopped, match="the machine failed, and the kernel has stopped: MemoryError: no frames here"):
        play(main)


def test_the_kernel_is_checked_when_all_is_quiet(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "QUIET", 0.001)
    checks: list[Kernel] = []
    monkeypatch.setattr(Kernel, "check", lambda kernel: checks.append(kernel))

    async def main() -> None:
        async with boot(terminal=screen):
            await until(lambda: checks)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()

    play(main)
    assert len(checks) == 1


def test_a_check_that_fails_stops_the_kernel(screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Kernel) -> None:
        raise KernelBug("a leak")

    monkeypatch.setattr(edge, "QUIET", 0.001)
    monkeypatch.setattr(Kernel, "check", check)

    async def main() -> None:
        async with boot(tmp_path, terminal=screen):
            await anyio.sleep_forever()

    with pytest.raises(Stopped, match="KernelBug: a leak"):
        play(main)


def test_output_that_nobody_reads_stops_the_kernel_and_is_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    reader, writer = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.close(reader)

    async def main() -> None:
        async with boot(store=store, terminal=Terminal(nothing, writer, nothing)) as system:
            await launch(system, "echo", "hi")
            await anyio.sleep_forever()

    with pytest.raises(Interrupted) as cut:
        play(main)
    os.close(writer)
    os.close(nothing)
    assert cut.value.signum == 13
    assert [row[4] for row in store.tables["chunk"].values()] == ["hi\n"]


def test_a_program_that_raises_anything_only_ends_itself(screen: Screen) -> None:
    async def wild(kind: str) -> None:
        raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "cancelled": anyio.get_cancelled_exc_class()()}[
            kind
        ]

    async def main() -> list[str]:
        async with boot(terminal=screen, programs={"wild": wild}) as system:
            return [(await launch(system, "wild", kind)).reason for kind in ("exit", "closed", "cancelled")]

    assert play(main) == ["exit", "crashed", "crashed"]


def test_a_program_can_leave_an_async_generator_behind(screen: Screen) -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(10):
                yield n + await GetPid()
        finally:
            closed.append("closed")

    async def first() -> int:
        async for n in numbers():
            return n
        return 0

    async def careless() -> list[Any]:
        return [await first(), *closed]

    async def main() -> Any:
        async with boot(terminal=screen, programs={"careless": careless}) as system:
            return (await launch(system, "careless")).value

    assert play(main) == [3, "closed"], "closed in the program's own time, not in that of an event loop"


def test_a_step_that_was_broken_off_is_not_committed(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody who did not ask for `signalled` presses Ctrl-C twice."""
    store, real = MemoryStore(), Kernel.step

    def step(self: Kernel, interrupts: Any, now: float) -> Any:
        if not any(isinstance(interrupt, Trap) for interrupt in interrupts):
            return real(self, interrupts, now)
        self.put("kernel", ("half",), ("half", "done"))
        raise KeyboardInterrupt

    monkeypatch.setattr(Kernel, "step", step)

    async def main() -> None:
        async with boot(store=store, terminal=screen) as system:
            await launch(system, "echo", "hi")

    with pytest.raises(KeyboardInterrupt):
        play(main)
    assert ("half",) not in store.tables["kernel"]
