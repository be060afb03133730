"""The scheduler alone: who is in the gang, and what a tick feeds."""

import pytest

from rig import NAMES, POLICIES, Rig, fed, in_lane
from tokix.kernel.burst import Burst
from tokix.kernel.errors import KernelBug
from tokix.kernel.policy import FCFS, RR, Priority


def seats(rig):
    return {burst.key: burst.lane for burst in rig.scheduler.gang}


class Watched(RR):
    """Counts how often it is asked."""

    asked = 0

    def key(self, burst):
        self.asked += 1
        return super().key(burst)


# ---- the gang


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_the_gang_changes_only_after_an_event(policy):
    rig = Rig(policy(), lanes=3)
    bursts = [rig.think(2 + 9 * n, 13 + 5 * n, nice=n % 2) for n in range(7)]
    rig.start()
    before, quiet = seats(rig), 0
    while True:
        ended = rig.land()
        spent = any(burst.used >= rig.scheduler.policy.quantum for burst in rig.scheduler.gang)
        if not rig.start():
            break
        if not ended and not spent:
            assert seats(rig) == before
            quiet += 1
        before = seats(rig)
    assert quiet > 15
    assert not any(burst.alive for burst in bursts)


@pytest.mark.parametrize("watched", [False, True])
def test_between_two_events_the_policy_is_not_asked(watched):
    policy = Watched(20)
    rig = Rig(policy)
    for _ in range(5):
        rig.think(1, 40, watched=watched)
    rig.tick()
    asked = policy.asked
    for _ in range(19):
        rig.tick()
    assert policy.asked == asked
    rig.tick()
    assert policy.asked > asked


def test_an_arrival_takes_a_free_lane_and_nobody_else_moves():
    rig = Rig(lanes=3)
    first = rig.think(1, 30)
    rig.tick()
    second = rig.think(1, 30)
    rig.tick()
    assert (first.lane, second.lane) == (0, 1)
    rig.scheduler.withdraw(first)
    third, fourth = rig.think(1, 30), rig.think(1, 30)
    rig.tick()
    assert [second.lane, *sorted([third.lane, fourth.lane])] == [1, 0, 2]


def test_a_burst_keeps_its_lane_for_the_whole_of_its_turn():
    rig = Rig(RR(5), lanes=3)
    bursts = [rig.think(1 + n, 40) for n in range(7)]
    lanes = dict[Burst, int]()
    while rig.start():
        for burst in bursts:
            if burst.lane >= 0 and burst.used:
                assert lanes[burst] == burst.lane
            lanes[burst] = burst.lane
        rig.land()


def test_without_bursts_there_is_no_tick():
    rig = Rig()
    assert rig.start() is None
    burst = rig.think(1, 1)
    rig.scheduler.suspend(burst)
    assert rig.start() is None


def test_there_is_one_tick_at_a_time():
    rig = Rig()
    rig.think(1, 5)
    assert rig.start()
    rig.think(1, 5)
    assert rig.start() is None
    rig.land()
    assert len(rig.start().rows) == 2


@pytest.mark.parametrize(("late", "tokens"), [(1, [None]), (0, []), (0, [None, None])], ids=["serial", "few", "many"])
def test_an_answer_for_another_tick_is_a_bug(late, tokens):
    rig = Rig()
    rig.think(1, 5)
    tick = rig.start()
    with pytest.raises(KernelBug, match="in flight"):
        rig.scheduler.done(tick.serial + late, tokens)


# ---- prompts


def test_prompts_share_the_prefill_budget_in_the_order_of_the_gang():
    rig = Rig(prefill=64, lanes=3)
    for prompt in (40, 40, 40):
        rig.think(prompt, 8)
    ticks = [rig.start()]
    rig.land()
    ticks.append(rig.start())
    assert [fed(tick) for tick in ticks] == [[40, 24], [1, 16, 40]]
    assert [row.sampling is None for row in ticks[0].rows] == [False, True]


@pytest.mark.parametrize("prefill", [1, 7, 64])
def test_a_tick_feeds_at_most_the_prefill_budget_and_one_token_for_each_other_lane(prefill):
    rig = Rig(prefill=prefill, lanes=4, frames=128)
    for n in range(12):
        rig.think(30 * n + 1, 10)
    while tick := rig.start():
        chunks = [n for n in fed(tick) if n > 1]
        assert sum(chunks) <= prefill
        assert sum(fed(tick)) <= prefill + 4
        rig.land()


@pytest.mark.parametrize("prefill", [1, 7, 64])
def test_in_each_tick_a_prompt_moves_on_by_at_least_a_chunk(prefill):
    rig = Rig(prefill=prefill, lanes=4)
    bursts = [rig.think(150, 4) for _ in range(4)]
    while any(burst.ctx.computed < 150 for burst in bursts):
        before = sum(burst.ctx.computed for burst in bursts)
        short = sum(150 - burst.ctx.computed for burst in bursts if not burst.generated)
        rig.tick()
        assert sum(burst.ctx.computed for burst in bursts) - before >= min(prefill, short)


def test_a_burst_that_decodes_samples_in_every_tick_whatever_prompts_arrive():
    rig = Rig(FCFS(), prefill=8, lanes=4, frames=256)
    reader = rig.think(1, 60)
    for n in range(60):
        if n % 10 == 1:
            rig.think(200, 2)
        rig.tick()
        assert reader.generated == n + 1


def test_a_burst_that_gets_no_frames_leaves_the_prefill_budget_to_the_others():
    rig = Rig(frames=8, lanes=3)
    decoder, large, small = rig.think(64, 10), rig.think(60, 20), rig.think(10, 10)
    rig.tick()
    tick = rig.start()
    assert in_lane(decoder, large, small) == [True, False, True]
    assert fed(tick) == [1, 10]


# ---- another policy


def test_a_new_policy_orders_thousands_who_wait():
    rig = Rig(FCFS(), lanes=4, frames=1000, check=False)
    bursts = [rig.think(1, 1, nice=(7 * n) % 40 - 20) for n in range(3000)]
    ended = [*rig.tick(), *rig.tick()]
    assert ended == bursts[:8]
    rig.scheduler.set_policy(Priority(age=10_000))
    rig.scheduler.check()
    assert len(list(rig.scheduler.bursts())) == rig.scheduler.waiting == 2992
    for _ in range(10):
        ended += rig.tick()
    assert [burst.nice for burst in ended[8:]] == [-20] * 40
    rig.scheduler.set_policy(RR())
    rig.scheduler.check()
    ended += rig.tick()
    assert ended[-4:] == [b for b in bursts if b not in ended[:-4]][:4]
    rig.scheduler.set_policy(Priority(age=10_000))
    ended += rig.run()
    assert len(ended) == 3000
    assert [b.nice for b in ended[52:]] == sorted(b.nice for b in ended[52:])


def test_a_new_policy_takes_no_lane_from_an_equal():
    rig = Rig(FCFS())
    bursts = [rig.think(1, 12) for _ in range(4)]
    rig.tick()
    for policy in (RR(), Priority(), FCFS(), Priority(8), RR(8)):
        rig.scheduler.set_policy(policy)
        rig.tick()
        assert in_lane(*bursts) == [True, True, False, False]


def test_a_new_policy_holds_for_who_runs_from_the_next_tick_on():
    rig = Rig(FCFS(), lanes=1)
    first, second = rig.think(1, 40), rig.think(1, 40, nice=-1)
    for _ in range(10):
        rig.tick()
    rig.scheduler.set_policy(Priority())
    rig.tick()
    assert in_lane(first, second) == [False, True]
    rig.scheduler.set_policy(RR(4))
    for _ in range(4):
        rig.tick()
    assert in_lane(first, second) == [True, False]
    rig.run()


# ---- counters


def test_a_switch_is_counted_only_if_the_lane_changes_hands():
    rig = Rig(Priority(4), lanes=1)
    rig.think(1, 12, nice=-20)
    rig.think(1, 4)
    rig.run()
    assert rig.mmu.counters.switches == 0
    rig = Rig(RR(4), lanes=1)
    rig.think(1, 12)
    rig.think(1, 8)
    rig.run()
    assert rig.mmu.counters.switches == 3


def test_the_counters_agree_with_the_ticks():
    rig = Rig(RR(3), frames=8, lanes=3, prefill=16)
    for n in range(6):
        rig.think(5 + 10 * n, 9)
    ticks = []
    while tick := rig.start():
        ticks.append(tick)
        rig.land()
    counters = rig.mmu.counters
    assert counters.ticks == len(ticks)
    assert counters.rows == sum(len(tick.rows) for tick in ticks)
    assert counters.fed == sum(sum(fed(tick)) for tick in ticks)
    assert counters.copies == sum(len(tick.copies) for tick in ticks)
