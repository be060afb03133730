"""The scheduler alone: bursts made by hand, a toy machine, and an oracle that knows what every burst has to say."""

import math
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.context import Context
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Sampling
from tokix.kernel.frames import FRAME, FramePool
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.kernel.scheduler import PATIENCE, Burst, Scheduler

POLICIES = [FCFS, RR, Priority, lambda: RR(3), lambda: Priority(4, 2)]
NAMES = ["FCFS", "RR", "PRIORITY", "RR(3)", "PRIORITY(4, 2)"]


class Rig:
    """What a kernel does with a scheduler and a machine, without processes.

    The tokens of every burst that ends are compared with the oracle's.
    """

    def __init__(self, policy=None, *, frames=64, lanes=2, prefill=64, ends=False, check=True):
        self.machine = ToyMachine(frames, frames * FRAME, ends=ends)
        self.scheduler = Scheduler(FramePool(frames), policy or RR(), lanes, prefill, self.machine.stops)
        self.contexts, self.serial = [], count()
        self.check = self.scheduler.check if check else lambda: None

    def context(self):
        self.contexts.append(Context())
        return self.contexts[-1]

    def think(self, prompt, tokens, *, ctx=None, nice=0, owner=None, watched=False):
        """Start a burst of so many tokens after a prompt of so many, in a context of its own if none is given."""
        n, ctx = next(self.serial), ctx or self.context()
        base = len(ctx.tokens)
        ctx.tokens += [97 + (7 * n + i * i) % 26 for i in range(prompt)]
        if ctx.computed >= len(ctx.tokens):
            self.scheduler.trim(ctx, len(ctx.tokens) - 1)
        burst = Burst(
            key=f"burst {n}",
            owner=n if owner is None else owner,
            ctx=ctx,
            sampling=Sampling(f"stream {n % 3}", 0.8),
            nice=nice,
            base=base,
            prompt=base + prompt,
            end=base + prompt + tokens,
            watched=watched,
        )
        self.scheduler.add(burst)
        return burst

    def start(self):
        """Form a tick; it flies until `land`."""
        tick = self.scheduler.form()
        self.check()
        return tick

    def land(self):
        """The machine has done the tick; gives the bursts that end with it."""
        tick, ended = self.scheduler.tick, list[Burst]()
        assert tick
        for burst, token in self.scheduler.done(tick.serial, self.machine.run(tick)):
            if token in self.machine.stops or len(burst.ctx.tokens) >= burst.end:
                self.verify(burst)
                self.scheduler.finish(burst)
                ended.append(burst)
        self.check()
        return ended

    def verify(self, burst):
        tokens, first = burst.ctx.tokens, burst.prompt
        assert tokens[first:] == self.machine.continuation(tokens[:first], burst.sampling, burst.end - first)

    def tick(self):
        """One tick from start to end; gives the bursts that end with it."""
        return self.land() if self.start() else []

    def run(self, limit=10_000):
        """Tick until nothing is left to do; gives the bursts in the order in which they end."""
        ended = list[Burst]()
        for _ in range(limit):
            if not self.start():
                return ended
            ended += self.land()
        raise AssertionError(f"after {limit} ticks there are still {len(list(self.scheduler.bursts()))} bursts")

    def free(self):
        return len(self.scheduler.pool.free)

    def empty(self):
        """Assert that nothing leaks: without contexts, all frames are free."""
        for ctx in self.contexts:
            self.scheduler.release(ctx)
        self.scheduler.check()
        assert not self.scheduler.resident
        assert self.free() == self.scheduler.pool.total


def fed(tick):
    """The tokens that each row of a tick feeds."""
    return [len(row.feed) for row in tick.rows]


def seats(rig):
    return {burst.key: burst.lane for burst in rig.scheduler.gang}


def in_lane(*bursts):
    return [burst.lane >= 0 for burst in bursts]


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


# ---- copy on write


def test_two_forks_diverge_and_each_says_what_it_would_say_alone():
    rig = Rig(lanes=3)
    rig.think(21, 6)
    rig.run()
    [trunk] = rig.contexts
    common = trunk.tokens.copy()
    twins = [rig.scheduler.fork(trunk) for _ in range(2)]
    rig.contexts += twins
    assert rig.free() == rig.scheduler.pool.total - 2, "nothing is copied before it is written"
    bursts = [rig.think(n + 1, 20, ctx=ctx) for n, ctx in enumerate([trunk, *twins])]
    rig.run()  # and each is compared with the oracle
    said = {tuple(burst.ctx.tokens[burst.prompt :]) for burst in bursts}
    assert len(said) == 3
    assert all(ctx.tokens[: len(common)] == common for ctx in rig.contexts)
    assert rig.scheduler.counters.copies >= 2
    assert len({ctx.table[0] for ctx in rig.contexts}) == 1, "the frame that nobody wrote is still shared"
    rig.empty()


def test_a_fork_at_the_border_of_a_frame_copies_nothing():
    rig = Rig()
    rig.think(2 * FRAME, 1)
    rig.run()
    [trunk] = rig.contexts
    assert trunk.computed == 2 * FRAME
    twin = rig.scheduler.fork(trunk)
    rig.contexts.append(twin)
    rig.think(1, 5, ctx=trunk)
    rig.think(2, 5, ctx=twin)
    rig.run()
    assert rig.scheduler.counters.copies == 0
    assert trunk.table[:2] == twin.table[:2]
    rig.empty()


def test_a_chain_of_forks_survives_the_end_of_its_middle():
    rig = Rig(lanes=1)
    rig.think(20, 3)
    rig.run()
    for _ in range(4):
        rig.contexts.append(rig.scheduler.fork(rig.contexts[-1]))
        rig.think(2, 5, ctx=rig.contexts[-1])
        rig.tick()
        rig.run()
    rig.scheduler.release(rig.contexts.pop(2))
    for ctx in rig.contexts:
        rig.think(1, 4, ctx=ctx)
    rig.run()
    rig.empty()


def test_a_frame_with_two_users_is_never_written():
    rig = Rig(lanes=4, prefill=5)
    rig.think(30, 4)
    rig.run()
    [trunk] = rig.contexts
    rig.contexts += [rig.scheduler.fork(trunk) for _ in range(3)]
    for n, ctx in enumerate(rig.contexts):
        rig.think(n + 1, 25, ctx=ctx)
    while tick := rig.start():
        written = [row.table[at // FRAME] for row in tick.rows for at in range(row.start, row.start + len(row.feed))]
        users = [frame for ctx in rig.scheduler.resident for frame in ctx.table]
        assert all(users.count(frame) == 1 for frame in written)
        assert not {frame for frame, _ in tick.copies} & set(written)
        rig.land()


# ---- frames in flight


def test_the_frames_of_a_tick_in_flight_are_not_free_before_it_is_done():
    rig = Rig(frames=4)
    burst = rig.think(40, 8)
    tick = rig.start()
    rig.scheduler.withdraw(burst)
    rig.scheduler.check()
    assert burst.ctx.tokens == burst.ctx.table == []
    assert not set(tick.rows[0].table) & set(rig.scheduler.pool.free)
    again = rig.think(50, 8)
    assert rig.start() is None
    rig.land()
    assert rig.free() == 4
    assert rig.run() == [again]
    rig.empty()


def test_a_context_can_be_used_again_while_the_tick_of_its_last_burst_flies():
    rig = Rig()
    rig.think(20, 4)
    rig.run()
    [ctx] = rig.contexts
    tokens = ctx.tokens.copy()
    lost = rig.think(30, 10, ctx=ctx)
    rig.start()
    rig.scheduler.withdraw(lost)
    assert ctx.tokens == tokens
    kept = rig.think(3, 10, ctx=ctx)
    assert rig.land() == []
    assert kept.generated == 0, "the token of the tick was for the burst that is gone"
    assert rig.run() == [kept]
    rig.empty()


def test_a_fork_of_a_context_whose_tick_flies_does_not_see_what_the_tick_writes():
    rig = Rig()
    rig.think(20, 4)
    rig.run()
    [ctx] = rig.contexts
    lost = rig.think(40, 10, ctx=ctx)
    rig.start()
    rig.scheduler.withdraw(lost)
    rig.contexts.append(rig.scheduler.fork(ctx))
    rig.scheduler.release(ctx)
    rig.scheduler.check()
    rig.land()
    rig.think(2, 9, ctx=rig.contexts[1])
    rig.think(2, 9, ctx=ctx)
    rig.run()
    rig.empty()


def test_a_burst_suspended_in_flight_still_gets_its_token():
    rig = Rig()
    burst = rig.think(5, 4)
    rig.tick()
    rig.start()
    rig.scheduler.suspend(burst)
    rig.land()
    assert burst.generated == 2
    assert rig.start() is None
    rig.scheduler.wake(burst)
    assert rig.run() == [burst]
    rig.empty()


# ---- pressure


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_more_bursts_than_frames_all_finish_and_say_the_same(policy, lanes):
    rig = Rig(policy(), frames=6, lanes=lanes, prefill=24)
    bursts = [rig.think(1 + 11 * n % 60, 10 + n % 20, nice=n % 3) for n in range(20)]
    assert set(rig.run()) == set(bursts)
    assert lanes == 1 or rig.scheduler.counters.drops > 0
    rig.empty()


def test_what_lost_its_frames_computes_them_again():
    rig = Rig(RR(4), frames=4, lanes=1)
    bursts = [rig.think(33, 20), rig.think(40, 20)]
    while rig.start():
        rig.land()
    assert not any(burst.alive for burst in bursts)
    assert rig.scheduler.counters.drops >= 4
    assert rig.scheduler.counters.fed > 33 + 40 + 40


def test_one_burst_can_have_every_frame():
    rig = Rig(frames=5, lanes=4)
    others = [rig.think(30, 3) for _ in range(3)]
    rig.run()
    burst = rig.think(5 * FRAME - 10, 10)
    assert rig.run() == [burst]
    assert len(burst.ctx.table) == 5
    assert not any(other.ctx.table for other in others)
    rig.empty()


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
@pytest.mark.parametrize("size", [9, 10])
def test_a_burst_that_needs_nearly_all_frames_is_not_starved(policy, size):
    """Others pass it for PATIENCE ticks; then the lanes drain, which takes a turn of a small one; then its prompt."""
    frames, prefill, length = 10, 32, 12
    rig = Rig(policy(), frames=frames, lanes=4, prefill=prefill)
    smalls = [rig.think(20, length) for _ in range(8)]
    for _ in range(5):
        rig.tick()
    large = rig.think(size * FRAME - 8, 4)
    turn = min(length, rig.scheduler.policy.quantum)
    bound = PATIENCE + turn + math.ceil(20 / prefill) + math.ceil(large.end / prefill)
    for waited in count(1):
        smalls = [b for b in smalls if b.alive] + [rig.think(20, length) for b in smalls if not b.alive]
        rig.tick()
        if large.generated:
            break
        assert waited <= bound
    rig.run()
    rig.empty()


@pytest.mark.parametrize("size", [9, 10])
def test_the_least_of_all_gets_nearly_all_frames_in_the_end(size):
    """Nice 19 and nearly all frames, while there is always a newcomer with nice −20 that wants one."""
    rig = Rig(Priority(8, 2), frames=10, lanes=4)
    large = rig.think(size * FRAME - 8, 4, nice=19)
    small = [rig.think(5, 6, nice=-20) for _ in range(4)]
    bound = 39 * 2 + PATIENCE + 8 + 3
    for waited in count(1):
        small = [b if b.alive else rig.think(5, 6, nice=-20) for b in small]
        rig.tick()
        if not large.alive:
            break
        assert waited <= bound
    rig.run()


def test_a_lane_that_is_lost_for_want_of_frames_goes_to_somebody_who_fits():
    rig = Rig(FCFS(), frames=4)
    first, second, third = rig.think(20, 28), rig.think(17, 20), rig.think(2, 4)
    while second.lane >= 0 or not second.generated:
        rig.tick()
    assert in_lane(first, second, third) == [True, False, False]
    rig.tick()
    assert in_lane(first, second, third) == [True, False, True]
    rig.run()


def test_frames_that_a_better_one_leaves_over_give_a_lane_in_the_next_tick():
    rig = Rig(FCFS(), frames=4)
    first, second = rig.think(16, 30), rig.think(17, 20)
    rig.tick()
    rig.tick()
    rig.scheduler.suspend(second)
    rig.scheduler.wake(second)
    third = rig.think(2, 4)
    while second.ctx.table:  # until the first one takes both, and needs one
        rig.tick()
        assert in_lane(first, second, third) == [True, False, False]
    rig.tick()
    assert in_lane(first, second, third) == [True, False, True]
    rig.run()


def test_frames_of_one_that_ends_give_a_lane_in_the_next_tick_to_who_found_none():
    rig = Rig(FCFS(), frames=8, lanes=3)
    first, large, last = rig.think(64, 10), rig.think(60, 20), rig.think(10, 30)
    rig.tick()
    while first.alive:
        rig.tick()
        assert in_lane(large, last) == [False, True]
    rig.tick()
    assert in_lane(large, last) == [True, True]
    rig.run()


def test_a_frame_that_both_forks_have_copied_gives_a_lane_when_the_tick_is_done():
    rig = Rig(FCFS(), frames=5, lanes=3)
    rig.think(20, 1)
    rig.run()
    rig.contexts.append(rig.scheduler.fork(rig.contexts[0]))
    forks = [rig.think(1, 10, ctx=ctx) for ctx in rig.contexts]
    waiting = rig.think(17, 4)
    rig.start()
    assert in_lane(*forks, waiting) == [True, True, False]
    rig.land()
    assert rig.free() == 2
    rig.start()
    assert in_lane(*forks, waiting) == [True, True, True]
    rig.land()
    rig.run()


@pytest.mark.parametrize("policy", POLICIES, ids=NAMES)
def test_the_first_of_the_queue_can_have_its_frames_after_stop_and_cont(policy):
    """STOP and CONT change who came last, but not, under FCFS, who is served first."""
    rig = Rig(policy(), frames=5, lanes=3, prefill=32)
    early = [rig.think(2, 1), rig.think(2, 1)]
    for burst in early:
        rig.scheduler.suspend(burst)
    holder = rig.think(79, 1)
    rig.think(40, 1)
    rig.think(40, 1)
    rig.tick()
    rig.tick()
    rig.scheduler.suspend(holder)
    for burst in (holder, *early):
        rig.scheduler.wake(burst)
    assert len(rig.run()) == 5


# ---- whose frames


@pytest.fixture
def crowd():
    """Two that run and two that wait, each with one frame, and two idle contexts with one each."""
    rig = Rig(Priority(quantum=100), frames=8)
    for _ in range(2):
        rig.think(5, 1)
    rig.run()
    waiting = [rig.think(5, 50, nice=nice) for nice in (4, 3)]
    rig.tick()
    running = [rig.think(5, 50, nice=nice) for nice in (1, 2)]
    rig.tick()
    assert in_lane(*running, *waiting) == [True, True, False, False]
    return rig, running, waiting


def test_victims_are_the_idle_then_who_waits_then_the_rest_of_the_gang_the_worst_first(crowd):
    rig, running, waiting = crowd
    expected = [*rig.contexts[:2], waiting[0].ctx, waiting[1].ctx, running[1].ctx]
    assert list(rig.scheduler.victims(running[0])) == expected
    assert list(rig.scheduler.victims(running[1])) == expected[:4]


def test_of_the_gang_the_worst_loses_its_frames_first_whoever_came_first():
    rig = Rig(Priority(quantum=100), lanes=4)
    bursts = []
    for nice in (2, 0, 3, 1):
        bursts.append(rig.think(5, 50, nice=nice))
        rig.tick()
    by_nice = sorted(bursts, key=lambda burst: burst.nice)
    for place, burst in enumerate(by_nice):
        assert list(rig.scheduler.victims(burst)) == [b.ctx for b in by_nice[:place:-1]]


def test_under_fcfs_who_came_first_takes_frames_from_who_came_later_whoever_woke_last():
    rig = Rig(FCFS(), lanes=2)
    first, second = rig.think(5, 50), rig.think(5, 50)
    rig.tick()
    rig.scheduler.suspend(first)
    rig.tick()
    rig.scheduler.wake(first)
    rig.tick()
    assert list(rig.scheduler.victims(first)) == [second.ctx]
    assert list(rig.scheduler.victims(second)) == []


def test_idle_contexts_go_in_the_order_of_their_last_use(crowd):
    rig, running, _ = crowd
    rig.scheduler.withdraw(rig.think(1, 5, ctx=rig.contexts[0], nice=-20))
    assert next(rig.scheduler.victims(running[0])) is rig.contexts[0], "what never had a lane is not used"
    again = rig.think(1, 1, ctx=rig.contexts[0], nice=-20)
    rig.tick()
    assert not again.alive
    assert [*rig.scheduler.victims(running[0])][:2] == [rig.contexts[1], rig.contexts[0]]


def test_a_suspended_burst_counts_as_idle(crowd):
    rig, running, waiting = crowd
    rig.scheduler.suspend(waiting[1])
    assert set(list(rig.scheduler.victims(running[0]))[:3]) == {*rig.contexts[:2], waiting[1].ctx}


def test_room_takes_no_more_than_it_needs(crowd):
    rig, running, waiting = crowd
    scheduler, burst = rig.scheduler, running[0]
    assert rig.free() == 2
    assert scheduler.room(burst, 6, 3 * FRAME)
    assert scheduler.counters.drops == 0
    assert scheduler.room(burst, 6, 5 * FRAME)
    assert [bool(ctx.table) for ctx in rig.contexts[:2]] == [False, False]
    assert scheduler.room(burst, 6, 6 * FRAME)
    assert [bool(b.ctx.table) for b in waiting] == [False, True]
    assert scheduler.room(burst, 6, 8 * FRAME)
    assert not running[1].ctx.table
    assert in_lane(*running) == [True, False]
    assert running[1].ticket >= 0
    assert scheduler.counters.drops == 5


def test_nobody_loses_frames_to_a_burst_that_comes_after(crowd):
    rig, running, _ = crowd
    assert not rig.scheduler.room(running[1], 6, 8 * FRAME)
    assert running[0].ctx.table
    assert running[0].lane >= 0
    rig.run()


def test_nobody_loses_frames_in_vain():
    rig = Rig(FCFS(), frames=9, lanes=4)
    first, second, large, last = rig.think(1, 40), rig.think(1, 40), rig.think(128, 4), rig.think(1, 20)
    rig.tick()
    assert rig.free() == 2
    rig.tick()  # the next chunk of the large one takes four frames, and the last one has one
    assert in_lane(first, second, large, last) == [True, True, False, True]
    assert rig.scheduler.counters.drops == 0
    assert last.generated == 2
    rig.run()


def test_who_waits_loses_frames_to_a_better_one_only():
    rig = Rig(Priority(quantum=100), frames=4, lanes=1)
    other = rig.think(20, 20)
    rig.tick()
    rig.scheduler.suspend(other)
    running = rig.think(20, 20, nice=1)
    rig.tick()
    rig.scheduler.wake(other)
    assert list(rig.scheduler.victims(running)) == []
    rig.scheduler.renice(other, 2)
    assert list(rig.scheduler.victims(running)) == [other.ctx]


# ---- suspend, wake, renice, withdraw


def test_suspend_and_wake_change_no_token():
    rig = Rig(RR(3), frames=8)
    bursts = [rig.think(12, 25) for _ in range(4)]
    for n in range(60):
        burst = bursts[n % 4]
        if burst.alive:
            rig.scheduler.suspend(burst)
            rig.tick()
            assert burst.lane == burst.ticket == -1
            rig.scheduler.wake(burst)
        rig.tick()
    rig.run()
    assert not any(burst.alive for burst in bursts)
    rig.empty()


def test_who_wakes_goes_to_the_end_of_the_queue():
    rig = Rig(RR(), lanes=1)
    first, second, third = (rig.think(1, 4) for _ in range(3))
    rig.scheduler.suspend(first)
    rig.scheduler.wake(first)
    assert rig.run() == [second, third, first]


def test_under_fcfs_who_wakes_has_the_place_of_its_arrival():
    rig = Rig(FCFS(), lanes=1)
    first, second, third = (rig.think(1, 4) for _ in range(3))
    rig.scheduler.suspend(second)
    rig.tick()
    rig.scheduler.wake(second)
    assert rig.run() == [first, second, third]


def test_a_suspended_burst_keeps_its_frames_while_nobody_needs_them():
    rig = Rig(frames=4, lanes=1)
    burst = rig.think(20, 10)
    rig.tick()
    rig.scheduler.suspend(burst)
    rig.think(20, 1)
    rig.run()
    assert burst.ctx.computed == 20
    rig.think(40, 1)
    rig.run()
    assert burst.ctx.computed == 0
    rig.scheduler.wake(burst)
    assert rig.run() == [burst]


def test_withdraw_restores_the_context_wherever_the_burst_is():
    for when in ("queued", "running", "flying", "suspended"):
        rig = Rig(lanes=1)
        rig.think(20, 5)
        rig.run()
        [ctx] = rig.contexts
        tokens, computed = ctx.tokens.copy(), ctx.computed
        if when == "queued":
            rig.think(1, 50)
            rig.tick()
        burst = rig.think(15, 10, ctx=ctx)
        if when in ("running", "suspended"):
            rig.tick()
            rig.tick()
        if when == "suspended":
            rig.scheduler.suspend(burst)
        if when == "flying":
            rig.start()
        rig.scheduler.withdraw(burst)
        assert (ctx.tokens, ctx.burst, burst.alive) == (tokens, None, False)
        assert ctx.computed in (computed, len(tokens))
        if when == "flying":
            rig.land()
        rig.think(3, 8, ctx=ctx)
        rig.run()
        rig.empty()


def test_renice_moves_a_burst_that_waits():
    rig = Rig(Priority(), lanes=1)
    running, *waiting = (rig.think(1, 4) for _ in range(4))
    rig.tick()
    rig.scheduler.renice(waiting[2], -1)
    rig.scheduler.renice(waiting[0], 1)
    assert rig.run() == [waiting[2], running, waiting[1], waiting[0]]


def test_renice_takes_the_lane_of_a_burst_that_runs_if_a_better_one_waits():
    rig = Rig(Priority(), lanes=1)
    running, waiting = rig.think(1, 10), rig.think(1, 10, nice=5)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(running, 4)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(running, 6)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_gives_no_lane_to_one_that_has_only_waited():
    rig = Rig(Priority(quantum=100, age=2), lanes=1)
    running, waiting = rig.think(1, 50), rig.think(1, 10, nice=3)
    for _ in range(20):
        rig.tick()
    rig.scheduler.renice(waiting, 0)
    rig.tick()
    assert in_lane(running, waiting) == [True, False]
    rig.scheduler.renice(waiting, -1)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_counts_no_time_that_a_burst_has_run():
    rig = Rig(Priority(), lanes=1)
    running = rig.think(1, 500)
    for _ in range(390):
        rig.tick()
    waiting = rig.think(1, 10)
    rig.scheduler.renice(running, 19)
    rig.tick()
    assert in_lane(running, waiting) == [False, True]


def test_renice_of_a_suspended_burst_holds_when_it_wakes():
    rig = Rig(Priority(), lanes=1)
    first, second = rig.think(1, 4), rig.think(1, 4)
    rig.scheduler.suspend(second)
    rig.scheduler.renice(second, -3)
    assert second.ticket == -1
    rig.scheduler.wake(second)
    assert rig.run() == [second, first]


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
    assert rig.scheduler.counters.switches == 0
    rig = Rig(RR(4), lanes=1)
    rig.think(1, 12)
    rig.think(1, 8)
    rig.run()
    assert rig.scheduler.counters.switches == 3


def test_the_counters_agree_with_the_ticks():
    rig = Rig(RR(3), frames=8, lanes=3, prefill=16)
    for n in range(6):
        rig.think(5 + 10 * n, 9)
    ticks = []
    while tick := rig.start():
        ticks.append(tick)
        rig.land()
    counters = rig.scheduler.counters
    assert counters.ticks == len(ticks)
    assert counters.rows == sum(len(tick.rows) for tick in ticks)
    assert counters.fed == sum(sum(fed(tick)) for tick in ticks)
    assert counters.copies == sum(len(tick.copies) for tick in ticks)


# ---- the integrity check


def lost_frame(s):
    s.pool.free.pop()


def frame_free_twice(s):
    s.pool.free.append(s.pool.free[0])


def free_frame_in_use(s):
    s.pool.free[0] = s.gang[0].ctx.table[0]


def wrong_reference_count(s):
    s.pool.uses[s.gang[0].ctx.table[0]] += 1


def frame_of_somebody_else(s):
    s.gang[0].ctx.table[0] = s.gang[1].ctx.table[0]


def frame_too_few(s):
    s.pool.drop([s.gang[0].ctx.table.pop()])


def frame_too_many(s):
    s.gang[0].ctx.table += s.pool.take(1)


def computed_too_far(s):
    s.gang[0].ctx.computed += FRAME


def stale_view(s):
    s.gang[0].ctx.view = (*s.gang[0].ctx.table[:-1], s.pool.free[0])


def context_not_listed(s):
    del s.resident[s.gang[0].ctx]


def context_without_frames(s):
    s.resident[Context()] = None


def forgotten_limbo(s):
    s.limbo.append(s.pool.free[0])


def empty_lane(s):
    s.slots[0] = None


def lane_of_nobody(s):
    s.gang.pop()


def two_in_a_lane(s):
    s.gang[0].lane = s.gang[1].lane


def lanes_exchanged(s):
    s.gang[0].lane, s.gang[1].lane = s.gang[1].lane, s.gang[0].lane


def ended_in_a_lane(s):
    s.gang[0].alive = False


def in_a_lane_and_in_the_queue(s):
    s.enqueue(s.gang[0])


def unknown_to_its_context(s):
    s.gang[0].ctx.burst = None


def miscounted_queue(s):
    s.waiting += 1


def stale_ticket(s):
    s.queue[0][2].ticket = -1


def lost_place(s):
    s.queue.pop()


CORRUPTIONS = [
    lost_frame,
    frame_free_twice,
    free_frame_in_use,
    wrong_reference_count,
    frame_of_somebody_else,
    frame_too_few,
    frame_too_many,
    computed_too_far,
    stale_view,
    context_not_listed,
    context_without_frames,
    forgotten_limbo,
    empty_lane,
    lane_of_nobody,
    two_in_a_lane,
    lanes_exchanged,
    ended_in_a_lane,
    in_a_lane_and_in_the_queue,
    unknown_to_its_context,
    miscounted_queue,
    stale_ticket,
    lost_place,
]


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_check_notices(corruption):
    rig = Rig(frames=16)
    for _ in range(4):
        rig.think(20, 9)
    rig.tick()
    rig.scheduler.check()
    corruption(rig.scheduler)
    with pytest.raises(KernelBug):
        rig.scheduler.check()


@pytest.mark.parametrize("copied", [False, True], ids=["named by a row", "copied from"])
def test_check_notices_a_free_frame_that_the_tick_in_flight_names(copied):
    rig = Rig(frames=16)
    rig.think(20, 2)
    rig.run()
    [ctx] = rig.contexts
    rig.contexts.append(rig.scheduler.fork(ctx))
    rig.think(1, 9, ctx=ctx)
    tick = rig.start()
    if copied:
        rig.scheduler.release(rig.contexts[1])
        [frame] = rig.scheduler.limbo
        assert tick.copies[0][0] == frame
        rig.scheduler.limbo.clear()
    else:
        ctx.flying = False
        [frame] = ctx.table[1:]
        rig.scheduler.trim(ctx, FRAME)
    rig.scheduler.pool.drop([frame] if copied else [])
    with pytest.raises(KernelBug, match="in flight"):
        rig.scheduler.check()


# ---- random schedules


class RandomSchedule(RuleBasedStateMachine):
    """Whatever happens in whatever order: the tokens are the oracle's, the structures are sound, nothing leaks."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        frames=st.sampled_from([5, 8, 16]),
        lanes=st.integers(1, 4),
        prefill=st.sampled_from([3, 16, 64]),
        ends=st.booleans(),
    )
    def boot(self, policy, frames, lanes, prefill, ends):
        self.rig = Rig(policy(), frames=frames, lanes=lanes, prefill=prefill, ends=ends)
        self.scheduler, self.capacity = self.rig.scheduler, frames * FRAME
        self.live, self.asleep = [], []

    def idle(self):
        return [ctx for ctx in self.rig.contexts if not ctx.burst]

    def flies(self):
        return bool(self.scheduler.flying)

    def forget(self, burst):
        for bursts in (self.live, self.asleep):
            if burst in bursts:
                bursts.remove(burst)

    @precondition(lambda self: len(self.live) + len(self.asleep) < 8)
    @rule(
        old=st.none() | st.integers(0, 9),
        prompt=st.integers(1, 20) | st.integers(1, 16 * FRAME),
        tokens=st.integers(1, 40),
        nice=st.sampled_from([0, 0, -20, 19, 3]),
        owner=st.integers(0, 3),
        watched=st.booleans(),
    )
    def think(self, old, prompt, tokens, nice, owner, watched):
        idle = self.idle()
        ctx = idle[old % len(idle)] if old is not None and idle else None
        room = self.capacity - (len(ctx.tokens) if ctx else 0)
        if room >= 2:
            prompt = min(prompt, room - 1)
            tokens = min(tokens, room - prompt)
            owner = owner if owner not in {b.owner for b in self.live + self.asleep} else None
            self.live.append(self.rig.think(prompt, tokens, ctx=ctx, nice=nice, owner=owner, watched=watched))

    @precondition(lambda self: self.idle() and len(self.rig.contexts) < 12)
    @rule(pick=st.integers(0, 11))
    def fork(self, pick):
        idle = self.idle()
        self.rig.contexts.append(self.scheduler.fork(idle[pick % len(idle)]))

    @precondition(lambda self: self.idle())
    @rule(pick=st.integers(0, 11))
    def release(self, pick):
        idle = self.idle()
        self.scheduler.release(idle[pick % len(idle)])

    @precondition(lambda self: self.live + self.asleep)
    @rule(pick=st.integers(0, 7))
    def withdraw(self, pick):
        bursts = self.live + self.asleep
        burst = bursts[pick % len(bursts)]
        self.scheduler.withdraw(burst)
        self.forget(burst)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 7))
    def suspend(self, pick):
        burst = self.live.pop(pick % len(self.live))
        self.scheduler.suspend(burst)
        self.asleep.append(burst)

    @precondition(lambda self: self.asleep)
    @rule(pick=st.integers(0, 7))
    def wake(self, pick):
        burst = self.asleep.pop(pick % len(self.asleep))
        self.scheduler.wake(burst)
        self.live.append(burst)

    @precondition(lambda self: self.live + self.asleep)
    @rule(pick=st.integers(0, 7), nice=st.integers(-20, 19))
    def renice(self, pick, nice):
        bursts = self.live + self.asleep
        self.scheduler.renice(bursts[pick % len(bursts)], nice)

    @rule(policy=st.sampled_from(POLICIES))
    def set_policy(self, policy):
        self.scheduler.set_policy(policy())

    @precondition(lambda self: not self.flies())
    @rule()
    def start(self):
        assert bool(self.rig.start()) == bool(self.live), "who is not asleep can run"

    @precondition(lambda self: self.flies())
    @rule()
    def land(self):
        for burst in self.rig.land():
            self.forget(burst)

    @rule(ticks=st.integers(1, 20))
    def go_on(self, ticks):
        for _ in range(ticks):
            if self.flies():
                self.land()
            self.rig.start()

    @invariant()
    def sound(self):
        if hasattr(self, "rig"):
            self.scheduler.check()
            assert set(self.scheduler.bursts()) == set(self.live)

    def teardown(self):
        if not hasattr(self, "rig"):
            return
        while self.asleep:
            self.wake(0)
        if self.flies():
            self.land()
        for burst in self.rig.run(5000):
            self.forget(burst)
        assert not self.live
        self.rig.empty()


TestRandomSchedule = RandomSchedule.TestCase
TestRandomSchedule.settings = settings(derandomize=True, deadline=None, max_examples=100, stateful_step_count=50)
