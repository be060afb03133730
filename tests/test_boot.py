"""The edge, in this process: the order of commit and effects, what breaks, who holds the kernel, who speaks with it."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import Field

import tokix
from tokix import boot as edge
from tokix.boot import System, boot
from tokix.control import MAX_CALLS
from tokix.drivers import Driver, op
from tokix.failure import Interrupted, Stopped
from tokix.host import MachineThread, WallClock
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Input, Prompt, Show, Shown, Trap
from tokix.kernel.kernel import Kernel
from tokix.programs import ProgramError, Resolver, absolute, shipped
from tokix.shell.client import MAX_LINE, SOCKET, Gone, NoKernel, connect, reachable
from tokix.shell.status import exit_code, sentence
from tokix.storage import MemoryStore
from tokix.syscalls import (
    EINTR,
    EIO,
    ENOENT,
    ESRCH,
    EUNKNOWN,
    Call,
    ExitStatus,
    GetPid,
    Kill,
    Read,
    Recv,
    Send,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    Write,
)
from tokix.terminal import Source, Terminal, put
from tokix.watchdog import DEATHS, Running, Watchdog, suspects

TTY = {0: "tty", 1: "tty", 2: "tty"}
#: Seconds after which a test that waits for something that does not come fails.
PATIENCE = 20


class Screen(Terminal):
    """A terminal on files: what is typed is there from the beginning."""

    def __init__(self, folder: Path, typed: str = "") -> None:
        self._paths = [folder / name for name in ("typed", "shown", "told")]
        self._paths[0].write_text(typed)
        typed_fd = os.open(self._paths[0], os.O_RDONLY)
        shown, told = (os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) for path in self._paths[1:])
        self.fds = (typed_fd, shown, told)
        super().__init__(*self.fds)

    @property
    def shown(self) -> str:
        return self._paths[1].read_text()

    @property
    def told(self) -> str:
        return self._paths[2].read_text()


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    made = Screen(tmp_path)
    yield made
    for fd in made.fds:
        os.close(fd)


def play(main: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run a test's coroutine, for a bounded time."""

    async def bounded() -> Any:
        with anyio.fail_after(PATIENCE):
            return await main(*args)

    return anyio.run(bounded)


async def launch(system: System, program: str, *args: Any) -> ExitStatus:
    """Run a program to its end as a foreign process; gives its status when its output is shown."""
    async with system.attach("test") as client:
        pid = await client.call(Spawn(program=program, args=list(args), fds=TTY))
        status = await client.call(Wait(pid=pid))
    await system.terminal.drained()
    return status


async def until(true: Callable[[], Any]) -> None:
    """Let others go on until something is so."""
    while not true():
        await anyio.sleep(0.001)


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


async def resume(system: System) -> None:
    """Wait until all that is unfinished has ended, and is shown."""
    while system.unfinished():
        await system.changed.wait()
    async with system.attach("test"):  # a step later
        await system.terminal.drained()


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


# ---- devices


class Odd(Driver):
    """Ops that end in every way."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.started = anyio.Event()
        self.revoked = False
        self.go = threading.Event()

    @op(effect="pure")
    async def fail(self, n: Annotated[int, Field(ge=1)]) -> int:
        """Fail at the n-th call."""
        self.calls.append("fail")
        if len(self.calls) == n:
            raise RuntimeError("no such luck")
        return len(self.calls)

    @op(effect="pure")
    async def refuse(self) -> None:
        """Say no."""
        raise ENOENT("nothing here")

    @op(effect="pure")
    async def leave(self) -> None:
        """Raise what no driver should raise."""
        raise SystemExit(1)

    @op(effect="pure")
    async def cancel(self) -> None:
        """Cancel itself."""
        raise anyio.get_cancelled_exc_class()

    @op(effect="unsafe")
    async def hang(self) -> None:
        """Never answer."""
        self.calls.append("hang")
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.revoked = True

    @op(effect="pure")
    async def again(self) -> str:
        """Hang the first time."""
        self.calls.append("again")
        self.started.set()
        if self.calls == ["again"]:
            await anyio.sleep_forever()
        return "done"

    @op(effect="unsafe")
    def block(self) -> str:
        """Block a thread."""
        self.calls.append("block")
        assert self.go.wait(PATIENCE)
        return "done"


async def call(op: str, args: dict[str, Any]) -> Any:
    return await Call(device="odd", op=op, args=args)


async def catch(op: str, args: dict[str, Any]) -> str:
    try:
        return f"gives {await call(op, args)}"
    except (EIO, ENOENT, EINTR, EUNKNOWN) as error:
        return str(error)


async def fails(n: int) -> list[str]:
    return [await catch("fail", {"n": n}) for _ in range(5)]


async def twice(op: str, args: dict[str, Any]) -> list[str]:
    return [await catch(op, args), await catch(op, args)]


CALLERS: dict[str, Any] = {"catch": catch, "fails": fails, "twice": twice}


def with_odd(driver: Odd, screen: Screen, store: MemoryStore | None = None) -> Any:
    return boot(store=store or MemoryStore(), drivers={"odd": driver}, programs=CALLERS, terminal=screen)


def test_a_driver_that_fails_at_the_nth_call_fails_that_call_alone(screen: Screen) -> None:
    async def main() -> None:
        for n in range(1, 6):
            async with with_odd(Odd(), screen) as system:
                outcomes = (await launch(system, "fails", n)).value
                expected = [f"gives {i}" for i in range(1, 6)]
                expected[n - 1] = "EIO: odd.fail failed: RuntimeError: no such luck"
                assert outcomes == expected

    play(main)
    assert screen.told.count("tokix: odd.fail failed: RuntimeError: no such luck\n") == 5


@pytest.mark.parametrize(
    ("op", "outcome"),
    [
        ("refuse", "ENOENT: nothing here"),
        ("leave", "EIO: odd.leave failed: SystemExit: 1"),
        ("cancel", "EIO: odd.cancel was cancelled"),
    ],
)
def test_whatever_a_driver_does_its_caller_gets_an_answer(op: str, outcome: str, screen: Screen) -> None:
    async def main() -> str:
        async with with_odd(Odd(), screen) as system:
            return str((await launch(system, "catch", op, {})).value)

    assert play(main) == outcome


def test_an_op_that_nobody_waits_for_is_cancelled(screen: Screen) -> None:
    async def main() -> None:
        driver = Odd()
        async with with_odd(driver, screen) as system, system.attach("test") as client:
            pid = await client.call(Spawn(program="catch", args=["hang", {}]))
            await driver.started.wait()
            await client.call(Kill(pid=pid, signal=Signal.KILL))
            assert (await client.call(Wait(pid=pid))).reason == "killed"
            await until(lambda: driver.revoked)

    play(main)


def begin(
    op: str,
    driver: Odd,
    screen: Screen,
    store: MemoryStore,
    before_the_end: Callable[[], None] = lambda: None,
    program: str = "catch",
) -> None:
    """Stop a kernel while an op is in flight."""

    async def main() -> None:
        async with with_odd(driver, screen, store) as system, system.attach("test") as client:
            await client.call(Spawn(program=program, args=[op, {}], fds=TTY))
            await until(lambda: driver.calls)
            before_the_end()

    play(main)


def status_after_another_boot(driver: Odd, screen: Screen, store: MemoryStore) -> Any:
    async def main() -> Any:
        async with with_odd(driver, screen, store) as system:
            await resume(system)

    play(main)
    [row] = [row for row in store.dead() if row[3] in CALLERS]
    return ExitStatus.model_validate_json(row[15]).value


def test_a_pure_op_in_flight_is_begun_again_by_the_next_kernel(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("again", driver, screen, store)
    assert status_after_another_boot(driver, screen, store) == "gives done"
    assert driver.calls == ["again", "again"]


def test_an_unsafe_op_in_flight_is_not(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("hang", driver, screen, store)
    assert "EUNKNOWN: odd.hang" in status_after_another_boot(driver, screen, store)
    assert driver.calls == ["hang"]


def test_an_unsafe_op_that_ends_while_the_kernel_stops_is_accounted_for(screen: Screen) -> None:
    store, driver = MemoryStore(), Odd()
    begin("block", driver, screen, store, driver.go.set, program="twice")
    assert driver.calls == ["block"], "the program does not go on in a kernel that stops"
    assert status_after_another_boot(driver, screen, store) == ["gives done"] * 2
    assert driver.calls == ["block", "block"]


# ---- who has the kernel


def test_the_watchdog_names_the_program_and_the_line(screen: Screen) -> None:
    async def hog() -> None:
        await Sleep(seconds=0)
        end, told = time.monotonic() + PATIENCE, screen.fds[2]
        while not os.fstat(told).st_size and time.monotonic() < end:
            pass  # this is the line, or the one above

    async def main() -> None:
        async with boot(terminal=screen, programs={"hog": hog}) as system:
            await launch(system, "hog")

    play(main)
    line = hog.__code__.co_firstlineno + 3
    assert screen.told in [
        f"tokix: process 3 (hog) has had the kernel for more than 50 ms, at {__file__}:{n}\n" for n in (line, line + 1)
    ]


def test_the_watchdog_is_quiet_about_the_kernel_and_about_short_turns(tmp_path: Path) -> None:
    barked: list[int] = []
    running = Running(tmp_path / "running")
    watchdog = Watchdog(running, lambda pid, line: barked.append(pid))
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        running(7)
        running(0)
    while time.monotonic() < end + 0.1:
        pass  # the kernel works
    running(8)
    while 8 not in barked and time.monotonic() < end + PATIENCE:
        pass
    watchdog.end()
    assert barked == [8]


def test_who_was_running_survives_the_kernel(tmp_path: Path) -> None:
    first = Running(tmp_path / "running")
    first(5)
    assert Running(tmp_path / "running").left == 5
    first(0)
    assert Running(tmp_path / "running").left == 0


def test_three_deaths_at_the_same_point_make_a_suspect(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths.json"

    def die(pid: int, entries: int) -> dict[int, str]:
        """Boot after a death; gives the suspects."""
        Running(tmp_path / "running")(pid)
        rows: dict[str, list[tuple[Any, ...]]] = {
            "process": [(4,), (5,)],
            "journal": [(5, 0, seq) for seq in range(entries)],
        }
        return suspects(Running(tmp_path / "running"), deaths, rows)

    assert [die(5, 2), die(5, 2), die(5, 3), die(5, 3), die(0, 3)] == [{}] * 5, "progress, or a death without blame"
    assert list(die(5, 3)) == [5]
    assert die(0, 3)[5].startswith("it was running when the kernel died, 3 times at call 4; KILL it, or remove")
    assert die(4, 4) == {}, "progress is forgiven"
    assert die(9, 4) == {}, "of a process that is no more"
    assert DEATHS == 3


# ---- foreign processes


@asynccontextmanager
async def raw(state: Path, hello: bytes = b'{"program":"raw"}\n') -> AsyncIterator[tuple[ByteStream, Any]]:
    """Connect without manners; gives the stream, and a function that reads a line."""
    async with await anyio.connect_unix(state / SOCKET) as stream:
        lines = BufferedByteReceiveStream(stream)

        async def line() -> Any:
            return json.loads(await lines.receive_until(b"\n", 1 << 30))

        if hello:
            await stream.send(hello)
            assert list(await line()) == ["pid"]
        yield stream, line


def served(screen: Screen, state: Path, talk: Callable[[System], Awaitable[Any]], **options: Any) -> Any:
    """Run a kernel with a socket, and let somebody talk with it."""

    async def main() -> Any:
        async with boot(state, durable="none", terminal=screen, **options) as system:
            result = await talk(system)
            async with connect(state, "last") as client:
                assert client.pid in {p.pid for p in await client.call(Stat())}, "the kernel lives"
            return result

    return play(main)


def test_a_process_on_the_socket_can_do_what_others_can(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "visitor") as client:
            pid = await client.call(Spawn(program="pingpong", args=[2], fds={1: "pipe:out"}))
            text = [await client.call(Read(fd="pipe:out")) for _ in range(2)]
            assert (await client.call(Wait(pid=pid))).value == {"rounds": 2}
            assert "".join(text).startswith("ping 1, pong 1\n")
            [me] = await client.call(Stat(pid=client.pid))
            assert (me.program, me.ppid) == ("visitor", 0)
            with pytest.raises(ESRCH, match="no process 99"):
                await client.call(Kill(pid=99))

    served(screen, tmp_path, talk)


def test_the_socket_is_for_its_owner_alone(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600

    served(screen, tmp_path, talk)
    assert not (tmp_path / SOCKET).exists()


def test_calls_of_one_client_wait_side_by_side(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        got: list[Any] = []

        async def receive(client: Any, tag: str) -> None:
            got.append((await client.call(Recv(tag=tag))).body)

        async with connect(tmp_path, "visitor") as client, anyio.create_task_group() as group:
            for tag in "abc":
                group.start_soon(receive, client, tag)
            while (await client.call(Stat(pid=client.pid)))[0].on != "recv stat":
                pass
            for tag in "bca":
                await client.call(Send(to=client.pid, tag=tag, body=tag))
        assert got == ["b", "c", "a"]

    served(screen, tmp_path, talk)


def test_a_waiting_call_that_is_given_up_does_not_block_the_others(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "visitor") as client:
            with anyio.move_on_after(0.01):
                await client.call(Recv(tag="never"))
            assert await client.call(GetPid()) == client.pid

    served(screen, tmp_path, talk)


async def interrupted(client: Any) -> None:
    """Wait for mail, and send oneself a signal."""
    problems: list[Exception] = []

    async def wait() -> None:
        try:
            await client.call(Recv())
        except EINTR as error:
            problems.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await client.call(Kill(pid=client.pid, signal=Signal.INT))
    raise problems[0]


def test_the_same_through_both_kinds_of_client(screen: Screen, tmp_path: Path) -> None:
    async def use(client: Any) -> list[Any]:
        results: list[Any] = [await client.call(GetPid()) == client.pid]
        with pytest.raises(ESRCH) as error:
            await client.call(Kill(pid=99, signal=Signal.INT))
        results.append(str(error.value))
        with pytest.raises(EINTR):
            await interrupted(client)
        await client.call(Send(to=client.pid, body={"a": [1, None, "é"]}))
        results.append((await client.call(Recv())).body)
        return results

    async def talk(system: System) -> None:
        async with system.attach("inside") as inside, connect(tmp_path, "outside") as outside:
            for client in (inside, outside):
                assert await use(client) == [True, "ESRCH: no process 99", {"a": [1, None, "é"]}]

    served(screen, tmp_path, talk)


@pytest.mark.parametrize("inside", [True, False])
def test_a_foreign_process_that_is_killed_learns_it(inside: bool, screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        victim: Any = system.attach("victim") if inside else connect(tmp_path, "victim")
        async with system.attach("killer") as killer, victim as client:
            await killer.call(Kill(pid=client.pid, signal=Signal.KILL))
            with pytest.raises(Gone, match="KILL"):
                await client.call(Recv())
            with pytest.raises(Gone):
                await client.call(GetPid())

    served(screen, tmp_path, talk)


def test_a_connection_that_ends_is_a_process_that_ends(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "parent") as client:
            child = await client.call(Spawn(program="catch", args=["wait", {}]))
        await until(lambda: client.pid not in system.kernel.procs)
        assert system.kernel.procs[child].ppid == 1, "init has the orphan"

    async def stay(op: str, args: Any) -> None:
        await Recv()

    served(screen, tmp_path, talk, programs={"catch": stay})


def test_when_the_kernel_stops_the_processes_on_the_socket_end(screen: Screen, tmp_path: Path) -> None:
    store = MemoryStore()

    async def main() -> None:
        visit = connect(tmp_path, "visitor")
        async with boot(tmp_path, store=store, terminal=screen):
            client = await visit.__aenter__()
        assert {row[3] for row in store.tables["process"].values()} == {"init"}
        with pytest.raises(Gone):
            await client.call(GetPid())
        await visit.__aexit__(None, None, None)

    play(main)


GARBAGE = [
    (b"\n", "EINVAL"),
    (b"hello\n", "EINVAL"),
    (b"{}\n", "EINVAL"),
    (b"[1, 2]\n", "EINVAL"),
    (b"\xff\xfe\x00\n", "EINVAL"),
    (b"[" * 100_000 + b"\n", "EINVAL"),
    (b'{"id": 1, "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "", "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "a.b", "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "reboot"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "getpid", "x": 1}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "kill", "pid": "x"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "write", "text": "\\ud800"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "gather", "branches": 3}}\n', "EINVAL"),
    (b'{"id": "b", "call": {"call": "fork"}}\n', "EINVAL"),
    (b'{"id": "c", "call": {"call": "exec", "program": "echo"}}\n', "EINVAL"),
    (b'{"id": "d", "call": {"call": "spawn", "program": "echo", "fds": {"0": "file"}}}\n', "EINVAL"),
    (b'{"id": "e", "call": {"call": "kill", "pid": 1000000000000000000000000}}\n', "ESRCH"),
    (b'{"id": "f", "call": {"call": "setlimit", "limit": "tokens", "value": 1.5}}\n', "EINVAL"),
]


def test_garbage_is_answered_and_harms_nobody(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            for garbage, errno in GARBAGE:
                await stream.send(garbage)
                reply = await line()
                assert (reply["ok"], reply["error"]["errno"]) == (False, errno), garbage[:100]
            await stream.send(b'{"id": "ok", "call": {"call": "getpid"}}\n')
            assert (await line())["ok"]

    served(screen, tmp_path, talk)


def test_an_error_names_the_call_that_it_is_about(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            await stream.send(b'{"id": "seven", "call": {"call": "kill"}}\nnonsense\n')
            assert [(await line())["id"], (await line())["id"]] == ["seven", None]

    served(screen, tmp_path, talk)


@pytest.mark.parametrize("hello", [b"\n", b"GET / HTTP/1.1\r\n\r\n", b'{"program": ""}\n', b'{"id": "1"}\n'])
def test_who_does_not_say_what_he_is_is_sent_away(hello: bytes, screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path, hello=b"") as (stream, line):
            await stream.send(hello)
            assert (await line())["error"]["errno"] == "EINVAL"
            with pytest.raises((anyio.IncompleteRead, anyio.BrokenResourceError)):
                await line()

    served(screen, tmp_path, talk)


def test_a_line_without_an_end_is_cut_off(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            with suppress(anyio.BrokenResourceError):  # it may hang up while we talk
                await stream.send(b"x" * (MAX_LINE + 1))
            assert f"at most {MAX_LINE} bytes" in (await line())["error"]["detail"]

    served(screen, tmp_path, talk)


def test_replies_come_in_the_order_of_the_decisions_and_a_repeated_call_has_one_outcome(
    screen: Screen, tmp_path: Path
) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            wait = b'{"id": "wait", "call": {"call": "recv"}}\n'
            await stream.send(wait + wait + b'{"id": "a", "call": {"call": "getpid"}}\n')
            pid = (await line())["value"]
            send = b'{"id": "send", "call": {"call": "send", "to": %d, "body": 1}}\n' % pid
            await stream.send(send + send)
            replies = [await line() for _ in range(3)]
            assert [reply["id"] for reply in replies] == ["wait", "send", "send"]
            await stream.send(b'{"id": "left", "call": {"call": "recv", "timeout": 0}}\n')
            assert (await line())["error"]["errno"] == "ETIMEDOUT", "it was sent once"

    served(screen, tmp_path, talk)


def test_who_only_stops_talking_gets_the_replies(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with await anyio.connect_unix(tmp_path / SOCKET) as stream:
            await stream.send(b'{"program":"sh"}\n{"id":"1","call":{"call":"getpid"}}\n')
            await stream.send_eof()
            text = b""
            with suppress(anyio.EndOfStream):
                while True:
                    text += await stream.receive()
            pid, reply, hangup = map(json.loads, text.splitlines())
            assert reply == {"id": "1", "ok": True, "value": pid["pid"]}
            assert hangup == {"hangup": "exit"}

    served(screen, tmp_path, talk)


def test_who_does_not_listen_is_not_heard_any_more(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, _), anyio.create_task_group() as group:

            async def ask() -> None:
                for asked in range(1_000_000):
                    await stream.send(b'{"id":"%d","call":{"call":"recv"}}\n' % asked)

            group.start_soon(ask)
            [me] = [p for p in system.kernel.procs.values() if p.program == "raw"]
            await until(lambda: len(me.branches) > MAX_CALLS)  # the root is one of them
            await anyio.wait_all_tasks_blocked()
            assert len(me.branches) == MAX_CALLS + 1
            group.cancel_scope.cancel()

    served(screen, tmp_path, talk)


def test_a_long_path_is_no_obstacle(screen: Screen, tmp_path: Path) -> None:
    state = tmp_path / ("x" * 120) / "state"

    async def talk(system: System) -> None:
        with reachable(state / SOCKET) as path:
            assert len(path) < 60

    served(screen, state, talk)


def test_a_stale_socket_is_no_kernel_and_no_obstacle(screen: Screen, tmp_path: Path) -> None:
    async def dead_end() -> None:
        listener = await anyio.create_unix_listener(tmp_path / SOCKET)
        await listener.aclose()  # the file stays, as after a kill
        with pytest.raises(NoKernel, match=f"no kernel runs on {tmp_path}"):
            async with connect(tmp_path, "ps"):
                pass

    async def talk(system: System) -> None:
        pass

    play(dead_end)
    served(screen, tmp_path, talk)


def test_foreign_processes_of_the_last_kernel_are_gone(screen: Screen) -> None:
    store = MemoryStore()

    class Abrupt(Exception):
        pass

    async def die() -> None:
        async with boot(store=store, terminal=screen, programs={"stay": stay}) as system:
            client = system.attach("user")
            user = await client.__aenter__()
            await user.call(Spawn(program="stay"))
            async with anyio.create_task_group() as group:
                group.start_soon(user.call, Recv(timeout=1000))
                await until(lambda: system.kernel.started)
                group.cancel_scope.cancel()
            system.finish = lambda: None  # type: ignore[method-assign]
            raise Abrupt

    async def stay() -> None:
        await Recv()

    async def main() -> None:
        async with boot(store=store, terminal=screen, programs={"stay": stay}) as system, system.attach("user"):
            programs = Counter((p.program, p.ppid) for p in system.kernel.procs.values())
            assert programs == {("init", 0): 1, ("stay", 1): 1, ("user", 0): 1}
            system.kernel.check()

    with pytest.raises(Abrupt):
        play(die)
    assert {"user", "stay"} <= {row[3] for row in store.tables["process"].values()}
    play(main)


# ---- programs


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_programs_that_come_with_tokix() -> None:
    assert {"chat", "echo", "init", "mapreduce", "philosophers", "pingpong"} <= set(shipped())
    assert all(Resolver().get(name) for name in shipped())
    assert Resolver().get("pingpong:pong") is Resolver().get("tokix.agents.pingpong:pong")


def test_a_file_is_a_program_and_can_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_a_program.py", "async def second(): return 2")
    path = write(
        tmp_path / "main.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour_of_a_program import second\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "async def main(): return Point(1).x\n",
    )
    resolver = Resolver()
    assert resolver.find(str(path)) is resolver.find(f"{path}:main")
    assert resolver.find(f"{path}:second").__name__ == "second"


def test_a_name_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("agent.py:go") == f"{tmp_path}/agent.py:go"
    assert absolute("./agent.py") == f"{tmp_path}/agent.py"
    assert [absolute(name) for name in ("echo", "a.b:c", "/x/y.py")] == ["echo", "a.b:c", "/x/y.py"]


def test_an_entry_point_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "plugin_with_a_crawler.py", "async def crawl(): ...")
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    write(info / "METADATA", "Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    write(info / "entry_points.txt", "[tokix.programs]\ncrawler = plugin_with_a_crawler:crawl\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Resolver().find("crawler").__name__ == "crawl"


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("{}/missing.py", "", "no program {}/missing.py: there is no such Python file"),
        ("missing.py", "", "no program missing.py: the name of a file has to be absolute"),
        ("{}/p.py:other", "async def main(): ...", "no program {}/p.py:other: {}/p.py has no function other"),
        ("{}/p.py", "def main(): ...", "no program {}/p.py: main is not an async function"),
        ("{}/p.py", "main = 3", "no program {}/p.py: 3 is not an async function"),
        ("{}/p.py", "import nothing_of_that_name", "cannot import {}/p.py: ModuleNotFoundError: No module named 'noth"),
        ("{}/p.py", "def main(:", "cannot import {}/p.py: SyntaxError: "),
        ("{}/p.py", "raise SystemExit(3)", "cannot import {}/p.py: SystemExit: 3"),
        ("{}/p.py", "raise ValueError('a\\nb')", "cannot import {}/p.py: ValueError: a"),
        (
            "nothing_of_that_name",
            "",
            "no program nothing_of_that_name: there is no such module; tokix brings chat, debate",
        ),
        ("tokix.nothing:main", "", "no program tokix.nothing: there is no such module"),
        ("json", "", "no program json: "),
        ("a b", "", "no program 'a b': that is neither a file nor a module"),
        ("", "", "no program '': that is neither a file nor a module"),
        (":", "", "no program ':': that is neither a file nor a module"),
    ],
)
def test_why_there_is_no_program(name: str, source: str, complaint: str, tmp_path: Path) -> None:
    write(tmp_path / "p.py", source)
    told: list[str] = []
    resolver = Resolver(report=told.append)
    full = name.replace("{}", str(tmp_path))
    with pytest.raises(ProgramError) as error:
        resolver.find(full)
    assert str(error.value).startswith(complaint.replace("{}", str(tmp_path)))
    assert "\n" not in str(error.value)
    assert [resolver.get(full), resolver.get(full), told] == [None, None, [str(error.value)]]


def test_a_program_that_is_missing_at_a_boot_is_parked_and_goes_on_later(screen: Screen) -> None:
    store = MemoryStore()

    async def patient() -> str:
        await Recv()
        return "well"

    def known() -> Any:
        return boot(store=store, terminal=screen, programs={"patient": patient})

    async def begin() -> None:
        async with known() as system, system.attach("test") as client:
            await client.call(Spawn(program="patient"))

    async def without() -> None:
        async with boot(store=store, terminal=screen) as system:
            assert [p.parked for p in system.unfinished()] == ["no program patient"]

    async def repaired() -> None:
        async with known() as system, system.attach("test") as client:
            await client.call(Send(to=3))
            await resume(system)

    for life in (begin, without, repaired):
        play(life)
    assert "tokix: process 3 (patient) is parked: no program patient\n" in screen.told
    assert '"well"' in store.dead()[0][15]


# ---- the terminal and the clock


def test_the_terminal_acknowledges_after_it_has_written(tmp_path: Path) -> None:
    screen = Screen(tmp_path)
    seen: list[tuple[Shown, str, str]] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(screen.write, lambda shown: seen.append((shown, screen.shown, screen.told)))
            for offset, (fd, text) in enumerate([(1, "a"), (1, "b"), (2, "c"), (1, "d")]):
                screen.show(Show("tty:out", offset, 3, fd, text))
            await screen.drained()
            group.cancel_scope.cancel()

    play(main)
    assert seen == [(Shown("tty:out", 3), "abd", "c")]


def test_much_output_goes_through_a_slow_pipe() -> None:
    reader, writer = os.pipe()
    text = "".join(f"{n}\n" for n in range(100_000))
    got: list[str] = []

    async def read() -> None:
        source = Source(reader)
        while piece := await source.read():
            got.append(piece)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await put(writer, text)
            os.close(writer)

    play(main)
    os.close(reader)
    assert "".join(got) == text


def test_input_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    screen = Screen(tmp_path, typed="héllo")
    given: list[Input] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(screen.read, given.append)
            await anyio.wait_all_tasks_blocked()
            assert not given
            for _ in range(2):
                screen.prompt(Prompt("tty:in"))
            await until(lambda: len(given) == 2)
            group.cancel_scope.cancel()

    play(main)
    assert given == [Input("tty:in", "héllo"), Input("tty:in", None)]


def test_characters_that_come_in_pieces_are_put_together() -> None:
    reader, writer = os.pipe()

    os.write(writer, "é".encode()[:1])

    async def in_pieces() -> list[str]:
        source = Source(reader)
        async with anyio.create_task_group() as group:
            got: list[str] = []

            async def read() -> None:
                got.append(await source.read())

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            os.write(writer, "é".encode()[1:] + b"\xff\xe2\x82")
        os.close(writer)
        return [*got, await source.read(), await source.read()]

    assert play(in_pieces) == ["é\ufffd", "\ufffd", ""]
    os.close(reader)


def test_a_closed_input_is_at_its_end() -> None:
    async def main() -> str:
        return await Source(-1).read() + await Source(1_000_000).read()

    assert play(main) == ""


def test_the_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wall = WallClock(), iter([101.0, 102.0, 50.0, 51.0, 300.0])
    monkeypatch.setattr(time, "time", lambda: next(wall))
    clock.follow(150.0)
    assert [clock.now() for _ in range(5)] == [150.0, 151.0, 151.0, 152.0, 401.0]


# ---- what a shell says


@pytest.mark.parametrize(
    ("reason", "value", "detail", "code", "text"),
    [
        ("exit", None, "", 0, ""),
        ("exit", 0, "", 0, "p (process 3) exited with 0"),
        ("exit", 7, "", 7, "p (process 3) exited with 7"),
        ("exit", 256, "", 0, "p (process 3) exited with 256"),
        ("exit", -1, "", 0, "p (process 3) exited with -1"),
        ("exit", True, "", 0, "p (process 3) exited with true"),
        ("exit", {"a": 1}, "", 0, 'p (process 3) exited with {"a":1}'),
        ("crashed", None, "ValueError: a\nb (p.py:3)", 1, "p (process 3) crashed: ValueError: a b (p.py:3)"),
        ("killed", None, "TERM", 143, "p (process 3) killed: TERM"),
        ("killed", None, "KILL", 137, "p (process 3) killed: KILL"),
        ("killed", None, "limit of 3 seconds", 137, "p (process 3) killed: limit of 3 seconds"),
    ],
)
def test_the_end_of_a_process(reason: Any, value: Any, detail: str, code: int, text: str) -> None:
    status = ExitStatus(pid=3, program="p", reason=reason, value=value, detail=detail)
    assert (exit_code(status), sentence(status)) == (code, text)
