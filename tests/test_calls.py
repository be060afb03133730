"""Every call, at its edges: small programs in a fresh system, judged by how they end and by what they print.

`run` gives the value with which `main` ends; `always` asserts that a kill of the kernel before or after any commit does
not change it. Both assert that nothing is left afterwards: no process, mail, frame, timer, note or row.
"""

import gc
import json
import math
import warnings

import pytest

from tokix.kernel.arch.toy import END, MARKS, ToyMachine
from tokix.kernel.events import Input, Sampling
from tokix.kernel.policy import RR
from tokix.kernel.ports import ARCHIVE
from tokix.kernel.streams import CAPACITY
from tokix.sim import Simulation, World
from tokix.syscalls import (
    EINTR,
    EINVAL,
    EIO,
    ENOENT,
    EUNKNOWN,
    Append,
    Call,
    ChatMessage,
    Count,
    DeviceInfo,
    Devices,
    Drop,
    Exec,
    Exit,
    ExitStatus,
    Fork,
    Gather,
    GetPid,
    Grant,
    Kill,
    Limits,
    Now,
    OpInfo,
    Pages,
    Pin,
    Random,
    Read,
    Recv,
    Renice,
    Select,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Syscall,
    SyscallError,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from torture import Killed, Mortal

# ---- the harness

#: The pid of `main`, which init starts first; CHILD is that of the first child of main.
MAIN, CHILD = 2, 3


async def init():
    """Start `main`, and take the status of everybody until nobody is left."""
    await Spawn(program="main")
    while len(await Stat()) > 1:
        await Wait()


class Ended:
    """A system in which everything has ended."""

    def __init__(self, sim):
        self.sim, self.world, self.kernel = sim, sim.world, sim.kernel
        rows = [row[15] for row in sim.store.dead()]
        self.statuses = [ExitStatus.model_validate_json(text) for text in rows]

    @property
    def value(self):
        """How `main` ended, as one value."""
        [status] = [status for status in self.statuses if status.pid == MAIN]
        return status.value if status.reason == "exit" else (status.reason, status.detail)


def clean(sim):
    """Assert that nothing is left of a run."""
    kernel, rows = sim.kernel, sim.store.load()
    assert not kernel.procs, f"left over: {[(p.pid, p.program, p.state, p.parked) for p in kernel.procs.values()]}"
    for name in ("started", "partials", "invoked", "ready"):
        assert not getattr(kernel, name), f"{name} leaks: {getattr(kernel, name)}"
    assert not [timer for timer in kernel.timers if kernel.due(*timer[2:])]
    assert not kernel.scheduler.resident, "frames leak"
    assert not kernel.scheduler.waiting
    assert not kernel.scheduler.gang
    assert set(kernel.streams) <= {"tty:in", "tty:out"}
    for table in ("process", "journal", "started", "partial", "message", "signal", "chunk"):
        assert not rows[table], f"{table} leaks: {rows[table][:3]}"
    for table in ARCHIVE:
        assert not sim.store.read(table, ()), f"{table} leaks"
    assert not [name for name, _ in rows["kernel"] if ":" in name]
    assert not sim.world.reports


def boot(main, *programs, store=None, world=None, machine=None, policy=None, **shape):
    named = {program.__name__: program for program in programs} | {"init": init, "main": main}
    return Simulation(named, store or Mortal(), world, machine or ToyMachine(ends=False), policy, **shape)


def finish(main, *programs, world=World, **options):
    """Run to the end, and look for leaks."""
    sim = boot(main, *programs, world=world(), **options).run(20_000)
    clean(sim)
    return Ended(sim)


def run(main, *programs, **options):
    return finish(main, *programs, **options).value


def lives(crashes, main, *programs, world=World, away=1.0, **options):
    """Run with a kill of the kernel at each of the (n-th commit, "before" | "after")."""
    store, place = Mortal(), world()
    for store.crash in [*crashes, (0, "")]:
        store.reopen()
        try:
            sim = boot(main, *programs, store=store, world=place, **options).run(20_000)
        except Killed:
            place.now += away
            continue
        clean(sim)
        return Ended(sim)
    raise AssertionError("it died once more than it was killed")


def always(main, *programs, step=1, **options):
    """Give the value of `main`, which no single kill changes."""
    expected = lives([], main, *programs, **options)
    commits = expected.sim.store.commits
    for n in range(1, commits + 1, step):
        for when in ("before", "after"):
            again = lives([(n, when)], main, *programs, **options)
            assert again.value == expected.value, f"killed {when} commit {n} of {commits}"
            assert said(again) == said(expected), f"killed {when} commit {n} of {commits}"
    return expected.value


def said(ended):
    """What is on the screen, without the order of processes."""
    return sorted((pid, ended.world.output(pid)) for pid in {pid for pid, *_ in ended.world.screen.values()})


async def errno(call):
    """Give the value of a call, or the name of its error."""
    try:
        return await call
    except SyscallError as error:
        return error.errno


async def told(call):
    """Give the value of a call, or its error as text."""
    try:
        return await call
    except SyscallError as error:
        return str(error)


def ends_with(value):
    """Make the program `child`, which returns a value."""

    async def child():
        return value

    return child


async def sleeper(seconds=1e6):
    await Sleep(seconds=seconds)
    return seconds


async def receiver(count=1, after=0.0):
    """Sleep, then give the bodies of so many messages."""
    await Sleep(seconds=after)
    return [(await Recv()).body for _ in range(count)]


# ---- Wait


def test_wait_for_any_takes_the_dead_in_the_order_of_their_deaths():
    async def main():
        children = {await Spawn(program="sleeper", args=[seconds]): seconds for seconds in (3, 1, 2)}
        await Sleep(seconds=5)
        return [children[(await Wait()).pid] for _ in children]

    assert run(main, sleeper) == [1, 2, 3]


def test_wait_for_any_gives_what_ends_first():
    async def main():
        for seconds in (3, 1, 2):
            await Spawn(program="sleeper", args=[seconds])
        return [(await Wait()).value for _ in range(3)] + [await errno(Wait())]

    assert always(main, sleeper) == [1, 2, 3, "ECHILD"]


def test_wait_for_one_leaves_the_others():
    async def main():
        slow, fast = [await Spawn(program="sleeper", args=[seconds]) for seconds in (3, 1)]
        first = await Wait(pid=slow)
        [zombie] = await Stat(pid=fast)
        second = await Wait(pid=fast)
        return [first.value, zombie.state, zombie.status.value, second.value, await errno(Wait(pid=fast))]

    assert always(main, sleeper) == [3, "ZOMBIE", 1, 1, "ECHILD"]


def test_wait_has_a_timeout_and_the_child_can_be_waited_for_later():
    async def main():
        pid = await Spawn(program="sleeper", args=[5])
        late = [await errno(Wait(timeout=0)), await errno(Wait(pid=pid, timeout=2)), await Now()]
        return [*late, (await Wait(pid=pid, timeout=100)).value]

    assert run(main, sleeper) == ["ETIMEDOUT", "ETIMEDOUT", 2.0, 5]
    assert always(main, sleeper, away=0)[:2] == ["ETIMEDOUT", "ETIMEDOUT"]


def test_wait_is_for_children_only():
    async def child(parent, grandparent):
        return [await errno(Wait(pid=pid)) for pid in (parent, grandparent, await GetPid(), 77)] + [await errno(Wait())]

    async def main():
        sibling = await Spawn(program="sleeper", args=[1])
        pid = await Spawn(program="child", args=[await GetPid(), 1])
        grandchild = await Spawn(program="nest")
        below = (await Recv()).body
        return [
            (await Wait(pid=pid)).value,
            await errno(Wait(pid=below)),
            (await Wait(pid=sibling)).value,
            bool(grandchild),
        ]

    async def nest():
        await Send(to=2, body=await Spawn(program="sleeper", args=[2]))

    assert run(main, child, sleeper, nest) == [["ECHILD"] * 5, "ECHILD", 1, True]


def test_two_branches_wait_for_their_children():
    async def main():
        one, two = [await Spawn(program="sleeper", args=[seconds]) for seconds in (1, 2)]
        ends = await gather(Wait(pid=two), Wait(pid=one))
        return [end.value for end in ends]

    assert always(main, sleeper) == [2, 1]


@pytest.mark.parametrize("specific", [True, False])
def test_two_branches_wait_for_the_same_child_and_one_is_told_that_it_is_gone(specific):
    async def main():
        pid = await Spawn(program="sleeper", args=[1])
        wait = Wait(pid=pid) if specific else Wait()
        one, two = await gather(errno(wait), errno(wait))
        return [one.value, two]

    assert always(main, sleeper) == [1, "ECHILD"]


def test_a_waiter_for_any_goes_on_waiting_while_there_are_children():
    async def main():
        pids = [await Spawn(program="sleeper", args=[seconds]) for seconds in (1, 2)]
        one, two = await gather(Wait(pid=pids[0]), Wait())
        return [one.value, two.value]

    assert always(main, sleeper) == [1, 2]


def test_orphans_go_to_init_with_their_zombies():
    async def parent():
        await Spawn(program="sleeper", args=[0])
        await Spawn(program="sleeper", args=[4])
        await Sleep(seconds=1)

    async def main():
        await Wait(pid=await Spawn(program="parent"))
        return sorted((p.program, p.ppid, p.state) for p in await Stat() if p.program == "sleeper")

    assert run(main, parent, sleeper) == [["sleeper", 1, "BLOCKED"]]


def test_the_status_says_how_it_ended():
    async def crashed():
        raise ValueError("boom")

    async def exited():
        await Exit(value={"a": 1})
        raise AssertionError("after Exit")

    async def left():
        raise SystemExit(4)

    async def ended_by_term():
        await Sleep(seconds=100)

    async def main():
        ends = [await Wait(pid=await Spawn(program=name)) for name in ("crashed", "exited", "left")]
        for signal in (Signal.TERM, Signal.INT, Signal.KILL):
            pid = await Spawn(program="ended_by_term")
            await Kill(pid=pid, signal=signal)
            ends.append(await Wait(pid=pid))
        return [[end.program, end.reason, end.value, end.detail] for end in ends]

    found = always(main, crashed, exited, left, ended_by_term)
    assert found[0][:3] == ["crashed", "crashed", None]
    assert found[0][3].startswith("ValueError: boom (test_calls.py:")
    assert found[1:3] == [["exited", "exit", {"a": 1}, ""], ["left", "exit", 4, ""]]
    assert [end[1:] for end in found[3:]] == [["killed", None, name] for name in ("TERM", "INT", "KILL")]


# ---- Spawn


def test_spawn_refuses_what_makes_no_sense():
    async def main():
        return [
            await errno(Spawn(program="nobody")),
            await errno(Spawn(program="sleeper", fds={1: "file:x"})),
            await errno(Spawn(program="sleeper", fds={1: "pipe:"})),
            await errno(Spawn(program="sleeper", args=[object()])),
            len(await Stat()),
        ]

    assert run(main, sleeper) == ["ENOENT", "EINVAL", "EINVAL", "EINVAL", 2]


def test_wrong_arguments_crash_the_child_and_say_why():
    async def main():
        ends = [await Wait(pid=await Spawn(program="sleeper", args=args)) for args in ([1, 2, 3], ["soon"])]
        return [(end.reason, end.detail) for end in ends]

    many, wrong = run(main, sleeper)
    assert many[0] == wrong[0] == "crashed"
    assert many[1].startswith("TypeError: sleeper() takes from 0 to 1 positional arguments but 3 were given")
    assert wrong[1].startswith("ValidationError: 1 validation error for Sleep")


def test_a_program_that_is_no_coroutine_function_crashes():
    def plain():
        return 3

    async def main():
        return (await Wait(pid=await Spawn(program="plain"))).detail

    assert run(main, plain).startswith("TypeError: program plain is not an async function")


def test_a_child_gets_no_more_than_its_parent_has():
    async def child(more=()):
        asked = {
            "caps": Spawn(program="sleeper", caps=["call:web.get", "think"]),
            "all": Spawn(program="sleeper", caps=["*"]),
            "nice": Spawn(program="sleeper", nice=4),
            "limit": Spawn(program="sleeper", limits=Limits(tokens=101, children=3, messages=9)),
            "none": Spawn(program="sleeper", limits=Limits(children=3, messages=9)),
            "program": Spawn(program="child"),
        }
        refused = {name: await told(call) for name, call in asked.items()}
        await Wait(
            pid=await Spawn(
                program="sleeper",
                args=[1],
                nice=6,
                caps=["call:web.get"],
                limits=Limits(tokens=100, children=3, messages=10),
            )
        )
        return refused

    async def main():
        pid = await Spawn(
            program="child",
            nice=5,
            caps=["spawn:sleeper", "call:web.*"],
            limits=Limits(tokens=100, children=3, messages=10),
        )
        return (await Wait(pid=pid)).value

    refused = run(main, child, sleeper)
    wanted = {"caps": "think", "all": "*", "nice": "nice", "limit": "limit", "none": "limit", "program": "spawn:child"}
    assert set(refused) == set(wanted)
    for name, cap in wanted.items():
        assert refused[name] == f"EPERM: child (pid 3) has no capability {cap!r}", name


def test_limits_nice_caps_and_streams_are_inherited():
    async def child():
        await Write(text="from the child")
        [me] = await Stat(pid=await GetPid())
        return [
            me.nice,
            await errno(Think(prompt="x")),
            await errno(Append(text="12345678")),
            await errno(Append(text="x" * 99)),
        ]

    async def parent():
        return (await Wait(pid=await Spawn(program="child"))).value

    async def main():
        pid = await Spawn(program="parent", nice=7, caps=["spawn:*"], limits=Limits(tokens=20), fds={1: "pipe:out"})
        text = await Read(fd="pipe:out")
        return [text, (await Wait(pid=pid)).value]

    assert always(main, child, parent) == ["from the child", [7, "EPERM", 0, "EDQUOT"]]


def test_the_limit_of_children_counts_zombies_until_they_are_waited_for():
    async def main():
        await SetLimit(limit="children", value=2)
        one = await Spawn(program="sleeper", args=[0])
        await Spawn(program="sleeper", args=[0])
        full = await told(Spawn(program="sleeper"))
        await Sleep(seconds=1)
        still = [await errno(Spawn(program="sleeper")), await errno(Fork())]
        await Wait(pid=one)
        return [full, *still, await Spawn(program="sleeper", args=[0]) > 0]

    full = "EAGAIN: process 2 has its limit of 2 children; wait for one"
    assert always(main, sleeper) == [full, "EAGAIN", "EAGAIN", True]


def test_arguments_are_the_childs_own():
    async def child(items):
        items.append("mine")
        return items

    async def main():
        items = [1]
        pid = await Spawn(program="child", args=[items])
        items.append("late")
        return [(await Wait(pid=pid)).value, items]

    assert always(main, child) == [[1, "mine"], [1, "late"]]


# ---- ends that are no use to the kernel


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def nest(depth, value=()):
    value = [*value]
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (object(), "its exit value is not JSON"),
        (nest(230), "its exit value is not JSON"),
        (10**5000, "its exit value is not JSON"),
    ],
    ids=["object", "deep", "big"],
)
@pytest.mark.parametrize("returns", [True, False])
def test_an_exit_value_that_is_not_json_is_a_crash(value, detail, returns):
    async def child():
        if returns:
            return value
        return await Exit(value=value)

    async def main():
        return [*(await Wait(pid=await Spawn(program="child"))).model_dump(include={"reason", "detail"}).values()]

    reason, found = always(main, child)
    assert reason == "crashed"
    assert detail in found or found.startswith("EINVAL: the arguments of exit have to be JSON")


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError("file \udcff"), "ValueError: file ?"),
        (Unprintable(), "Unprintable"),
        (EINVAL("\udcff"), "EINVAL: ?"),
        (FileNotFoundError(2, "No such file"), "FileNotFoundError: [Errno 2] No such file"),
        (GeneratorExit(), "GeneratorExit"),
        (RecursionError("x"), "RecursionError: x"),
        (BaseException("base"), "BaseException: base"),
        (ValueError("x" * 100_000), "ValueError: xxx"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_whatever_a_program_raises_is_its_own_end(error, detail):
    async def child():
        await Sleep(seconds=0)
        raise error

    async def main():
        end = await Wait(pid=await Spawn(program="child"))
        return [end.reason, end.detail]

    reason, found = run(main, child)
    assert reason == "crashed"
    assert found.startswith(detail)
    assert len(found) < 10_000


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, BaseException, ValueError, RuntimeError])
def test_a_program_may_raise_what_it_likes_while_it_is_thrown_away(error):
    async def child(parent):
        async def branch():
            try:
                await Recv()
            finally:
                raise error("nobody sees it")

        await select(branch(), Sleep(seconds=1))
        await Send(to=parent)
        await branch()

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv()
        await Kill(pid=pid, signal=Signal.KILL)
        return (await Wait(pid=pid)).detail

    assert run(main, child) == "KILL"


def test_who_is_thrown_away_cannot_call_any_more():
    async def child():
        async def branch():
            try:
                await Recv()
            finally:
                await Write(text="too late")

        await select(branch(), Sleep(seconds=1))
        await branch()

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=2)
        await Kill(pid=pid, signal=Signal.KILL)
        return (await Wait(pid=pid)).detail

    ended = finish(main, child)
    assert (ended.value, ended.world.screen) == ("KILL", {})


class MySend(Send):
    """A call that the kernel does not know."""


@pytest.mark.parametrize("call", [MySend(to=1), Syscall(), 3, None, "x"], ids=lambda c: type(c).__name__)
def test_what_is_no_call_is_einval(call):
    class Stray:
        def __await__(self):
            return (yield call)

    async def main():
        return [await told(Stray()), await Count(text="abc")]

    text, three = always(main)
    assert text.startswith("EINVAL: ")
    assert type(call).__name__ in text or "call" in text
    assert three == 3


def test_deep_recursion_of_branches_ends_the_program_and_not_the_kernel():
    async def child():
        await gather(child())

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).reason

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Python's, of the coroutine at the bottom, which nobody awaits
        assert run(main, child) == "crashed"
        gc.collect()


# ---- Kill


def test_kill_of_who_is_not_there():
    async def main():
        pid = await Spawn(program="sleeper", args=[0])
        await Wait(pid=pid)
        zombie = await Spawn(program="sleeper", args=[0])
        await Sleep(seconds=1)
        found = [await errno(Kill(pid=p, signal=s)) for p in (pid, zombie, 99, 0, -1) for s in Signal]
        return [*sorted(set(found)), await errno(Kill(pid=1)), (await Wait(pid=zombie)).reason]

    assert run(main, sleeper) == ["ESRCH", "EPERM", "exit"]


def test_only_descendants_can_be_killed_without_a_capability():
    async def grandchild():
        await Recv()

    async def child(boss):
        below = await Spawn(program="grandchild")
        above = [await errno(Kill(pid=pid)) for pid in (boss, 1)]
        await Kill(pid=below)
        return [*above, (await Wait(pid=below)).detail]

    async def main():
        me = await GetPid()
        end = await Wait(pid=await Spawn(program="child", args=[me], caps=["spawn:*"]))
        allowed = await Wait(pid=await Spawn(program="child", args=[77], caps=["spawn:*", "kill:7*"]))
        return [end.value, allowed.value]

    assert run(main, child, grandchild) == [["EPERM", "EPERM", "TERM"], ["ESRCH", "EPERM", "TERM"]]


@pytest.mark.parametrize("signal", [Signal.TERM, Signal.INT])
def test_a_signal_to_oneself_is_the_outcome_of_the_kill(signal):
    async def main():
        return [await told(Kill(pid=await GetPid(), signal=signal)), await Count(text="abc"), await Count(text="ab")]

    assert always(main) == [f"EINTR: {signal}", 3, 2]


def test_kill_oneself():
    async def child():
        await Kill(pid=await GetPid(), signal=Signal.KILL)
        raise AssertionError("after death")

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).detail

    assert always(main, child) == "KILL"


def test_a_branch_kills_its_own_process():
    async def child(signal):
        async def branch():
            await Sleep(seconds=1)
            await Kill(pid=await GetPid(), signal=signal)
            return "lives"

        try:
            return await gather(branch(), Recv())
        except EINTR as error:
            return [error.detail, await Count(text="abc")]

    async def main():
        ends = [await Wait(pid=await Spawn(program="child", args=[s.value])) for s in (Signal.TERM, Signal.KILL)]
        return [(end.reason, end.value, end.detail) for end in ends]

    assert always(main, child) == [["exit", ["TERM", 3], ""], ["killed", None, "KILL"]]


def test_a_branch_kills_its_process_while_its_siblings_start():
    async def child(signal):
        async def branch():
            await Kill(pid=await GetPid(), signal=signal)

        try:
            await gather(branch(), Recv(), Think(prompt="x"))
        except EINTR as error:
            return error.detail

    async def main():
        ends = [await Wait(pid=await Spawn(program="child", args=[s.value])) for s in (Signal.TERM, Signal.KILL)]
        stopped = await Spawn(program="child", args=["STOP"])
        await Sleep(seconds=5)
        [info] = await Stat(pid=stopped)
        await Kill(pid=stopped, signal=Signal.KILL)
        return [[end.value or end.detail for end in ends], info.state, (await Wait()).detail]

    assert always(main, child) == [["TERM", "KILL"], "STOPPED", "KILL"]


@pytest.mark.parametrize(
    "what",
    [
        lambda: Sleep(seconds=100),
        lambda: Recv(),
        lambda: Recv(timeout=100),
        lambda: Wait(),
        lambda: Read(fd="pipe:a"),
        lambda: Write(fd="pipe:b", text="x"),
        lambda: Send(to=1, body="never"),
        lambda: Think(prompt="long", max_tokens=500),
        lambda: Think(messages=[ChatMessage(role="user", text="hi")], max_tokens=500, stream=True),
        lambda: Call(device="slow", op="wait"),
        lambda: Call(device="slow", op="wait", timeout=90),
        lambda: Stat(dead=True),
        lambda: gather(Recv(), Sleep(seconds=100), Think(prompt="x", max_tokens=500), Call(device="slow", op="wait")),
        lambda: select(gather(Recv(), Read(fd="pipe:a")), Wait()),
    ],
    ids=lambda f: "",
)
@pytest.mark.parametrize("signal", [Signal.TERM, Signal.KILL])
def test_every_call_that_waits_can_be_interrupted_and_leaves_nothing(what, signal):
    async def child(pipe_end):
        await Spawn(program="sleeper", args=[30], fds={0: "pipe:b", 1: "pipe:a"})
        await Write(fd="pipe:b", text="x" * CAPACITY)
        try:
            await what()
        except EINTR as error:
            return [error.detail, len(await Pages()), await Count(text="ok")]

    async def main():
        await SetLimit(limit="messages", value=1, pid=1)
        await Send(to=1)
        pid = await Spawn(program="child", args=[0])
        await Sleep(seconds=0.4)
        await Kill(pid=pid, signal=signal)
        end = await Wait(pid=pid)
        await Wait(pid=await Spawn(program="drain"))
        return [end.reason, end.value, end.detail]

    async def drain():
        await Sleep(seconds=40)

    async def init():
        await Spawn(program="main")
        await Sleep(seconds=60)
        await Recv()
        while len(await Stat()) > 1:
            await Wait()

    expected = ["exit", ["TERM", 0, 2], ""] if signal is Signal.TERM else ["killed", None, "KILL"]
    sim = Simulation(
        {"init": init, "main": main, "child": child, "sleeper": sleeper, "drain": drain}, Mortal(), Slow()
    ).run()
    clean(sim)
    assert Ended(sim).value == expected


class Slow(World):
    """`slow` takes long; it counts how often an op was begun."""

    devices = (
        DeviceInfo(
            name="slow",
            ops=[
                OpInfo(name="wait", doc="", effect="idempotent", parameters={}),
                OpInfo(name="pay", doc="", effect="unsafe", parameters={}),
                OpInfo(name="look", doc="", effect="pure", parameters={}),
                OpInfo(name="brief", doc="", effect="unsafe", parameters={}, timeout=2),
            ],
        ),
    )

    def __init__(self):
        super().__init__()
        self.begun = []

    def latency(self, effect):
        return effect.args.get("takes", 20)

    def invoke(self, effect):
        self.begun.append(effect.key)
        if "raises" in effect.args:
            raise ENOENT(effect.args["raises"])
        return effect.args


# ---- signals


def test_a_signal_waits_for_the_next_call():
    async def child(parent):
        await Send(to=parent)
        await Recv()  # decided together with the signals: it is delivered first
        return [await told(Count(text="abc")) for _ in range(3)]

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv()
        await gather(Send(to=pid), Kill(pid=pid, signal=Signal.INT), Kill(pid=pid, signal=Signal.TERM))  # at once
        return (await Wait(pid=pid)).value

    assert always(main, child) == ["EINTR: INT", "EINTR: TERM", 3]


def test_two_signals_to_a_blocked_process():
    async def child():
        return [await told(Sleep(seconds=100)), await told(Sleep(seconds=100)), await told(Sleep(seconds=1))]

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.TERM)
        await Kill(pid=pid, signal=Signal.INT)
        return (await Wait(pid=pid)).value

    assert always(main, child) == ["EINTR: TERM", "EINTR: INT", None]


def test_a_signal_to_a_new_process_meets_its_first_call():
    async def child():
        return [await told(GetPid()), await Count(text="abc")]

    async def main():
        await gather(Spawn(program="child"), Kill(pid=CHILD))
        return (await Wait()).value

    assert always(main, child) == ["EINTR: TERM", 3]


def test_exit_is_not_interrupted():
    async def child(parent):
        await Send(to=parent)
        await Recv()
        await Exit(value="my own")

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv()
        await gather(Send(to=pid), Kill(pid=pid))
        return (await Wait(pid=pid)).value

    assert always(main, child) == "my own"


def test_signals_do_not_pile_up():
    async def child():
        interrupted = 0
        while True:
            try:
                return [interrupted, await Sleep(seconds=1)]
            except EINTR:
                interrupted += 1

    async def main():
        pid = await Spawn(program="child")
        await Kill(pid=pid, signal=Signal.STOP)
        for _ in range(50):
            await Kill(pid=pid, signal=Signal.TERM)
        await Kill(pid=pid, signal=Signal.CONT)
        return (await Wait(pid=pid)).value

    assert run(main, child) == [2, None]  # the call at which it was stopped, and the next


@pytest.mark.parametrize(("op", "has_key"), [("pay", True), ("wait", True)])
def test_eintr_from_a_call_that_was_begun_carries_its_key(op, has_key):
    async def child():
        try:
            await Call(device="slow", op=op)
        except EINTR as error:
            return [error.detail, error.key]

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid)
        return (await Wait(pid=pid)).value

    ended = finish(main, child, world=Slow)
    assert ended.value == ["TERM", "1/1/1:0:1" if has_key else ""]
    assert ended.world.begun == ["1/1/1:0:1"]


def test_eintr_before_a_call_was_begun_has_no_key():
    async def child():
        try:
            await Call(device="slow", op="pay")
        except EINTR as error:
            return [error.detail, error.key]

    async def main():
        await gather(Spawn(program="child"), Kill(pid=CHILD))
        return (await Wait()).value

    ended = finish(main, child, world=Slow)
    assert ended.value == ["TERM", ""]
    assert not ended.world.begun


def test_a_signal_takes_the_branches_of_an_interrupted_gather():
    async def child(parent):
        async def branch(n):
            try:
                await Sleep(seconds=100)
            finally:
                closed.append(n)

        closed = []
        try:
            await gather(branch(0), gather(branch(1), branch(2)))
        except EINTR:
            return sorted(closed)

    async def main():
        pid = await Spawn(program="child", args=[0])
        await Sleep(seconds=1)
        await Kill(pid=pid)
        return (await Wait(pid=pid)).value

    assert always(main, child) == [0, 1, 2]


# ---- STOP and CONT


def test_stop_of_a_process_that_has_not_started():
    async def child():
        started.append(await Now())

    async def main():
        await gather(Spawn(program="child"), Kill(pid=CHILD, signal=Signal.STOP))
        await Sleep(seconds=5)
        [info] = await Stat(pid=CHILD)
        await Kill(pid=CHILD, signal=Signal.CONT)
        return [info.state, info.on, (await Wait()).reason]

    started = []
    assert run(main, child) == ["STOPPED", "", "exit"]
    assert started == [5.0]


def test_stop_twice_is_stop_once_and_cont_without_stop_is_nothing():
    async def child():
        await Recv()
        return await Now()

    async def main():
        pid = await Spawn(program="child")
        for signal in ("CONT", "STOP", "STOP"):
            await Kill(pid=pid, signal=Signal(signal))
        await Send(to=pid)
        await Sleep(seconds=3)
        before = (await Stat(pid=pid))[0].state
        for signal in ("CONT", "CONT"):
            await Kill(pid=pid, signal=Signal(signal))
        return [before, (await Wait(pid=pid)).value]

    assert run(main, child) == ["STOPPED", 3.0]


@pytest.mark.parametrize("then", [Signal.KILL, Signal.TERM])
def test_signals_to_a_stopped_process(then):
    async def child():
        await Sleep(seconds=100)

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.STOP)
        await Kill(pid=pid, signal=then)
        early = await errno(Wait(pid=pid, timeout=3))
        if then is Signal.TERM:
            await Kill(pid=pid, signal=Signal.CONT)
            early = [early, await Wait(pid=pid)]
            return [early[0], early[1].detail]
        return [early.reason, early.detail]

    assert always(main, child) == (["killed", "KILL"] if then is Signal.KILL else ["ETIMEDOUT", "TERM"])


def test_a_limit_of_time_ends_a_stopped_process():
    async def main():
        pid = await Spawn(program="sleeper", limits=Limits(seconds=3))
        await Kill(pid=pid, signal=Signal.STOP)
        return (await Wait(pid=pid)).detail

    assert always(main, sleeper) == "limit of 3 seconds"


def test_stop_withholds_delivery_and_not_decisions():
    """What happens to a stopped process happens in its time, over a restart too."""

    async def child():
        async def late():
            return await errno(Recv(tag="late", timeout=5))

        return await gather(
            late(), errno(Recv(tag="early", timeout=50)), errno(Call(device="slow", op="wait", timeout=5))
        )

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.STOP)
        await Send(to=pid, tag="early", body=1)
        await Sleep(seconds=10)
        await Send(to=pid, tag="late", body=2)
        await Kill(pid=pid, signal=Signal.CONT)
        late, early, call = (await Wait(pid=pid)).value
        return [late, early["body"], call]

    assert always(main, child, world=Slow) == ["ETIMEDOUT", 1, "ETIMEDOUT"]


def test_a_stopped_process_does_not_end_by_a_restart():
    async def child():
        return (await Recv()).body

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.STOP)
        await Send(to=pid, body="x")
        await Sleep(seconds=3)
        state = [p.state for p in await Stat(pid=pid)]
        await Kill(pid=pid, signal=Signal.CONT)
        return [state, (await Wait(pid=pid)).value]

    assert always(main, child) == [["STOPPED"], "x"]


def test_a_signal_to_a_process_that_was_stopped_over_a_restart():
    async def child():
        try:
            got = (await Recv()).body
        except EINTR as error:
            got = error.detail
        return [got, await told(Count(text="abc"))]

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.STOP)
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.TERM)
        await Sleep(seconds=1)
        await Kill(pid=pid, signal=Signal.CONT)
        return (await Wait(pid=pid)).value

    assert always(main, child) == ["TERM", 3]


def test_a_stopped_burst_leaves_its_lane_and_goes_on_with_the_same_tokens():
    async def child():
        return (await Think(prompt="tell me", max_tokens=40)).text

    async def main():
        plain = (await Wait(pid=await Spawn(program="child"))).value
        pid = await Spawn(program="child")
        await Sleep(seconds=6.3)
        await Kill(pid=pid, signal=Signal.STOP)
        await Sleep(seconds=5.1)
        [info] = await Stat(pid=pid)
        await Kill(pid=pid, signal=Signal.CONT)
        return [plain == (await Wait(pid=pid)).value, info.state]

    assert always(main, child) == [True, "STOPPED"]


def test_stop_and_cont_around_a_tick_in_flight():
    async def child():
        return (await Think(prompt="tell me", max_tokens=9)).text

    async def main():
        plain = (await Wait(pid=await Spawn(program="child"))).value
        pid = await Spawn(program="child")
        for _ in range(8):
            await Sleep(seconds=0.7)
            await Kill(pid=pid, signal=Signal.STOP)
            await Kill(pid=pid, signal=Signal.CONT)
        return plain == (await Wait(pid=pid)).value

    assert run(main, child) is True


def test_cont_delivers_in_the_order_of_decision():
    """What was decided during STOP comes before what was decided just before CONT: live, and in the replay."""

    async def child():
        order = []

        async def branch(tag):
            order.append((await Recv(tag=tag)).tag)

        await gather(branch("x"), branch("y"), branch("z"))
        await Sleep(seconds=5)
        return order

    async def sender(victim):
        await Recv()
        await Send(to=victim, tag="y")

    async def waker(victim):
        await Recv()
        await Kill(pid=victim, signal=Signal.CONT)
        await Send(to=victim, tag="z")

    async def main():
        victim = await Spawn(program="child")
        helpers = [await Spawn(program=name, args=[victim]) for name in ("sender", "waker")]
        await Sleep(seconds=1)
        await Kill(pid=victim, signal=Signal.STOP)
        await Send(to=victim, tag="x")
        await Sleep(seconds=1)
        await gather(*(Send(to=pid) for pid in helpers))
        return (await Wait(pid=victim)).value

    assert always(main, child, sender, waker) == ["x", "y", "z"]


def test_stop_oneself():
    async def child():
        before = await Now()
        await Kill(pid=await GetPid(), signal=Signal.STOP)
        return await Now() - before

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=4)
        [info] = await Stat(pid=pid)
        await Kill(pid=pid, signal=Signal.CONT)
        return [info.state, (await Wait(pid=pid)).value]

    assert run(main, child) == ["STOPPED", 4.0]


# ---- Exec and Fork


def test_exec_and_fork_are_for_the_root():
    async def main():
        async def branch():
            return [await errno(Exec(program="main")), await errno(Fork())]

        return await gather(branch(), select(branch()))

    assert run(main) == [["EINVAL", "EINVAL"], [0, ["EINVAL", "EINVAL"]]]


def test_exec_keeps_what_it_says_and_drops_the_rest():
    async def first(parent):
        await Append(text="page one", pinned=True)
        await Think(prompt="q", max_tokens=3)
        await Spawn(program="sleeper", args=[1], fds={1: "pipe:p"})
        await Send(to=parent, body="ready")
        await Sleep(seconds=2)
        return await Exec(program="second", args=[parent])

    async def second(parent):
        [me] = await Stat(pid=await GetPid())
        mail = (await Recv()).body
        pages = [(p.role, p.pinned) for p in await Pages()]
        zombie = (await Wait()).value
        end = await Read(fd="pipe:p")
        more = await Think(prompt="r", max_tokens=3)
        return [me.nice, me.epoch, me.children, mail, pages, zombie, end, more.prompt_tokens, me.tokens > 10]

    async def main():
        pid = await Spawn(program="first", args=[await GetPid()], nice=3, limits=Limits(tokens=100))
        await Recv(sender=pid)
        await Send(to=pid, body="for both")
        return (await Wait(pid=pid)).value

    pages = [["system", True]]
    value = always(main, first, second, sleeper)
    pages = [["user", True], ["user", False], ["assistant", False]]
    assert value == [3, 1, 1, "for both", pages, 1, "", 22, True]


def test_exec_fresh_drops_the_context():
    async def second():
        return [len(await Pages()), (await Think(prompt="x", max_tokens=2)).prompt_tokens]

    async def first():
        await Append(text="gone")
        await Exec(program="second", fresh=True)

    async def main():
        return (await Wait(pid=await Spawn(program="first"))).value

    assert always(main, first, second) == [0, 4]


def test_exec_in_a_loop_has_new_random_numbers_and_new_keys():
    async def looper(numbers):
        numbers = [*numbers, await Random()]
        if len(numbers) == 4:
            return numbers
        return await Exec(program="looper", args=[numbers])

    async def main():
        return (await Wait(pid=await Spawn(program="looper", args=[[]]))).value

    assert len(set(always(main, looper))) == 4


def test_exec_drops_timers():
    async def first():
        await select(Recv(timeout=30), Sleep(seconds=1))
        await Exec(program="second")

    async def second():
        return [await errno(Recv(timeout=60)), await Now()]

    async def main():
        return (await Wait(pid=await Spawn(program="first"))).value

    assert run(main, first, second) == ["ETIMEDOUT", 61.0]


def test_exec_keeps_pending_signals():
    """The first of two interrupts the call in front of the Exec, which then comes in the way of the second."""

    async def first(parent):
        await Send(to=parent)
        await Recv()
        try:
            await Exec(program="second")
        except EINTR:
            await Exec(program="second")

    async def second():
        return [await told(Count(text="abc")), await Count(text="abc")]

    async def main():
        pid = await Spawn(program="first", args=[await GetPid()])
        await Recv()
        await gather(Send(to=pid), Kill(pid=pid))
        end = await Wait(pid=pid)
        return [end.program, end.value]

    assert always(main, first, second) == ["second", [3, 3]]


def test_fork_gives_zero_to_the_child_and_its_pid_to_the_parent():
    async def main():
        before = [await Random(), await GetPid()]
        child = await Fork()
        after = await Random()
        me = await GetPid()
        if not child:
            return [before, after, me]
        end = (await Wait(pid=child)).value
        return [end[0] == before, end[1] != after, end[2] == child, me == before[1]]

    assert always(main) == [True, True, True, True]


def test_fork_after_mail_was_read():
    async def parent():
        mail = (await Recv()).body
        child = await Fork()
        more = await errno(Recv(timeout=1))
        return [mail, more if isinstance(more, str) else more.body, (await Wait()).value if child else "child"]

    async def main():
        pid = await Spawn(program="parent")
        await Send(to=pid, body="read")
        await Send(to=pid, body="unread")
        return (await Wait(pid=pid)).value

    assert always(main, parent) == ["read", "unread", ["read", "ETIMEDOUT", "child"]]


def test_fork_in_a_loop_makes_grandchildren():
    async def forker(rounds):
        path = []
        for n in range(rounds):
            path.append(0 if await Fork() else 1)
            await Append(text=str(n))
        below = []
        while not isinstance(end := await errno(Wait()), str):
            below += end.value
        return [path, *below]

    async def main():
        return sorted((await Wait(pid=await Spawn(program="forker", args=[3]))).value)

    assert always(main, forker, step=2) == [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]


def test_a_long_chain_of_forks():
    async def chain(length):
        generation = 0
        while generation < length and not await Fork():
            generation += 1
        while not isinstance(end := await errno(Wait()), str):
            generation = end.value
        return generation

    async def main():
        return (await Wait(pid=await Spawn(program="chain", args=[150]))).value

    assert run(main, chain) == 150


def test_a_forked_child_can_kill_its_parent_at_once():
    async def parent(signal):
        me = await GetPid()
        try:
            child = await Fork()
        except EINTR:
            child = -1
        if not child:
            await Kill(pid=me, signal=Signal(signal))
            return "child"
        return [await told(Sleep(seconds=1)), await Count(text="abc")]

    async def main():
        ends = []
        for signal in ("TERM", "KILL"):
            end = await Wait(pid=await Spawn(program="parent", args=[signal]))
            ends.append(end.value or end.detail)
        return ends

    assert always(main, parent) == [["EINTR: TERM", 3], "KILL"]


def test_a_signal_to_a_child_that_was_forked_a_moment_ago():
    async def forker():
        await Recv()
        child = await Fork()
        got = await told(Recv(timeout=3))
        return [got, (await Wait()).value if child else await told(Count(text="abc"))]

    async def killer(victim):
        await Recv()
        await Kill(pid=victim)

    async def main():
        pids = [await Spawn(program="forker"), await Spawn(program="killer", args=[CHILD + 2])]
        await Sleep(seconds=1)
        await gather(*(Send(to=pid) for pid in pids))  # the signal comes in the step of the Fork
        return (await Wait(pid=pids[0])).value

    assert always(main, forker, killer) == ["ETIMEDOUT: recv", ["EINTR: TERM", 3]]


def test_a_fork_thinks_on_from_the_same_context_and_pays_for_its_own_tokens():
    async def parent():
        await Append(text="common " * 8)
        first = await Think(prompt="and", max_tokens=5)
        child = await Fork()
        word = "parent" if child else "child"
        own = await Think(prompt=word, max_tokens=7)
        [me] = await Stat(pid=await GetPid())
        pages = [p.text for p in await Pages()]
        assert pages[1:3] == ["and", first.text]
        return [own.prompt_tokens, own.text, me.tokens, (await Wait()).value if child else None]

    async def main():
        return (await Wait(pid=await Spawn(program="parent"))).value

    machine = ToyMachine(ends=False)
    mine, text, tokens, (theirs, child_text, child_tokens, _) = always(main, parent)
    common = [*machine.render("user", "common " * 8), *machine.render("user", "and"), *machine.opening()]
    common += machine.continuation(common, Sampling(""), 5) + machine.closing()
    for word, prompt, said, charged in (("parent", mine, text, tokens), ("child", theirs, child_text, child_tokens)):
        head = common + machine.render("user", word) + machine.opening()
        assert prompt == len(head)
        assert said == bytes(machine.continuation(head, Sampling(""), 7)).decode()
        assert charged == (len("common ") * 8 + 2 + 5 + 5 if word == "parent" else 0) + len(word) + 2 + 7


def test_a_program_that_is_not_deterministic_cannot_be_forked():
    calls = []

    async def liar():
        calls.append(1)
        await Append(text=str(len(calls)))
        if not await Fork():
            return "never"
        await Sleep(seconds=1)
        children = [(p.state, p.on.splitlines()[0]) for p in await Stat() if p.program == "liar"]
        for p in await Stat():
            if p.state == "DIVERGED":
                await Kill(pid=p.pid, signal=Signal.KILL)
        return [children[-1], (await Wait()).detail]

    async def main():
        return (await Wait(pid=await Spawn(program="liar"))).value

    assert run(main, liar) == [["DIVERGED", "at call 1 the program differs from its journal"], "KILL"]


# ---- limits


def test_setlimit_lowers_freely_and_raises_with_the_capability():
    async def child():
        found = []
        for limit, value in [("tokens", 50), ("tokens", 49), ("tokens", 51), ("tokens", None), ("messages", 1025)]:
            found.append(await errno(SetLimit(limit=limit, value=value)))
        return [
            *found,
            await errno(SetLimit(limit="tokens", value=1, pid=1)),
            await errno(SetLimit(limit="seconds", value=9)),
        ]

    async def main():
        jailed = await Wait(pid=await Spawn(program="child", caps=[]))
        able = await Wait(pid=await Spawn(program="child", caps=["limit"]))
        return [jailed.value, able.value]

    none = [None, None]
    assert run(main, child) == [
        [*none, "EPERM", "EPERM", "EPERM", "EPERM", None],
        [*none, None, None, None, "EPERM", None],
    ]


@pytest.mark.parametrize(("limit", "value"), [("tokens", 1.5), ("children", 0.5), ("messages", 0), ("messages", 2.25)])
def test_a_limit_that_makes_no_sense_is_einval(limit, value):
    async def main():
        return [await told(SetLimit(limit=limit, value=value)), await Count(text="abc")]

    text, three = always(main)
    assert text.startswith("EINVAL: ")
    assert limit in text
    assert three == 3


def test_setlimit_for_a_child_and_for_nobody():
    async def child():
        await Recv()
        return await errno(Append(text="12345"))

    async def main():
        pid = await Spawn(program="child")
        await SetLimit(limit="tokens", value=4, pid=pid)
        await Send(to=pid)
        return [(await Wait(pid=pid)).value, await errno(SetLimit(limit="tokens", value=4, pid=pid))]

    assert always(main, child) == ["EDQUOT", "ESRCH"]


def test_tokens_of_concurrent_branches_never_exceed_the_limit():
    async def child():
        thoughts = await gather(*(told(Think(prompt="abc", max_tokens=20)) for _ in range(4)))
        [me] = await Stat(pid=await GetPid())
        given = [len(t.tokens) if not isinstance(t, str) else t.partition(":")[0] for t in thoughts]
        return [given, me.tokens, await errno(Think(prompt=None, max_tokens=1))]

    async def main():
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=60)))).value

    given, used, last = always(main, child)
    assert used == 60
    assert given == [20, 20, 5, "EDQUOT"]
    assert last == "EDQUOT"


def test_what_an_interrupted_think_had_reserved_is_free_again():
    async def child():
        cut = await select(Think(prompt="abc", max_tokens=1000), Sleep(seconds=4))
        rest = await Think(prompt="abc", max_tokens=1000)
        return [cut[0], len(rest.tokens), rest.reason]

    async def main():
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=30)))).value

    assert always(main, child) == [1, 25, "length"]


def test_a_limit_that_is_lowered_does_not_reach_what_has_begun():
    async def child():
        async def lower():
            await Sleep(seconds=2)
            await SetLimit(limit="tokens", value=1)
            await Drop()

        thought, _ = await gather(Think(prompt="abc", max_tokens=20), lower())
        return [len(thought.tokens), await errno(Think(prompt="x")), await errno(Append(text="x"))]

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).value

    assert always(main, child) == [20, "EPERM", "EDQUOT"]


def test_seconds_count_from_birth_also_over_a_restart():
    async def main():
        pid = await Spawn(program="sleeper", limits=Limits(seconds=10))
        end = await Wait(pid=pid)
        return [end.reason, end.detail, await Now()]

    killed = ["killed", "limit of 10 seconds"]
    assert run(main, sleeper) == [*killed, 10.0]
    assert lives([(1, "after")], main, sleeper, away=6.0).value == [*killed, 10.0]
    assert lives([(1, "after")], main, sleeper, away=60.0).value == [*killed, 60.0]


def test_seconds_can_be_moved():
    async def main():
        ends = []
        for first, then in ((5, 2), (2, 5), (2, None), (100, 0)):
            begin = await Now()
            pid = await Spawn(program="sleeper", args=[7], limits=Limits(seconds=first))
            await Sleep(seconds=1)
            await SetLimit(limit="seconds", value=then, pid=pid)
            end = await Wait(pid=pid)
            ends.append([end.reason, await Now() - begin])
        return ends

    assert run(main, sleeper) == [["killed", 2.0], ["killed", 5.0], ["exit", 7.0], ["killed", 1.0]]


def test_deadlines_of_processes_and_calls_at_the_same_moment():
    async def child():
        await Recv()

    async def main():
        for _ in range(4):
            await Spawn(program="child", limits=Limits(seconds=10))
        await Think(prompt="x", max_tokens=3)
        await Sleep(seconds=10 - await Now())
        return [(await Wait()).detail for _ in range(4)]

    assert always(main, child, away=0.0) == ["limit of 10 seconds"] * 4


def test_a_limit_of_no_seconds_ends_a_process_before_it_does_anything():
    async def main():
        end = await Wait(pid=await Spawn(program="sleeper", limits=Limits(seconds=0)))
        return [end.reason, end.detail]

    assert always(main, sleeper) == ["killed", "limit of 0 seconds"]


# ---- rights


def test_a_begun_call_is_not_refused_after_a_restart():
    """The rights that count are those when it began: after a crash, EPERM would say that nothing had happened."""

    async def child():
        async def pay():
            try:
                return await Call(device="slow", op="pay", args={"takes": 5})
            except EUNKNOWN as error:
                return ["unknown", error.key]

        async def give_up():
            await Drop()

        paid, thought, _ = await gather(pay(), Think(prompt="x", max_tokens=9), give_up())
        return [paid, len(thought.tokens)]

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).value

    values = {str(lives([(n, when)], main, child, world=Slow).value) for n in (1, 2) for when in ("before", "after")}
    assert values <= {"[{'takes': 5}, 9]", "[['unknown', '1/1/1:0:1.0.1'], 9]"}


def test_grant_gives_and_drop_keeps():
    async def child():
        before = await errno(Think(prompt="a", max_tokens=2))
        await Recv()
        after = [await errno(Think(prompt="b", max_tokens=2)), await errno(Call(device="slow", op="wait"))]
        await Drop(keep=["call:slow.wait"])
        last = [
            await errno(Think(prompt="c")),
            await errno(Call(device="slow", op="pay")),
            await errno(Drop(keep=["think"])),
        ]
        return [before, after[0].reason, after[1], *last]

    async def main():
        pid = await Spawn(program="child", caps=[])
        refused = [await errno(Grant(pid=99, caps=["think"])), await errno(Grant(pid=pid, caps=[]))]
        await Grant(pid=pid, caps=["think", "call:slow.*"])
        await Send(to=pid)
        return [refused, (await Wait(pid=pid)).value]

    value = always(main, child, world=Slow)
    assert value == [["ESRCH", None], ["EPERM", "length", {}, "EPERM", "EPERM", "EPERM"]]


def test_renice_down_needs_the_capability():
    async def child():
        me = await GetPid()
        return [await errno(Renice(pid=me, nice=n)) for n in (5, 5, 6, 5)] + [(await Stat(pid=me))[0].nice]

    async def main():
        jailed = await Wait(pid=await Spawn(program="child", caps=[]))
        able = await Wait(pid=await Spawn(program="child", caps=["nice"]))
        return [
            jailed.value,
            able.value,
            await errno(Renice(pid=99, nice=0)),
            await errno(Renice(pid=jailed.pid, nice=0)),
        ]

    assert run(main, child) == [[None, None, None, "EPERM", 6], [None, None, None, None, 5], "ESRCH", "ESRCH"]


# ---- Send and Recv


def test_recv_selects_by_sender_and_by_tag():
    async def sender(boss, name):
        for n, tag in enumerate(("a", "b", "a")):
            await Send(to=boss, tag=tag, body=f"{name}{n}")

    async def main():
        me = await GetPid()
        one, two = [await Spawn(program="sender", args=[me, name]) for name in ("x", "y")]
        await Sleep(seconds=1)
        wants = [Recv(sender=two, tag="b"), Recv(tag="b"), Recv(sender=two), Recv(sender=two), Recv(), Recv(tag="a")]
        got = [await want for want in wants]
        return [
            [m.body for m in got],
            [m.sender - one for m in got],
            await errno(Recv(timeout=0)),
            await errno(Recv(tag="", timeout=1)),
        ]

    bodies = ["y1", "x1", "y0", "y2", "x0", "x2"]
    assert always(main, sender) == [bodies, [1, 0, 1, 1, 0, 0], "ETIMEDOUT", "ETIMEDOUT"]


def test_a_waiting_recv_takes_only_what_it_wants():
    async def main():
        me = await GetPid()

        async def send():
            for tag in ("no", "yes", "other"):
                await Send(to=me, tag=tag, body=tag)

        wanted, other, _ = await gather(Recv(tag="yes"), Recv(sender=me, tag="other"), send())
        return [wanted.body, other.body, (await Recv()).body]

    assert always(main) == ["yes", "other", "no"]


def test_mail_between_two_is_first_in_first_out_through_a_full_mailbox():
    async def sender(boss, name):
        for n in range(6):
            await Send(to=boss, body=[name, n])

    async def main():
        await SetLimit(limit="messages", value=2)
        me = await GetPid()
        for name in "abc":
            await Spawn(program="sender", args=[me, name])
        await Sleep(seconds=2)
        got = [(await Recv()).body for _ in range(18)]
        return {name: [n for who, n in got if who == name] for name in "abc"}

    assert always(main, sender) == {name: list(range(6)) for name in "abc"}


def test_who_waits_longest_at_a_full_mailbox_goes_first_over_two_restarts():
    async def sender(box, name):
        await Send(to=box, body=name)

    async def main():
        box = await Spawn(program="receiver", args=[4, 30], limits=Limits(messages=1))
        await Send(to=box, body="full")
        for _ in range(10):
            await Sleep(seconds=0)
        for name in "ABC":
            await Spawn(program="sender", args=[box, name])
            await Sleep(seconds=2)
        return (await Wait(pid=box)).value

    commits = lives([], main, sender, receiver).sim.store.commits
    for first in range(1, commits):
        for second in range(first + 1, min(first + 6, commits)):
            crashes = [(first, "after"), (second, "after" if second % 2 else "before")]
            assert lives(crashes, main, sender, receiver, away=0.0).value == ["full", "A", "B", "C"], crashes


def test_a_message_is_what_it_was_when_it_was_sent():
    async def main():
        box = await Spawn(program="receiver", args=[3, 5], limits=Limits(messages=1))
        shared = [1]
        await Send(to=box, body=shared)
        shared.append(2)

        async def send():
            await Send(to=box, body=shared)
            await Send(to=box, body=shared)

        async def change():
            shared.append(3)
            await Sleep(seconds=1)
            shared.append(4)

        await gather(send(), change())
        return (await Wait(pid=box)).value

    assert always(main, receiver) == [[1], [1, 2], [1, 2, 3, 4]]


def test_records_in_a_body_arrive_whole():
    """A record whose fields have their defaults is not shortened on the way, over a restart neither."""

    async def main():
        box = await Spawn(program="receiver", args=[2, 5], limits=Limits(messages=1))
        status = await Wait(pid=await Spawn(program="child"))
        await Send(to=box, body=status)
        await Send(to=box, body=[status])
        return (await Wait(pid=box)).value

    status = {"pid": 4, "program": "child", "reason": "exit", "value": None, "detail": ""}
    assert always(main, receiver, ends_with(None)) == [status, [status]]


def test_send_does_not_wait_if_it_is_told_so():
    async def main():
        await SetLimit(limit="messages", value=2)
        me = await GetPid()
        sent = [await errno(Send(to=me, body=n, block=False)) for n in range(4)]
        got = [(await Recv()).body for _ in range(2)]
        return [sent, got, await errno(Send(to=me, body="again", block=False)), (await Recv()).body]

    assert always(main) == [[None, None, "EAGAIN", "EAGAIN"], [0, 1], None, "again"]


def test_a_sender_learns_that_the_receiver_has_ended():
    async def child():
        await Sleep(seconds=3)

    async def main():
        pid = await Spawn(program="child", limits=Limits(messages=1))
        await Send(to=pid)
        waits = await errno(Send(to=pid))
        return [
            waits,
            await errno(Send(to=pid)),
            (await Wait(pid=pid)).reason,
            await errno(Send(to=pid)),
            await errno(Send(to=99)),
        ]

    assert always(main, child) == ["ESRCH", "ESRCH", "exit", "ESRCH", "ESRCH"]


def test_a_raised_limit_lets_the_senders_in_that_wait():
    async def main():
        box = await Spawn(program="receiver", args=[5, 9], limits=Limits(messages=1))
        await Send(to=box, body=0)
        done = []

        async def send(n):
            await Send(to=box, body=n)
            done.append([n, await Now()])

        async def enlarge():
            await Sleep(seconds=1)
            await SetLimit(limit="messages", value=3, pid=box)

        await gather(send(1), send(2), send(3), enlarge())
        await Send(to=box, body=4)
        return [done, (await Wait(pid=box)).value]

    done, got = run(main, receiver)
    assert done == [[1, 1.0], [2, 1.0], [3, 9.0]]
    assert got == [0, 1, 2, 3, 4]
    assert always(main, receiver, away=0)[1] == [0, 1, 2, 3, 4]


def test_mail_has_an_id_that_is_never_used_twice():
    async def main():
        me = await GetPid()
        for _ in range(2):
            await Send(to=me)
        first = [(await Recv()).id for _ in range(2)]
        await Sleep(seconds=1)

        async def branch():
            await Send(to=me)

        await gather(branch(), branch())
        return [*first, *[(await Recv()).id for _ in range(2)]]

    ids = always(main)
    assert len(set(ids)) == 4


def test_a_process_can_write_to_its_family_only():
    async def child(parent, stranger):
        below = await Spawn(program="receiver")
        found = [await errno(Send(to=pid)) for pid in (parent, below, stranger, 1)]
        await Wait()
        return found

    async def main():
        stranger = await Spawn(program="sleeper", args=[5])
        first = await Wait(pid=await Spawn(program="child", args=[await GetPid(), stranger], caps=["spawn:*"]))
        second = await Wait(
            pid=await Spawn(program="child", args=[await GetPid(), stranger], caps=["spawn:*", f"send:{stranger}"])
        )
        return [first.value, second.value]

    assert run(main, child, sleeper, receiver) == [[None, None, "EPERM", "EPERM"], [None, None, None, "EPERM"]]


def test_recv_with_a_timeout_keeps_its_deadline_over_a_restart():
    async def main():
        return [await errno(Recv(timeout=5)), await Now()]

    assert run(main) == ["ETIMEDOUT", 5.0]
    assert lives([(1, "after")], main, away=3.0).value == ["ETIMEDOUT", 5.0]
    assert lives([(1, "after")], main, away=30.0).value == ["ETIMEDOUT", 30.0]


# ---- Gather and Select


class Thing:
    """A value that is not JSON."""

    def __init__(self, name):
        self.name = name


def test_values_of_branches_may_be_any_object():
    async def main():
        async def thing(name, seconds):
            await Sleep(seconds=seconds)
            return Thing(name)

        things = await gather(thing("a", 2), thing("b", 1))
        index, first = await select(thing("c", 2), thing("d", 1))
        return [[t.name for t in things], index, first.name]

    assert always(main) == [["a", "b"], 1, "d"]


def test_nested_gathers_and_selects():
    async def main():
        async def leaf(n):
            await Sleep(seconds=n)
            return n

        async def middle(*ns):
            return sum(await gather(*(leaf(n) for n in ns)))

        tree = await gather(middle(1, 2), gather(middle(3), leaf(1)), select(middle(9), leaf(4)), leaf(0))
        deep = leaf(1)
        for _ in range(30):
            deep = gather(deep)
        return [tree, json.dumps(await deep).count("[")]

    assert always(main) == [[3, [3, 1], [1, 4], 0], 30]


def test_the_first_that_fails_ends_the_others():
    async def main():
        log = []

        async def branch(n, error=None):
            try:
                await Sleep(seconds=n)
                if error:
                    raise error
                return n
            finally:
                log.append(n)

        try:
            await gather(branch(9), branch(2, KeyError("late")), branch(1, ValueError("early")), branch(0))
        except ValueError as error:
            return [str(error), log, await Now()]

    assert run(main) == ["early", [0, 1, 2, 9], 1.0]
    assert always(main, away=0)[:2] == ["early", [0, 1, 2, 9]]


@pytest.mark.parametrize("budget", [1, 1000])
def test_who_is_first_is_first_after_a_restart_too(budget):
    """Two outcomes are decided in one commit; the log says which came first."""

    async def branch(calls, name, error=None):
        for _ in range(calls):
            await Random()
        await Sleep(seconds=1)
        if error:
            raise error(name)
        return name

    async def main():
        won = await select(branch(3, "a"), branch(0, "b"), branch(1, "c"))
        try:
            await gather(branch(3, "a", KeyError), branch(2, "b"), branch(0, "c", ValueError), branch(1, "d", OSError))
        except Exception as error:
            return [won, type(error).__name__]

    assert always(main, budget=budget) == [[1, "b"], "ValueError"]


@pytest.mark.parametrize("budget", [1, 1000])
def test_a_kill_between_a_decision_and_its_delivery(budget):
    """What a Select has cancelled is still noted as begun in the store; the replay cancels it again."""

    async def main():
        won = await select(
            Sleep(seconds=1), Recv(timeout=50), Think(prompt="x", max_tokens=40), Call(device="slow", op="wait")
        )
        try:
            await gather(Recv(timeout=50), fails(), Read(timeout=50), gather(Sleep(seconds=50)))
        except LookupError:
            return [won[0], await Count(text="abc")]

    async def fails():
        await Sleep(seconds=2)
        raise LookupError

    assert always(main, budget=budget, world=Slow) == [0, 3]


@pytest.mark.parametrize("budget", [1, 1000])
def test_what_a_branch_does_not_get_is_not_taken(budget):
    """A message, text, a status: each can be had once, and two branches could be decided in the same step."""

    async def main():
        await Spawn(program="child", fds={1: "pipe:p"})
        await Spawn(program="teller", args=[await GetPid()])
        await Spawn(program="sleeper", args=[99])
        await Sleep(seconds=1)
        got = []
        for _ in range(9):
            read = Sleep(seconds=9) if (1, "z") in got else Read(fd="pipe:p", limit=1)
            got.append(await select(Recv(tag="a"), read, Wait(), Recv(tag="b"), Sleep(seconds=1)))
        names = {0: lambda mail: f"a{mail.body}", 1: str, 2: lambda dead: dead.program, 3: lambda mail: f"b{mail.body}"}
        return sorted(names.get(index, str)(value) for index, value in got)

    async def child():
        await Write(text="xyz")

    async def teller(pid):
        await gather(*[Send(to=pid, tag=tag, body=n) for n in range(2) for tag in "ab"])

    assert always(main, child, teller, sleeper, budget=budget) == [
        "a0",
        "a1",
        "b0",
        "b1",
        "child",
        "teller",
        "x",
        "y",
        "z",
    ]


@pytest.mark.parametrize("budget", [1, 1000])
def test_a_branch_that_fails_takes_no_message_with_it(budget):
    async def main():
        await Spawn(program="child", args=[await GetPid()])

        async def fails():
            await Recv(tag="a")
            raise LookupError

        try:
            await gather(fails(), Recv(tag="b"), gather(Recv(tag="c")))
        except LookupError:
            return [(await Recv()).tag for _ in range(2)]

    async def child(pid):
        await gather(*[Send(to=pid, tag=tag) for tag in "abc"])

    assert always(main, child, budget=budget) == ["b", "c"]


@pytest.mark.parametrize("budget", [1, 1000])
def test_calls_that_were_put_off_take_as_soon_as_they_may(budget):
    async def main():
        me = await GetPid()
        for n in range(3):
            await Send(to=me, body=n)
        got = await gather(Recv(), Recv(), gather(Recv()), errno(Recv(timeout=1, tag="x")))
        return [got[0].body, got[1].body, got[2][0].body, got[3]]

    assert always(main, budget=budget) == [0, 1, 2, "ETIMEDOUT"]


def test_a_branch_after_one_that_has_decided_does_not_begin():
    async def main():
        async def now():
            return "now"

        await Send(to=await GetPid(), body="kept")
        first = await select(now(), Recv())
        return [list(first), (await Recv(timeout=0)).body]

    assert always(main) == [[0, "now"], "kept"]


def test_branches_that_end_at_once():
    async def main():
        async def now(value):
            return value

        async def fails():
            raise KeyError("x")

        both = await select(now("a"), now("b"))
        later = await select(Sleep(seconds=9), now("b"), fails())

        async def caught():
            try:
                await gather(now(1), fails(), Sleep(seconds=9))
            except KeyError:
                return "KeyError"

        return [both, later, await caught(), await gather(now(1), now(2)), await gather(), await errno(Random()) < 1]

    assert always(main) == [[0, "a"], [1, "b"], "KeyError", [1, 2], [], True]


def test_a_gather_without_branches_of_its_own_is_einval():
    async def main():
        return [await errno(Gather(branches=2)), await errno(Select(branches=1)), await Gather(branches=0)]

    assert always(main) == ["EINVAL", "EINVAL", []]


def test_a_select_cancels_what_lost():
    async def main():
        async def loser():
            try:
                await gather(Think(prompt="never", max_tokens=500), Call(device="slow", op="wait"), Recv())
            finally:
                gone.append(1)

        gone = []
        index, _ = await select(loser(), Sleep(seconds=3), loser())
        return [index, len(gone), len(await Pages())]

    ended = finish(main, world=Slow)
    assert ended.value == [1, 2, 0]
    assert always(main, world=Slow) == [1, 2, 0]


def test_each_branch_has_its_own_copy_of_the_context():
    async def main():
        await Append(text="common")

        async def branch(word):
            await Append(text=word)
            thought = await Think(prompt="?", max_tokens=4)
            return [thought.prompt_tokens, [p.text for p in await Pages()][:2]]

        found = await gather(branch("a"), branch("bcd"), Pin(page=0))
        return [found[:2], [(p.text, p.pinned) for p in await Pages()]]

    assert always(main) == [[[15, ["common", "a"]], [17, ["common", "bcd"]]], [["common", False]]]


def test_exit_in_a_branch_ends_the_process():
    async def child():
        async def leave():
            await Sleep(seconds=1)
            await Exit(value="left")

        await gather(gather(leave(), Recv()), Think(prompt="x", max_tokens=300))

    async def main():
        return (await Wait(pid=await Spawn(program="child"))).value

    assert always(main, child) == "left"


def test_an_error_that_a_branch_catches_is_its_own():
    async def main():
        async def branch():
            return [await errno(Wait()), await errno(Kill(pid=99)), await errno(Exec(program="main"))]

        return await gather(branch(), branch())

    assert always(main) == [["ECHILD", "ESRCH", "EINVAL"]] * 2


# ---- Read and Write


def test_a_pipe_ends_when_its_last_writer_has_ended():
    async def producer(n):
        await Write(text=f"{n}\n")
        await Sleep(seconds=n)

    async def main():
        for n in (1, 2):
            await Spawn(program="producer", args=[n], fds={1: "pipe:p"})
        got = ""
        while text := await Read(fd="pipe:p"):
            got += text
        return [sorted(got.split()), await Read(fd="pipe:p"), await Now()]

    assert run(main, producer) == [["1", "2"], "", 2.0]
    assert always(main, producer, away=0)[:2] == [["1", "2"], ""]


def test_a_writer_can_close_before_it_ends():
    async def producer():
        await Write(text="a")
        await Write(text="b", close=True)
        return [await errno(Write(text="c")), await Sleep(seconds=5)]

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        got = [await Read(fd="pipe:p", limit=1), await Read(fd="pipe:p"), await Read(fd="pipe:p")]
        return [got, (await Wait(pid=pid)).value]

    assert always(main, producer) == [["a", "b", ""], ["EBADF", None]]


def test_the_last_word_is_the_last():
    async def reader():
        got = []
        for _ in range(3):
            got.append(await errno(Read(timeout=2)))
            await Sleep(seconds=1)
        return got

    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="last", close=True)
        await Sleep(seconds=1)
        again = await errno(Write(fd="pipe:p", text="more"))
        return [again, (await Wait(pid=pid)).value]

    assert always(main, reader) == ["EBADF", ["last", "", ""]]


def test_what_was_closed_is_not_passed_on():
    async def producer():
        await Write(text="a", close=True)
        await Sleep(seconds=1)
        return (await Wait(pid=await Spawn(program="helper"))).value

    async def helper():
        return await errno(Write(text="b"))

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        got = [await Read(fd="pipe:p"), await Read(fd="pipe:p")]
        return [got, (await Wait(pid=pid)).value, await Read(fd="pipe:p")]

    assert always(main, producer, helper) == [["a", ""], "EBADF", ""]


def test_a_reader_that_ends_after_the_writer_has_closed():
    async def producer():
        await Write(text="x", close=True)
        await Sleep(seconds=5)

    async def consumer():
        return await Read()

    async def main():
        await Spawn(program="producer", fds={1: "pipe:p"})
        await Spawn(program="consumer", fds={0: "pipe:p"})
        return [(await Wait()).value for _ in range(2)]

    assert always(main, producer, consumer) == ["x", None]


def test_a_pipe_breaks_when_its_last_reader_has_ended():
    async def reader():
        return await Read()

    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="x")
        await Wait(pid=pid)
        return [await errno(Write(fd="pipe:p", text="y")), await errno(Write(fd="pipe:p", text="", close=True))]

    assert always(main, reader)[0] == "EPIPE"


def test_a_writer_that_waits_learns_that_the_reader_is_gone():
    async def reader():
        await Sleep(seconds=3)

    async def main():
        await Spawn(program="reader", fds={0: "pipe:p"})
        await Write(fd="pipe:p", text="x" * CAPACITY)
        return [
            await errno(Write(fd="pipe:p", text="y")),
            await errno(Write(fd="pipe:p", text="z")),
            (await Wait()).reason,
        ]

    assert always(main, reader) == ["EPIPE", "EPIPE", "exit"]


def test_a_pipe_whose_maker_has_ended_ends_too():
    async def maker(fds):
        await Spawn(program="end", args=[int(next(iter(fds)))], fds={int(fd): name for fd, name in fds.items()})

    async def end(fd):
        if not fd:
            return await errno(Read(timeout=50))
        return [await errno(Write(text="x" * CAPACITY)) for _ in range(3)]

    async def main():
        for fd in (0, 1):
            await Wait(pid=await Spawn(program="maker", args=[{fd: "pipe:p"}]))
        await Sleep(seconds=60)

    found = [finish(main, maker, end).statuses[n].value for n in (3, 5)]
    assert found[0] == ""
    assert found[1][1:] == ["EPIPE", "EPIPE"]


def test_a_full_pipe_holds_its_writer_and_passes_everything_in_order():
    async def producer():
        for n in range(30):
            await Write(text=f"{n:02}" * (CAPACITY // 8))
        return await Now()

    async def main():
        pid = await Spawn(program="producer", fds={1: "pipe:p"})
        await Sleep(seconds=4)
        got = ""
        while text := await Read(fd="pipe:p", limit=10_000):
            got += text
        return [(await Wait(pid=pid)).value, got == "".join(f"{n:02}" * (CAPACITY // 8) for n in range(30))]

    assert run(main, producer) == [4.0, True]
    assert always(main, producer, away=0)[1] is True


def test_read_splits_at_the_limit_and_keeps_unicode_whole():
    async def producer():
        for text in ("añ", "ñ€𝄞", "\x00\r\n", "z"):
            await Write(text=text)

    async def main():
        await Spawn(program="producer", fds={1: "pipe:p"})
        await Sleep(seconds=1)
        got = []
        while text := await Read(fd="pipe:p", limit=2):
            got.append(text)
        return got

    assert always(main, producer) == ["añ", "ñ€", "𝄞\x00", "\r\n", "z"]


def test_writing_nothing_wakes_nobody():
    async def main():
        pid = await Spawn(program="reader", fds={0: "pipe:p"})
        for text in ("", "", "x"):
            await Write(fd="pipe:p", text=text)
            await Sleep(seconds=1)
        return (await Wait(pid=pid)).value

    async def reader():
        return [await Read(), await Now()]

    assert run(main, reader) == ["x", 2.0]


def test_descriptors_are_ends_and_streams_have_no_other_names():
    async def child():
        return [
            await errno(call)
            for call in (
                Read(fd=1, timeout=1),
                Write(fd=0, text="x"),
                Read(fd=7),
                Write(fd=7, text="x"),
                Write(fd="pipe:in", text="x"),
                Read(fd="pipe:in"),
                Write(fd="tty", text="x"),
                Write(fd="null", text="x"),
                Read(fd="tty"),
                Write(fd="tty:out", text="x"),
                Write(fd="", text="x"),
            )
        ]

    async def main():
        await Write(text="the terminal is there\n")
        pid = await Spawn(program="child", fds={0: "pipe:in", 1: "pipe:out"})
        await Write(fd="pipe:in", text="hello")
        return (await Wait(pid=pid)).value

    ended = finish(main, child)
    assert ended.value == ["EBADF"] * 11
    assert ended.world.output() == "the terminal is there\n"


def test_null_takes_everything_and_gives_nothing():
    async def child():
        return [await Read(), await Write(text="x" * CAPACITY * 2), await Write(text="y", fd=2)]

    async def main():
        return (await Wait(pid=await Spawn(program="child", fds={0: "null", 1: "null", 2: "null"}))).value

    ended = finish(main, child)
    assert ended.value == ["", None, None]
    assert not ended.world.screen


def test_a_full_terminal_holds_writers_until_it_has_shown():
    async def main():
        for n in range(6):
            await Write(text=str(n) * (CAPACITY // 2))

    ended = finish(main)
    assert ended.world.now > 0
    assert ended.world.output() == "".join(str(n) * (CAPACITY // 2) for n in range(6))
    always(main)


class Typist(World):
    """Somebody types two lines and ends the input."""

    def __init__(self):
        super().__init__(lines=("one\n", "two\n"))


def test_the_terminal_gives_lines_and_then_its_end():
    async def child():
        got = []
        while text := await Read():
            got.append(text)
        return [got, await Read()]

    async def main():
        return (await Wait(pid=await Spawn(program="child", fds={0: "tty"}))).value

    assert always(main, child, world=Typist) == [["one\n", "two\n"], ""]


def test_the_end_of_input_reaches_everybody_who_reads():
    async def child():
        return await Read()

    async def main():
        pids = [await Spawn(program="child", fds={0: "tty"}) for _ in range(3)]
        return [(await Wait(pid=pid)).value for pid in pids]

    sim = boot(main, child)
    for _ in range(3):
        sim.step()
        sim.wait()
    sim.due += [Input("tty:in", "first"), Input("tty:in", None)]
    sim.run()
    clean(sim)
    assert Ended(sim).value == ["first", "", ""]


def test_a_pipe_of_the_same_name_is_a_new_pipe():
    """Nothing of the old one comes back: what was not read is gone, in the store too."""

    async def reader():
        if await Now() < 1:
            await Sleep(seconds=50)
        return await Read()

    async def writer(text):
        await Write(text=text)
        if text == "old":
            await Sleep(seconds=50)

    async def main():
        pids = [
            await Spawn(program="reader", fds={0: "pipe:p"}),
            await Spawn(program="writer", args=["old"], fds={1: "pipe:p"}),
        ]
        await Sleep(seconds=1)
        for pid in pids:
            await Kill(pid=pid, signal=Signal.KILL)
            await Wait(pid=pid)
        reads = await Spawn(program="reader", fds={0: "pipe:p"})
        await Spawn(program="writer", args=["new"], fds={1: "pipe:p"})
        return (await Wait(pid=reads)).value

    assert always(main, reader, writer, away=0.0) == "new"


# ---- Think


def test_a_think_is_what_the_machine_says():
    async def main():
        await Append(role="system", text="be brief")
        thought = await Think(prompt="hello", max_tokens=12)
        return [thought.model_dump(), [p.model_dump() for p in await Pages()]]

    machine = ToyMachine(ends=False)
    head = machine.render("system", "be brief") + machine.render("user", "hello") + machine.opening()
    tokens = machine.continuation(head, Sampling(""), 12)
    text = bytes(tokens).decode()
    thought, pages = always(main)
    assert thought == {"text": text, "tokens": tokens, "reason": "length", "prompt_tokens": len(head)}
    assert [(p["id"], p["role"], p["tokens"], p["text"]) for p in pages] == [
        (0, "system", 10, "be brief"),
        (1, "user", 7, "hello"),
        (2, "assistant", 14, text),
    ]


def test_a_think_ends_where_the_model_ends():
    async def main():
        return (await Think(prompt="when will you stop?", max_tokens=1000)).model_dump()

    machine = ToyMachine()
    head = machine.render("user", "when will you stop?") + machine.opening()
    *tokens, last = machine.continuation(head, Sampling(""), 1000)
    assert last == END
    found = always(main, machine=machine)
    assert found == {"text": bytes(tokens).decode(), "tokens": tokens, "reason": "stop", "prompt_tokens": len(head)}


def test_a_stop_string_ends_the_text_in_front_of_it():
    async def main():
        free = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60)
        found = []
        for stop in ([free.text[10:13]], [free.text[7], "zzzz"], ["never there"], [free.text[0]], ["", free.text[5:9]]):
            cut = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60, stop=stop)
            expected = min((free.text.find(s) for s in stop if s and s in free.text), default=60)
            found.append([cut.text == free.text[:expected], len(cut.tokens) == expected, cut.reason])
        kept = await Think(prompt="go", max_tokens=60, stop=[free.text[10:13]])
        return [found, kept.text == (await Pages())[-1].text, sum(p.tokens for p in await Pages()) > 10]

    found, *rest = run(main)
    assert [f[:2] for f in found] == [[True, True]] * 5
    assert [f[2] for f in found] == ["stop", "stop", "length", "stop", "stop"]
    assert rest == [True, True]


def test_a_stream_shows_the_text_and_never_a_part_of_a_stop_string():
    async def main():
        free = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60)
        stop = [free.text[20:24], free.text[20:22] + "QQQ"]
        shown = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60, stop=stop, stream=True)
        await Write(text="|")
        await Think(prompt="more", max_tokens=30, stream=True)
        return [shown.text, free.text]

    ended = finish(main)
    shown, free = ended.value
    assert shown == free[: free.find(free[20:24])]
    text, _, more = ended.world.output().partition("|")
    assert text == shown
    assert len(more) == 30
    always(main, step=3)


def test_a_stream_goes_where_descriptor_1_goes():
    async def child():
        return (await Think(prompt="x", max_tokens=8, stream=True)).text

    async def main():
        pid = await Spawn(program="child", fds={1: "pipe:p"})
        nowhere = await Spawn(program="child", fds={1: "null"})
        got = ""
        while text := await Read(fd="pipe:p"):
            got += text
        return [got, (await Wait(pid=pid)).value, (await Wait(pid=nowhere)).value]

    piped, said, silent = always(main, child)
    assert piped == said == silent


def test_length_and_the_window():
    async def main():
        one = await Think(messages=[ChatMessage(role="user", text="x")], max_tokens=1)
        full = await Think(messages=[ChatMessage(role="user", text="x" * 40)], max_tokens=10_000)
        tight = await Think(messages=[ChatMessage(role="user", text="x" * 59)], max_tokens=10_000)
        over = await told(Think(messages=[ChatMessage(role="user", text="x" * 60)], max_tokens=1))
        return [len(one.tokens), len(full.tokens), full.reason, len(tight.tokens), over]

    # 64: mark, text, END; the mark of the answer; the answer; END
    assert run(main, machine=ToyMachine(frames=8, window=64, ends=False)) == [
        1,
        20,
        "length",
        1,
        "ENOMEM: the prompt has 63 tokens, the window 64",
    ]
    assert run(main, machine=ToyMachine(frames=4, window=1000, ends=False))[1] == 20


def test_a_think_that_fails_leaves_the_context_as_it_was():
    async def child():
        await Append(text="before")
        first = await Think(prompt="one", max_tokens=3)
        before = [p.model_dump() for p in await Pages()]
        failures = [
            await errno(Think(messages=[ChatMessage(role="user", text="x" * 500)])),
            await errno(Think(prompt="x" * 500)),
            await errno(Think(prompt="p", messages=[ChatMessage(role="user", text="m")])),
            await errno(select(Think(prompt="cut", max_tokens=60), Sleep(seconds=2))),
        ]
        same = before == [p.model_dump() for p in await Pages()]
        second = await Think(prompt="two", max_tokens=3)
        return [failures[:3], failures[3][0], same, second.prompt_tokens - first.prompt_tokens]

    async def main():
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=50)))).value

    value = always(main, child, machine=ToyMachine(frames=16, window=100, ends=False))
    assert value == [["ENOMEM", "EDQUOT", "EINVAL"], 1, True, 3 + 1 + 6]


def test_the_tokens_of_the_context_are_equal_before_and_after_a_failure():
    async def child():
        await Append(text="a page of more than one frame, so that there is something to copy")
        await Think(prompt="q", max_tokens=4)
        while True:
            await errno(Think(prompt="longer than a frame of sixteen tokens", max_tokens=1000))
            await errno(Think(prompt="x" * 5000))

    async def main():
        pid = await Spawn(program="child")
        for _ in range(6):
            await Sleep(seconds=7.3)
            await Kill(pid=pid)
        await Kill(pid=pid, signal=Signal.KILL)

    sim, contexts = boot(main, child), set()
    for _ in range(400):
        sim.step()
        child_process = sim.kernel.procs.get(3)
        branch = child_process and child_process.root
        if branch and branch.ctx and len(branch.ctx.pages) == 3:
            ctx = branch.ctx
            whole = ctx.before or ctx.tokens[: branch.burst.base if branch.burst else None]
            contexts.add((tuple(whole), tuple(ctx.pages)))
            assert ctx.computed <= len(ctx.tokens)
        if not sim.wait():
            break
    assert len(contexts) == 1
    clean(sim)


def test_explicit_messages_leave_the_context_alone():
    async def main():
        await Append(text="mine")
        own = (await Think(prompt="q", max_tokens=5)).text
        before = [p.model_dump() for p in await Pages()]
        roles = ("system", "user", "assistant", "tool")
        talk = [ChatMessage(role=role, text=f"{role} says") for role in roles]
        other = await Think(messages=talk, max_tokens=5)
        again = await Think(messages=talk, max_tokens=5)
        return [
            own != other.text,
            other == again,
            before == [p.model_dump() for p in await Pages()],
            other.prompt_tokens,
        ]

    size = sum(len(f"{role} says") + 2 for role in MARKS) + 1
    assert always(main) == [True, True, True, size]


def test_seeds():
    async def main():
        hot = {"messages": [ChatMessage(role="user", text="dice")], "temperature": 2.0, "max_tokens": 30}
        seeded = [(await Think(**hot, seed=seed)).text for seed in (1, 1, 2, -1)]
        free = [(await Think(**hot)).text for _ in range(2)]
        cold = [(await Think(**{**hot, "temperature": 0.0}, seed=seed)).text for seed in (1, 2)]
        return [seeded, free, cold]

    seeded, free, cold = always(main, step=3)
    assert seeded[0] == seeded[1]
    assert len(set(seeded)) == 3
    assert free[0] != free[1]
    assert not set(free) & set(seeded)
    assert cold[0] == cold[1]


def test_a_seed_is_the_same_for_everybody_and_none_is_ones_own():
    async def child(seed):
        return (await Think(prompt="dice", temperature=2.0, max_tokens=20, seed=seed)).text

    async def main():
        pids = [await Spawn(program="child", args=[seed]) for seed in (5, 5, None, None)]
        return [(await Wait(pid=pid)).value for pid in pids]

    for lanes, policy in ((1, RR(3)), (4, RR(16)), (2, RR(1))):
        one, two, three, four = run(main, child, lanes=lanes, policy=policy)
        assert one == two
        assert len({one, three, four}) == 3
        assert [one, two, three, four] == run(main, child)


def test_the_seed_of_the_kernel_is_kept():
    async def main():
        return [await Random(), (await Think(prompt="x", temperature=2.0, max_tokens=9)).text]

    assert run(main, seed=1) != run(main, seed=2)
    store = Mortal()
    store.crash = (1, "after")
    with pytest.raises(Killed):
        boot(main, store=store, seed=1).run()
    sim = boot(main, store=store, seed=2).run()
    assert Ended(sim).value == run(main, seed=1)


def test_a_burst_that_a_smaller_machine_cannot_finish():
    """The machine of the next boot is smaller: ENOMEM for who does not fit, and the others go on."""

    async def small():
        return len((await Think(prompt="x", max_tokens=20)).tokens)

    async def main():
        pid = await Spawn(program="small")
        large = await errno(Think(prompt="x" * 50, max_tokens=500))
        return [large, (await Wait(pid=pid)).value]

    store, world = Mortal(), World()
    store.crash = (1, "after")
    with pytest.raises(Killed):
        boot(main, small, store=store, world=world, machine=ToyMachine(frames=64, ends=False)).run()
    sim = boot(main, small, store=store, world=world, machine=ToyMachine(frames=8, ends=False)).run()
    clean(sim)
    assert Ended(sim).value == ["ENOMEM", 20]


# ---- Append, Pages, Pin, Count


def test_pages_and_their_limits():
    async def main():
        ids = [await Append(role=role, text=role) for role in MARKS]
        empty = await Append(text="")
        await Pin(page=1)
        await Pin(page=2, pinned=False)
        large = await told(Append(text="x" * 5000, pinned=True))
        wrong = [await errno(Pin(page=page)) for page in (-1, 5)]
        return [ids, empty, large, wrong, [(p.role, p.tokens, p.pinned) for p in await Pages()]]

    ids, empty, large, wrong, pages = always(main)
    assert ids == [0, 1, 2, 3]
    assert empty == 4
    assert large.startswith("ENOMEM: 5054 tokens are needed, the window has 2048; pinned pages")
    assert wrong == ["ENOENT", "ENOENT"]
    assert pages == [[role, len(role) + 2, role == "user"] for role in MARKS] + [["user", 2, False]]


def test_count_counts_as_the_machine_does():
    async def main():
        return [await Count(text=text) for text in ("", "abc", "é€", "\x00")]

    assert run(main) == [0, 3, 5, 1]


# ---- devices


class Tools(Slow):
    """Whatever the arguments say is raised or given."""

    def __init__(self, outcome=None):
        super().__init__()
        self.outcome = outcome

    def invoke(self, effect):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class ERATE(SyscallError):
    errno = "ERATE"


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        ({"a": [1, None, 2.5]}, {"a": [1, None, 2.5]}),
        (math.inf, math.inf),
        (ENOENT("no page"), "ENOENT: no page"),
        (EIO(), "EIO"),
        (SyscallError("bare"), "EIO: bare"),
        (ERATE("slow down"), "EIO: slow down"),
        (EINVAL(ValueError("an object")), "EINVAL: an object"),  # type: ignore[arg-type]
        (EINVAL("\udcff"), "EINVAL: ?"),
        (object(), "EIO: the answer of call"),
        (b"\xff", "EIO: the answer of call"),
        ("\ud800", "EIO: the answer of call"),
        (nest(230), "EIO: the answer of call"),
        (10**5000, "EIO: the answer of call"),
    ],
    ids=range(13),
)
def test_whatever_a_driver_answers_the_program_gets_something(outcome, seen):
    async def main():
        got = await told(Call(device="slow", op="look", args={"takes": 1}))
        return got.partition("{")[0] if isinstance(got, str) else got

    assert always(main, world=lambda: Tools(outcome)) == seen


def test_a_call_that_nobody_can_answer():
    async def main():
        return [
            await told(Call(device="web", op="get")),
            await errno(Call(device="slow", op="get")),
            await errno(Call(device="slow", op="pay", args={"x": object()})),
            [d.name for d in await Devices()],
        ]

    missing, op, args, names = run(main, world=Slow)
    assert missing == "ENOENT: no op web.get; there are: slow.wait, slow.pay, slow.look, slow.brief"
    assert (op, args, names) == ("ENOENT", "EINVAL", ["slow"])


def test_a_call_has_the_shorter_of_two_timeouts_and_says_its_key():
    async def main():
        found = []
        for op, timeout in (("pay", 3), ("brief", 9), ("brief", 1), ("brief", None)):
            begin = await Now()
            try:
                await Call(device="slow", op=op, timeout=timeout)
            except SyscallError as error:
                found.append([error.errno, error.key, await Now() - begin])
        return found

    assert run(main, world=Slow) == [
        ["ETIMEDOUT", f"1/1:0:{path}", seconds] for path, seconds in ((2, 3.0), (5, 2.0), (8, 1.0), (11, 2.0))
    ]


def test_an_unsafe_call_is_never_run_again_and_says_so():
    async def main():
        try:
            return await Call(device="slow", op="pay", args={"takes": 10})
        except EUNKNOWN as error:
            return [error.detail, error.key]

    assert run(main, world=Slow) == {"takes": 10}
    ended = lives([(1, "after")], main, world=Slow)
    assert ended.value == ["slow.pay was begun before a crash and may have happened", "1/1:0:1"]
    early = lives([(1, "before")], main, world=Slow)
    assert early.value == {"takes": 10}
    for op in ("wait", "look"):

        async def again_and_again(op=op):
            return await Call(device="slow", op=op, args={"takes": 10})

        again = lives([(1, "after")], again_and_again, world=Slow)
        assert again.value == {"takes": 10}
        assert again.world.begun == ["1/1:0:1"]


# ---- Now, Random, Sleep, Stat


def test_now_never_goes_back():
    class Backwards(World):
        def __init__(self):
            super().__init__()
            self.now = 1000.0

    async def main():
        seen = []
        for _ in range(5):
            seen.append(await Now())
            await Sleep(seconds=1)
        return [seen == sorted(seen), seen[-1] - seen[0] >= 4]

    for n in (1, 2, 3):
        ended = lives([(n, "after")], main, world=Backwards, away=-900.0)
        assert ended.value == [True, True]


def test_random_is_uniform_and_a_number_of_its_place():
    async def main():
        return [await Random() for _ in range(400)]

    numbers = run(main)
    assert numbers == run(main, budget=1)
    assert len(set(numbers)) == 400
    assert all(0 <= x < 1 for x in numbers)
    assert abs(sum(numbers) / 400 - 0.5) < 0.05
    tenths = [sum(int(x * 10) == tenth for x in numbers) for tenth in range(10)]
    assert min(tenths) > 20
    assert max(tenths) < 65


def test_random_follows_the_lineage_and_not_the_pid():
    async def child():
        return await Random()

    def family(first):
        async def main():
            for _ in range(first):
                await Spawn(program="noise")
            me = await Random()
            pid = await Spawn(program="child")
            forked = await Fork()
            if not forked:
                return await Random()
            twin = await Random()
            return [me, (await Wait(pid=pid)).value, twin, (await Wait(pid=forked)).value]

        return main

    async def noise():
        pass

    plain = always(family(0), child, noise)
    assert len(set(plain)) == 4
    # Paths count calls, so other calls in front change them; pids alone do not.
    assert run(family(0), child, noise) == plain

    async def crowd():
        for _ in range(5):
            await Spawn(program="noise")

    async def init():
        await Spawn(program="main")
        await Spawn(program="crowd")
        while len(await Stat()) > 1:
            await Wait()

    named = {"init": init, "main": family(0), "crowd": crowd, "child": child, "noise": noise}
    sim = Simulation(named, Mortal(), budget=1).run()
    assert Ended(sim).value == plain


def test_sleep_is_in_order_and_sleeps_over_a_restart():
    async def main():
        order = []

        async def nap(seconds):
            await Sleep(seconds=seconds)
            order.append(seconds)

        await gather(*(nap(seconds) for seconds in (3, 1, 2, 0, 1.5)))
        return [order, await Now()]

    assert run(main) == [[0, 1, 1.5, 2, 3], 3.0]
    assert always(main, away=0)[0] == [0, 1, 1.5, 2, 3]
    assert lives([(1, "after")], main, away=10.0).value == [[0, 1, 1.5, 2, 3], 10.0]


def test_stat_tells_what_ps_shows():
    async def child():
        await Append(text="12345678")
        await gather(Recv(), Sleep(seconds=50))

    async def thinker():
        await Think(prompt="x", max_tokens=400)

    async def main():
        pids = [await Spawn(program="child", args=[], nice=4), await Spawn(program="thinker")]
        await Sleep(seconds=3)
        [busy], [thinks], [me] = [await Stat(pid=pid) for pid in (*pids, await GetPid())]
        for pid in pids:
            await Kill(pid=pid, signal=Signal.KILL)
        dead = [p.status.reason if p.status else p.state for p in await Stat(pid=pids[0], dead=True)]
        return [
            [busy.state, busy.on, busy.nice, busy.tokens, busy.ppid == me.pid],
            [thinks.state, thinks.on],
            [me.state, me.children],
            dead,
            await errno(Stat(pid=99)),
            await errno(Stat(pid=99, dead=True)),
            [p.pid for p in await Stat(dead=True)],
        ]

    assert run(main, child, thinker) == [
        ["BLOCKED", "gather recv sleep", 4, 10, True],
        ["RUNNING", "think"],
        ["RUNNING", 2],
        ["killed"],
        "ESRCH",
        "ESRCH",
        [1, 2, 3, 4],
    ]


def test_stat_of_the_dead_after_they_were_waited_for():
    async def child(n):
        return n

    async def main():
        pids = [await Spawn(program="child", args=[n]) for n in range(3)]
        for pid in pids:
            await Wait(pid=pid)
        dead = [p for p in await Stat(dead=True) if p.program == "child"]
        [one] = await Stat(pid=pids[1], dead=True)
        return [[(p.state, p.args, p.status.value) for p in dead], one.status.value, await errno(Stat(pid=pids[1]))]

    assert always(main, child) == [[["REAPED", [n], n] for n in range(3)], 1, "ESRCH"]
