"""Gather and Select: who is first, what a branch takes, and what it leaves."""

import json

import pytest

from harness import Slow, always, errno, finish, run, sleeper
from tokix.syscalls import (
    Append,
    Call,
    Count,
    Exec,
    Exit,
    Gather,
    GetPid,
    Kill,
    Now,
    Pages,
    Pin,
    Random,
    Read,
    Recv,
    Select,
    Send,
    Sleep,
    Spawn,
    Think,
    Wait,
    Write,
    gather,
    select,
)


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
