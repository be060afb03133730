"""Many programs that come back again and again, and memory for a few of them: little is computed twice."""

import pytest

from harness import clean
from rig import Rig, in_lane
from tokix.kernel import admission
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.costs import Costs
from tokix.kernel.frames import FRAME, frames_for
from tokix.kernel.mmu import WORTH
from tokix.kernel.policy import FCFS, MLFQ, RR, Mixed, Priority
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Sleep, Spawn, Think, Wait

#: To compute a token is dear, to move a frame is cheap.
COSTS = Costs(tick=15_000, token=1_400, frame=300)
ROUNDS, PROMPT, ANSWER = 6, 100, 24


def crowd(count):
    async def agent(n):
        for _ in range(ROUNDS):
            await Think(prompt=f"{n:03}" + "x" * PROMPT, max_tokens=ANSWER)
            await Sleep(ticks=3)

    async def main():
        for pid in [await Spawn(program="agent", args=[n]) for n in range(count)]:
            await Wait(pid=pid)

    return {"init": main, "agent": agent}


def again(policy, count=40, frames=300, slots=200, lanes=4):
    """Give the share of tokens that were fed more than once, of a crowd whose contexts need 80 frames for each."""
    machine = ToyMachine(frames, 1400, slots=slots, costs=COSTS, ends=False)
    sim = Simulation(crowd(count), MemoryStore(), machine=machine, policy=policy, lanes=lanes, checked=False)
    sim.run()
    clean(sim)
    counters = sim.kernel.scheduler.mmu.counters
    fed = count * ROUNDS * (PROMPT + 3 + ANSWER + 3)
    return counters.fed / fed - 1


@pytest.mark.parametrize("slots", [0, 200])
@pytest.mark.parametrize("policy", [FCFS, RR, MLFQ, Mixed], ids=lambda policy: policy.name)
def test_little_is_computed_again(policy, slots, monkeypatch):
    share = again(policy(), slots=slots)
    monkeypatch.setattr(admission, "wasteful", lambda *_, **more: False)
    assert (share < 1.4, again(policy(), slots=slots) > 2 * share) == (True, True)


# ---- who comes in


def full(policy, *, slots=0, lanes=2, running=2, costs=COSTS):
    """Give a rig whose frames are held by two that run, or by one, and one that waits."""
    rig = Rig(policy, frames=16, lanes=lanes, slots=slots, costs=costs)
    held = [rig.think(6 * FRAME - 8, 400 if n < running else 1) for n in range(2)]
    for _ in range(8):
        rig.tick()
    return rig, held


def test_a_prompt_waits_outside_while_it_would_cost_somebody_else_his():
    rig, (runs, idle) = full(RR(4), running=1)
    idle.ctx.used = rig.mmu.spent
    cold = rig.think(5 * FRAME, 2)
    waited = 0
    while cold.lane < 0:
        rig.tick()
        waited += 1
    assert runs.lane >= 0
    price = COSTS.recompute(frames_for(idle.end) * FRAME)
    assert price <= waited * COSTS.tick < price + 2 * COSTS.tick, "it is idle for as long as it takes to compute it"


def test_nobody_waits_if_nobody_runs():
    rig, (_, idle) = full(RR(4), running=0)
    cold = rig.think(12 * FRAME, 2)
    rig.tick()
    assert cold.lane >= 0
    rig.run()
    assert not idle.ctx.table


def test_who_has_frames_or_slots_does_not_wait_outside():
    rig, (_, idle) = full(RR(4), running=1)
    back = rig.think(4 * FRAME, 2, ctx=idle.ctx)
    rig.tick()
    assert back.lane >= 0


def test_who_is_better_does_not_wait_outside():
    rig, (runs, _) = full(Priority(4), running=1)
    cold = rig.think(5 * FRAME, 2, nice=-5)
    rig.tick()
    assert in_lane(runs, cold) == [True, True]


def test_those_who_never_rest_let_others_in_when_they_have_had_enough():
    """Nobody is idle and nobody ends: whoever has sampled for WORTH times what its prompt cost makes room."""
    rig = Rig(RR(4), frames=16, lanes=2, costs=COSTS)
    endless = [rig.think(5 * FRAME, 10_000) for _ in range(2)]
    for burst in endless:
        burst.end = 7 * FRAME  # as many as there is room for
    rig.tick()
    cold = rig.think(4 * FRAME, 2)
    bound = WORTH * COSTS.recompute(7 * FRAME) / COSTS.tick + 50
    waited = 0
    while cold.lane < 0:
        rig.tick()
        waited += 1
    assert waited <= bound


def test_slots_of_sleepers_who_do_not_come_back_are_used_for_others():
    rig = Rig(RR(4), frames=8, lanes=1, slots=8, costs=COSTS)
    first = rig.think(7 * FRAME, 2)
    rig.run()
    rig.think(7 * FRAME, 2)
    rig.run()
    assert (rig.mmu.counters.swaps, [*rig.mmu.sleepers]) == (1, [first.ctx])
    for _ in range(200):
        rig.mmu.spent += COSTS.tick
    second = rig.contexts[1]
    rig.think(7 * FRAME, 2)
    rig.run()
    assert [*rig.mmu.sleepers] == [second]
    assert not first.ctx.asleep
    rig.think(3, 2, ctx=first.ctx)
    rig.run()
    rig.empty()
