"""Limits: who moves them, what counts, and what happens at the end of them."""

import pytest

from harness import always, errno, lives, run, sleeper, told
from tokix.syscalls import (
    Append,
    Count,
    Drop,
    GetPid,
    Limits,
    Now,
    Recv,
    Send,
    SetLimit,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    gather,
    select,
)


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
