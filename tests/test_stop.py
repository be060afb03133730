"""STOP and CONT: what is withheld from a stopped process, and what happens to it all the same."""

import pytest

from harness import CHILD, Slow, always, errno, run, sleeper, told
from tokix.syscalls import (
    EINTR,
    Call,
    Count,
    GetPid,
    Kill,
    Limits,
    Now,
    Recv,
    Send,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    gather,
)


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
