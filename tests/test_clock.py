"""Now, Sleep, Random, Stat: what a process learns of time, of chance and of the others."""

from harness import Ended, always, errno, lives, run
from tokix.sim import Simulation, World
from tokix.syscalls import (
    Append,
    Fork,
    GetPid,
    Kill,
    Now,
    Random,
    Recv,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    gather,
)
from torture import Mortal


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
