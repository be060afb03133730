"""FAIR and MIXED: groups share the machine, and inside of a group somebody goes first."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rig import Rig, in_lane
from tokix.kernel.family import Family, Group
from tokix.kernel.policy import DEBT, FAIR, RR, Mixed

deterministic = settings(derandomize=True, deadline=None, max_examples=40)
NEVER = 1 << 40


def family(number, group=None):
    return Family(number, group or Group(number))


def crowd(rig, sizes, tokens=3000, **more):
    """Groups of so many bursts each, which never end here; gives the bursts of each."""
    groups = [Group(n + 1) for n in range(len(sizes))]
    serial = count(100)
    return [
        [rig.think(1, tokens, family=family(next(serial), group), **more) for _ in range(size)]
        for group, size in zip(groups, sizes, strict=True)
    ]


def had(groups):
    return [sum(burst.generated for burst in bursts) for bursts in groups]


@deterministic
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    lanes=st.integers(1, 3),
    quantum=st.integers(1, 20),
    mixed=st.booleans(),
)
def test_groups_that_want_more_than_their_share_get_the_same(sizes, lanes, quantum, mixed):
    """Whatever their sizes. Context makes a token dearer, here by up to two fifths, and turns are in advance."""
    rig = Rig(Mixed(quantum, NEVER) if mixed else FAIR(quantum), lanes=lanes, frames=2048, check=False)
    groups = crowd(rig, [size + lanes - 1 for size in sizes])
    for _ in range(300):
        rig.tick()
        shares = had(groups)
        assert max(shares) - min(shares) <= 2 * lanes * quantum + 0.4 * max(shares)
    costs = [bursts[0].family.group.served for bursts in groups]
    assert max(costs) - min(costs) <= 2.5 * lanes * quantum


def test_round_robin_gives_to_the_many():
    """What the test above would not let pass."""
    rig = Rig(RR(4), lanes=1, frames=2048, check=False)
    groups = crowd(rig, [1, 6])
    for _ in range(300):
        rig.tick()
    few, many = had(groups)
    assert many > 5 * few


@pytest.mark.parametrize("kind", [FAIR, Mixed])
@pytest.mark.parametrize(("nice", "ratio"), [(5, 3.05), (3, 1.95), (-3, 1 / 1.95)])
def test_nice_is_the_weight_of_a_group(kind, nice, ratio):
    rig = Rig(kind(4), lanes=1, frames=2048, check=False)
    [plain] = crowd(rig, [2])
    other = Group(9)
    nicer = [rig.think(1, 3000, nice=nice, family=family(200 + n, other)) for n in range(2)]
    for _ in range(300):
        rig.tick()
    shares = had([plain, nicer])
    assert 0.8 * ratio <= shares[0] / shares[1] <= 1.2 * ratio


@pytest.mark.parametrize("kind", [FAIR, Mixed])
def test_who_was_away_has_saved_nothing_and_owes_nothing(kind):
    rig = Rig(kind(4), lanes=1, frames=2048, check=False)
    first = crowd(rig, [2])[0]
    for _ in range(200):
        rig.tick()
    late = [rig.think(1, 3000, family=family(n, Group(n))) for n in (50, 51)]
    for _ in range(90):
        rig.tick()
    again = sum(burst.generated for burst in first) - 200
    shares = [again, *(burst.generated for burst in late)]
    assert max(shares) - min(shares) <= 16


@pytest.mark.parametrize("kind", [FAIR, Mixed])
def test_lanes_that_are_free_at_the_same_time_go_to_all_groups(kind):
    rig = Rig(kind(8), lanes=4, frames=256)
    groups = crowd(rig, [8, 8])
    for _ in range(40):
        rig.start()
        assert [sum(in_lane(*bursts)) for bursts in groups] == [2, 2]
        rig.land()


@pytest.mark.parametrize("kind", [FAIR, Mixed])
def test_a_group_alone_has_all_lanes(kind):
    rig = Rig(kind(8), lanes=4, frames=256)
    [bursts] = crowd(rig, [6])
    for _ in range(40):
        rig.start()
        assert sum(in_lane(*bursts)) == 4
        rig.land()


@pytest.mark.parametrize("groups", [2, 5])
@pytest.mark.parametrize("lanes", [1, 2])
def test_under_fair_a_burst_waits_for_a_turn_of_each_other_of_its_group_times_the_groups(groups, lanes):
    quantum, size = 4, 3
    rig = Rig(FAIR(quantum), lanes=lanes, frames=2048, check=False)
    crowds = crowd(rig, [size] * groups)
    waited = dict.fromkeys((burst for bursts in crowds for burst in bursts), 0)
    for _ in range(400):
        rig.tick()
        for burst in waited:
            waited[burst] = 0 if burst.lane >= 0 else waited[burst] + 1
        assert max(waited.values()) <= (size + 1) * groups * quantum


def test_a_policy_begins_its_own_accounts():
    """What a group had under an earlier policy, of the same name even, is not held against it."""
    rig = Rig(FAIR(4), lanes=1, frames=2048, check=False)
    old, group = crowd(rig, [2])[0], Group(50)
    for _ in range(60):
        rig.tick()
    for policy in (RR(4), FAIR(4)):
        rig.scheduler.set_policy(policy)
        rig.scheduler.check()
    new = [rig.think(1, 3000, family=family(n, group)) for n in (50, 51)]
    before = sum(burst.generated for burst in old)
    for _ in range(100):
        rig.tick()
    shares = [sum(burst.generated for burst in old) - before, sum(burst.generated for burst in new)]
    assert abs(shares[0] - shares[1]) <= 16


def test_what_a_killed_burst_was_promised_is_given_back():
    rig = Rig(FAIR(16), lanes=1, frames=256)
    group = Group(1)
    killed, other = rig.think(1, 100, family=family(1, group)), rig.think(1, 100)
    rig.tick()
    rig.scheduler.withdraw(killed)
    assert group.served < 2
    rig.run()
    assert not other.alive


# ---- MIXED


def test_who_is_read_along_takes_a_lane_of_its_group_at_once():
    rig = Rig(Mixed(), lanes=2, frames=256)
    group = Group(1)
    batch = [rig.think(1, 200, family=family(n, group)) for n in range(4)]
    rig.tick()
    plain = rig.think(1, 5, family=family(8, group))
    rig.tick()
    assert in_lane(plain, *batch).count(True) == 2
    assert plain.lane < 0
    person = rig.think(1, 5, family=family(9, group), read=True)
    rig.tick()
    assert person.generated == 1
    assert sum(in_lane(*batch)) == 1


@pytest.mark.parametrize(("ahead", "read", "taken"), [(0.9, True, True), (1.1, True, False), (0.1, False, False)])
def test_a_lane_of_another_group_only_if_that_has_had_more_but_for_a_debt(ahead, read, taken):
    """A new burst, which is better than one that has sunk: but its group is ahead."""
    policy = Mixed(4, NEVER)
    rig = Rig(policy, lanes=1, frames=256)
    running = rig.think(1, 300, family=family(1))
    for _ in range(40):
        rig.tick()
    greedy = Group(2)
    greedy.clock, greedy.served = policy, running.family.group.served + ahead * DEBT * policy.quantum
    arrival = rig.think(1, 5, family=family(2, greedy), read=read)
    rig.tick()
    assert in_lane(running, arrival) == [not taken, taken]


def test_short_ones_first_inside_of_a_group():
    rig = Rig(Mixed(4, NEVER), lanes=1, frames=256)
    group = Group(1)
    long = rig.think(1, 60, family=family(1, group))
    for _ in range(30):
        rig.tick()
    short = rig.think(1, 4, family=family(2, group))
    rig.tick()
    assert in_lane(long, short) == [False, True]


def test_nice_counts_inside_of_a_group():
    rig = Rig(Mixed(4, NEVER), lanes=1, frames=256)
    group = Group(1)
    first = rig.think(1, 2, family=family(1, group))
    rig.tick()
    bursts = [rig.think(1, 3, nice=nice, family=family(2 + nice, group)) for nice in (5, 0, 9, -2)]
    assert rig.run() == [bursts[3], first, bursts[1], bursts[0], bursts[2]]


@pytest.mark.parametrize("age", [2, 8])
def test_the_least_of_a_group_gets_its_turn_in_an_endless_stream_of_the_best(age):
    """Nice 19 and long, against newcomers with nice −20 that are read along: 39 steps, EAGER, and its own levels."""
    quantum = 4
    rig = Rig(Mixed(quantum, age), lanes=1, frames=256)
    group, serial = Group(1), count(2)
    least = rig.think(40, 20, nice=19, family=family(1, group))

    def newcomer():
        return rig.think(1, quantum, nice=-20, read=True, family=family(next(serial), group))

    best = newcomer()
    for waited in count(1):
        rig.tick()
        if least.generated:
            break
        if not best.alive or best.lane < 0:
            best = newcomer()
        assert waited <= (39 + 8 + 4) * age + 10 * quantum
    before = least.generated
    while least.used:
        newcomer()
        rig.tick()
        assert least.lane >= 0 or not least.used
    assert least.generated == before + quantum - before % quantum
