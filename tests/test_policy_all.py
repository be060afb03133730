"""What holds under every policy: no lane idles, nothing starves, and no token depends on who ran when."""

from itertools import count

import pytest
from test_policies import price

from harness import boot, run
from rig import EVERY, Rig
from tokix.kernel.events import Attach, Trap
from tokix.kernel.family import Family, Group
from tokix.kernel.policy import FAIR, LAS, MLFQ, POLICIES, SJF, Mixed, named
from tokix.syscalls import Fork, Sched, Sleep, Spawn, Think, Wait, decode_canonical, gather

NEW = [SJF, MLFQ, LAS, FAIR, Mixed]
NAMES = list(POLICIES)


def test_a_policy_is_made_by_its_name():
    assert [named(name).name for name in NAMES] == NAMES
    assert [named(name, 3).quantum for name in NAMES if name not in ("FCFS", "SJF")] == [3] * 6
    for name in ("FCFS", "SJF"):
        with pytest.raises(ValueError, match=f"with {name} there are no turns, and a quantum has no meaning"):
            named(name, 3)


@pytest.mark.parametrize("policy", EVERY)
@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_no_lane_idles_while_somebody_waits(policy, lanes):
    rig = Rig(policy(), lanes=lanes, frames=256)
    groups = [Group(1), Group(2), Group(3)]
    bursts = [
        rig.think(1 + 7 * n, 5 + 3 * n, nice=n % 4, read=n % 5 == 0, family=Family(n, groups[n % 3])) for n in range(12)
    ]
    while rig.start():
        assert len(rig.scheduler.gang) == min(lanes, sum(burst.alive for burst in bursts))
        rig.land()


@pytest.mark.parametrize("policy", EVERY)
def test_nothing_starves(policy):
    """Long ones, at every place there is, while somebody short always comes to another group, or to the same."""
    rig = Rig(policy(), lanes=2, frames=512, prefill=16, check=False)
    groups, serial = [Group(1), Group(2)], count(10)
    old = [rig.think(60, 30, nice=nice, family=Family(n, groups[n % 2])) for n, nice in enumerate((0, 10, 19, -5))]
    short = []
    for _ in range(20_000):
        short = [burst for burst in short if burst.alive]
        if len(short) < 4:
            n = next(serial)
            short.append(rig.think(2, 3, read=n % 2 == 0, family=Family(n, groups[n % 3 % 2])))
        rig.tick()
        if not any(burst.alive for burst in old):
            return
    raise AssertionError(f"after 20,000 ticks there are still {[burst.nice for burst in old if burst.alive]}")


@pytest.mark.parametrize("policy", NEW)
def test_the_price_of_a_tick_does_not_grow_with_who_waits(policy):
    few, many = price(policy, 100), price(policy, 10_000)
    assert few[0] <= 128
    assert many[0] <= 128
    assert many[1] <= 2 * max(few[1], 16), "the logarithm of 10,000 is twice that of 100"


@pytest.mark.parametrize("policy", [FAIR, Mixed])
def test_many_groups_cost_no_more_than_few(policy):
    """Counted in shares that are looked at: a search among all groups would look at all of them."""

    class Counting(policy):
        asked = 0

        def share(self, group):
            Counting.asked += 1
            return super().share(group)

    def asked(groups):
        rig = Rig(Counting(), lanes=4, check=False)
        for n in range(groups):
            rig.think(1, 200, family=Family(n, Group(n)))
        rig.tick()
        Counting.asked = 0
        for _ in range(64):
            rig.tick()
        return Counting.asked

    assert asked(5000) <= asked(50) + 16


# ---- on a kernel


async def tree(depth):
    """Think, alone and beside others, in children and forks; gives all that was said."""
    said = [(await Think(prompt=f"depth {depth}", max_tokens=20, temperature=0.9, stream=depth == 1)).text]
    if not depth:
        return said
    kids = [await Spawn(program="tree", args=[depth - 1], nice=3 * n) for n in range(3)]
    child = await Fork()
    if child == 0:
        return [*said, (await Think(prompt="twin", max_tokens=9, temperature=0.9)).text]
    both = await gather(*(Think(prompt=f"side {n}", max_tokens=12, temperature=0.9) for n in range(2)))
    said += [one.text for one in both]
    for kid in (*kids, child):
        said.append((await Wait(pid=kid)).value)
    return said


async def restless(names):
    for name in names:
        await Sleep(seconds=7)
        await Sched(policy=name)


async def main(names=()):
    pid = await Spawn(program="restless", args=[list(names)])
    said = await tree(2)
    await Wait(pid=pid)
    return said


async def wavering_main():
    return await main([*NAMES, *NAMES])


@pytest.fixture(scope="module")
def expected():
    return run(main, tree, restless)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [{"lanes": 2}, {"lanes": 3, "prefill": 7, "budget": 2}])
def test_no_token_depends_on_the_policy(expected, name, shape):
    assert run(main, tree, restless, policy=named(name), **shape) == expected


def test_no_token_depends_on_a_change_of_the_policy(expected):
    assert run(wavering_main, tree, restless, lanes=2) == expected


# ---- who belongs to whom


async def idle():
    await Sleep(seconds=1e6)


async def parent():
    for _ in range(2):
        await Spawn(program="idle")
    await Fork()
    await Sleep(seconds=1e6)


async def start():
    await Spawn(program="parent")
    await Spawn(program="parent")
    await Sleep(seconds=1e6)


def related(kernel):
    """The pids of each family, and the families of each group."""
    families, groups = {}, {}
    for pid, process in kernel.procs.items():
        families.setdefault(process.family, []).append(pid)
    for family, pids in families.items():
        groups.setdefault(family.group, []).append(sorted(pids))
    return sorted(sorted(group) for group in groups.values())


def test_a_family_is_what_init_or_a_client_started_and_a_group_is_who_did():
    sim = boot(idle, parent, idle, init=("start", []))
    sim.kernel.programs["start"] = start
    sim.step()
    assert sorted(map(len, related(sim.kernel)[0])) == [1, 4, 4]
    sim.due = [Attach(1, "shell"), Attach(2, "shell")]
    sim.step()
    shells = [pid for pid, process in sim.kernel.procs.items() if process.foreign]
    sim.due = [Trap(pid, f"call {n}", Spawn(program="parent")) for n in range(2) for pid in shells]
    sim.step()
    sizes = [sorted(map(len, group)) for group in related(sim.kernel)]
    assert sorted(sizes) == [[1, 4, 4]] * 3


def test_a_restart_finds_the_same_families_while_their_parents_live():
    sim = boot(idle, parent, idle, init=("start", []))
    sim.kernel.programs["start"] = start
    sim.step()
    before = related(sim.kernel)
    again = boot(idle, parent, idle, start, store=sim.store, init=("start", []))
    assert related(again.kernel) == before


@pytest.mark.parametrize(
    "text",
    [
        'sched{"policy":"RR","quantum":3}',
        "sched{}",
        'spawn{"program":"x"}',
        'spawn{"program":"x","nice":5}',
        'think{"prompt":"x","max_tokens":9}',
    ],
)
def test_the_calls_of_old_journals_are_the_calls_of_today(text):
    assert decode_canonical(text).canonical() == text
