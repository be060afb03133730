"""Wait: who is waited for, in which order, and what the status says."""

import pytest

from harness import always, errno, run, sleeper
from tokix.syscalls import Exit, GetPid, Kill, Now, Recv, Send, Signal, Sleep, Spawn, Stat, Wait, gather


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
    assert found[0][3].startswith("ValueError: boom (test_wait.py:")
    assert found[1:3] == [["exited", "exit", {"a": 1}, ""], ["left", "exit", 4, ""]]
    assert [end[1:] for end in found[3:]] == [["killed", None, name] for name in ("TERM", "INT", "KILL")]
