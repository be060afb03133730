"""Kill, and signals: who may send them, what they interrupt, and what is left of it."""

import pytest

from harness import CHILD, Ended, Slow, always, clean, errno, finish, run, sleeper, told
from tokix.kernel.streams import CAPACITY
from tokix.sim import Simulation
from tokix.syscalls import (
    EINTR,
    Call,
    ChatMessage,
    Count,
    Exit,
    GetPid,
    Kill,
    Pages,
    Read,
    Recv,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from torture import Mortal

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
