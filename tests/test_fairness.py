"""Fairness and determinism: nobody is held up, and two runs are the same to the row."""

import itertools
import random

import pytest

from harness import Ended, boot, clean
from tokix.kernel.events import SetPolicy
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.syscalls import (
    Count,
    GetPid,
    Now,
    Random,
    Recv,
    Renice,
    Send,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    Write,
    gather,
)


def test_a_budget_of_one_is_fair():
    """With one delivery a step, nobody gets ahead of the others by more than a turn."""

    async def main():
        for _ in range(5):
            await Spawn(program="busy")
        for _ in range(5):
            await Wait()

    async def busy():
        me = await GetPid()
        for n in range(20):
            turns.append((me, n))
            await Count(text="x")

    turns = []
    sim = boot(main, busy, budget=1).run()
    clean(sim)
    assert len(turns) == 100
    for at in range(20, 80):
        counts = dict(turns[:at]).values()
        assert max(counts) - min(counts) <= 5


def test_a_busy_process_does_not_hold_up_the_tick():
    async def main():
        await Spawn(program="busy")
        begin = await Now()
        await Think(prompt="x", max_tokens=10)
        return await Now() - begin

    async def busy():
        for _ in range(300):
            await Count(text="x")

    sim = boot(main, busy, budget=5).run()
    clean(sim)
    assert Ended(sim).value == 10.0
    assert sim.steps < 100


async def everything(depth=2):
    """A bit of everything, deep enough to be mixed by the scheduler."""
    me = await GetPid()
    child = await Spawn(program="everything", args=[depth - 1], nice=depth) if depth else None

    async def think(word):
        thought = await Think(prompt=word, max_tokens=7, temperature=1.0)
        await Send(to=me, body=thought.text)
        return await Random()

    numbers = await gather(think("a"), think("b"), Sleep(seconds=depth), Random())
    mail = sorted([(await Recv()).body for _ in range(2)])
    await Write(text=f"{depth} {mail}\n")
    below = (await Wait(pid=child)).value if child else None
    return [numbers, mail, below]


def test_two_runs_are_the_same_to_the_row():
    def run():
        sim = boot(everything, everything, policy=Priority(4), lanes=2, budget=3)
        log, commit = [], sim.store.commit

        def kept(rows):
            log.append({name: dict(changes) for name, changes in rows.items()})
            commit(rows)

        sim.store.commit = kept
        sim.run()
        clean(sim)
        return log, sim.world.screen, sim.steps

    assert run() == run()


def test_what_is_in_memory_does_not_decide_the_rows():
    """Objects at other addresses, sets in another order: no row depends on them."""
    ballast = [object() for _ in range(random.Random(1).randrange(10_000))]
    sims = []
    for _ in range(2):
        ballast.append([bytearray(n % 977) for n in range(len(ballast))])
        sims.append(boot(everything, everything, budget=2).run())
    assert sims[0].store.store.tables == sims[1].store.store.tables


@pytest.mark.parametrize("order", [[FCFS, RR, Priority], [Priority, FCFS], [lambda: RR(1), lambda: RR(50), FCFS]])
def test_the_policy_can_be_changed_at_any_time_and_no_result_changes(order):
    expected = Ended(boot(everything, everything).run()).value
    sim = boot(everything, everything, lanes=2)
    policies = itertools.cycle(order)
    for n in itertools.count():
        if n % 3 == 0:
            sim.due.append(SetPolicy(next(policies)()))
        sim.step()
        if not sim.wait() and n % 3:
            break
        if n > 500 and not sim.kernel.procs:
            break
    clean(sim)
    assert Ended(sim).value == expected


def test_a_new_policy_orders_those_who_wait():
    async def main():
        for nice in (15, 10, 5, 0):
            await Spawn(program="thinker", nice=nice)
        return [(await Wait()).value for _ in range(4)]

    async def thinker():
        await Think(prompt="x", max_tokens=8)
        return (await Stat(pid=await GetPid()))[0].nice

    def run(policy, then=None):
        sim = boot(main, thinker, lanes=1, policy=policy)
        sim.step()
        if then:
            sim.due.append(SetPolicy(then))
        sim.run()
        clean(sim)
        return Ended(sim).value

    assert run(FCFS()) == [15, 10, 5, 0]
    assert run(FCFS(), Priority(age=1000)) == [0, 5, 10, 15]


def test_renice_reaches_a_burst_wherever_it_is():
    async def main():
        pids = [await Spawn(program="thinker", args=[name], nice=10) for name in "abcd"]
        await Sleep(seconds=2.5)
        await Renice(pid=pids[3], nice=0)
        return [(await Wait()).value for _ in range(4)]

    async def thinker(name):
        await Think(prompt="x", max_tokens=12)
        return name

    sim = boot(main, thinker, lanes=1, policy=Priority(age=1000)).run()
    clean(sim)
    assert Ended(sim).value[0] == "d"


@pytest.mark.parametrize("quantum", [16, 100, 1000])
def test_time_in_a_lane_is_not_time_of_waiting(quantum):
    """Who ran alone for long has not aged: a better one takes the lane at once."""

    async def long():
        await Think(prompt="x", max_tokens=700)

    async def short():
        begin = await Now()
        await Think(prompt="y", max_tokens=3)
        return await Now() - begin

    async def main():
        await Spawn(program="long")
        await Sleep(seconds=310.5)
        return (await Wait(pid=await Spawn(program="short", nice=-5))).value

    sim = boot(main, long, short, lanes=1, policy=Priority(quantum, age=16)).run()
    clean(sim)
    assert Ended(sim).value == 3.5  # the tick in flight, and three
