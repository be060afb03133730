"""Exec and Fork: what is kept, what is copied, and what begins anew."""

import pytest

from harness import CHILD, Ended, always, boot, clean, errno, run, sleeper, told
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Sampling
from tokix.syscalls import (
    EINTR,
    Append,
    Count,
    Exec,
    Fork,
    GetPid,
    Kill,
    Limits,
    Now,
    Pages,
    Random,
    Read,
    Recv,
    Send,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    gather,
    select,
)
from torture import Killed, Mortal


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


def test_the_window_of_another_machine_holds_for_a_child_from_the_first_entry_on():
    """The log begins with an Exec, and what that handed over is larger than the window of the next boot."""

    async def main(stage=0):
        if not stage:
            for _ in range(12):
                await Append(text="word " * 6, role="tool")
            await Exec(program="main", args=[1])
        await Sleep(seconds=5)
        child = await Fork()
        if not child:
            return "child"
        return (await Wait(pid=child)).value

    store = Mortal()
    large, small = (ToyMachine(frames=160, window=window, ends=False) for window in (512, 160))
    store.crash = (1, "after")
    with pytest.raises(Killed):
        boot(main, store=store, machine=large).run(20_000)
    store.crash = (0, "")
    sim = boot(main, store=store, machine=small).run(20_000)
    clean(sim)
    assert Ended(sim).value == "child"
