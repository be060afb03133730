"""SJF, MLFQ and LAS: who is expected to be short goes first, and the others not much later."""

from itertools import count

import pytest
from test_policies import turns

from rig import Rig, in_lane
from tokix.kernel.family import Family, Group, Usage
from tokix.kernel.policy import LAS, MLFQ, SJF

NEVER = 1 << 40


def busy(policy, **shape):
    """A rig whose only lane is taken by somebody who ends with the next tick."""
    rig = Rig(policy, **{"lanes": 1, "frames": 256, **shape})
    rig.think(1, 2)
    rig.tick()
    return rig


# ---- SJF


def test_the_shortest_is_first():
    rig = busy(SJF())
    bursts = [rig.think(1, tokens) for tokens in (30, 3, 20, 1, 9)]
    ended = rig.run()[1:]
    assert ended == sorted(bursts, key=lambda burst: burst.end)


def test_a_long_prompt_counts():
    rig = busy(SJF())
    long, short = rig.think(200, 3), rig.think(1, 20)
    assert rig.run()[1:] == [short, long]


def test_how_long_a_burst_will_be_is_what_its_program_did_before():
    rig = busy(SJF(), ends=False)
    talker, terse = Usage(), Usage()
    for usage, lengths in ((talker, (40, 60)), (terse, (2, 4))):
        for length in lengths:
            rig.think(1, length, usage=usage)
            rig.run()
    assert (talker, terse) == (Usage(2, 100), Usage(2, 6))
    rig.think(1, 2)
    rig.tick()
    a, b, new = rig.think(1, 51, usage=talker), rig.think(1, 52, usage=terse), rig.think(1, 30)
    assert rig.run()[1:] == [b, new, a]


@pytest.mark.parametrize(("tokens", "taken"), [(49, True), (51, False)])
def test_an_arrival_takes_the_lane_of_one_with_more_than_twice_as_much_left(tokens, taken):
    rig = Rig(SJF(NEVER), lanes=1)
    running = rig.think(1, 102)
    for _ in range(2):
        rig.tick()
    arrival = rig.think(1, tokens)
    rig.tick()
    assert in_lane(running, arrival) == [not taken, taken]


def test_what_is_nearly_done_keeps_its_lane():
    rig = Rig(SJF(NEVER), lanes=1)
    running = rig.think(1, 100)
    for _ in range(95):
        rig.tick()
    arrival = rig.think(1, 3)
    assert rig.run() == [running, arrival]


def test_what_is_longer_than_expected_is_expected_to_go_on_for_as_long_again():
    rig = Rig(SJF(NEVER), lanes=1)
    running = rig.think(1, 200, usage=Usage(1, 5))
    for _ in range(80):
        rig.tick()
    arrival = rig.think(1, 39)
    rig.tick()
    assert in_lane(running, arrival) == [False, True]


@pytest.mark.parametrize("patience", [1, 4])
@pytest.mark.parametrize("length", [20, 40])
def test_the_longest_job_waits_no_longer_than_its_length_times_the_patience(patience, length):
    """A shorter one comes whenever there is none; and nobody takes the lane of who has waited for so long."""
    rig = Rig(SJF(patience), lanes=1, frames=256)
    short, long = rig.think(1, 2), rig.think(1, length)
    for waited in count(1):
        rig.tick()
        if not short.alive:
            short = rig.think(1, 2)
        if long.lane >= 0:
            break
        assert waited <= patience * length + 4
    assert waited >= patience * (length - 4)
    while long.alive:
        rig.think(1, 1)
        rig.tick()
        assert long.lane >= 0 or not long.alive


# ---- MLFQ


def test_turns_double_from_level_to_level_and_the_first_goes_on():
    rig = Rig(MLFQ(4, NEVER), lanes=1)
    a, b = rig.think(1, 32), rig.think(1, 32)
    assert turns(rig) == [(a, 4), (b, 4), (a, 4), (b, 4), (a, 8), (b, 8), (a, 16), (b, 16)]


def test_who_comes_takes_the_lane_of_who_has_sunk():
    rig = Rig(MLFQ(4, NEVER), lanes=1)
    running = rig.think(1, 100)
    for _ in range(20):
        rig.tick()
    arrival = rig.think(1, 4)
    rig.tick()
    assert in_lane(running, arrival) == [False, True]
    assert turns(rig)[0] == (arrival, 3)


def test_a_long_prompt_joins_further_down():
    rig = busy(MLFQ(4, NEVER))
    long, short = rig.think(200, 4), rig.think(1, 9)
    assert rig.run()[1:] == [short, long]


@pytest.mark.parametrize("kind", [MLFQ, LAS])
@pytest.mark.parametrize("age", [4, 16])
@pytest.mark.parametrize("served", [8, 60])
def test_who_has_sunk_waits_no_longer_than_its_levels_times_the_age(kind, age, served):
    """A newcomer comes whenever there is none; the levels are the binary digits of the quanta it has had."""
    quantum = 4
    rig = Rig(kind(quantum, age), lanes=1, frames=256)
    old = rig.think(1, 200)
    while old.generated < served:
        rig.tick()
    levels = int(2 * served / quantum).bit_length()
    newcomer = rig.think(1, 2)
    rig.tick()
    assert in_lane(old, newcomer) == [False, True]
    for waited in count(1):
        if not newcomer.alive:
            newcomer = rig.think(1, 2)
        rig.tick()
        if old.lane >= 0:
            break
        assert waited <= (levels + 1) * age + 2
    assert waited > age
    before = old.generated  # and then it has its turn
    while old.generated < before + quantum - 1:
        rig.think(1, 1)
        rig.tick()
        assert old.lane >= 0


# ---- LAS


@pytest.mark.parametrize("many", [5, 8])
def test_a_family_of_many_gets_no_more_than_a_family_of_one(many):
    rig = Rig(LAS(4, NEVER), lanes=1, frames=1024, check=False)
    crowd, single = Family(1, Group(1)), Family(2, Group(2))
    theirs = [rig.think(1, 400, family=crowd) for _ in range(many)]
    own = rig.think(1, 400, family=single)
    for tick in range(600):
        rig.tick()
        shares = sum(burst.generated for burst in theirs), own.generated
        if tick > 200:
            assert 1 / 3 <= shares[0] / shares[1] <= 3


def test_a_new_family_takes_a_lane_at_once_and_a_new_child_does_not():
    rig = Rig(LAS(4, NEVER), lanes=1)
    old = Family(1, Group(1))
    running = rig.think(1, 100, family=old)
    for _ in range(30):
        rig.tick()
    child = rig.think(1, 10, family=old)
    rig.tick()
    assert in_lane(running, child) == [True, False]
    stranger = rig.think(1, 4)
    rig.tick()
    assert in_lane(running, child, stranger) == [False, False, True]


def test_inside_a_level_the_family_that_came_first_goes_on():
    """Other than by turns, where three would be under way at the same time."""
    rig = Rig(LAS(4, NEVER), lanes=1)
    families = [Family(n, Group(n)) for n in (1, 2, 3)]
    for family in families:
        family.served = 64.0
    bursts = [rig.think(1, 12, family=family) for family in families]
    assert rig.run() == bursts
    assert rig.mmu.counters.switches == 0


@pytest.mark.parametrize(("lanes", "quantum"), [(1, 4), (3, 4), (4, 16), (2, 3)])
def test_a_family_pays_for_what_it_had_and_for_nothing_else(lanes, quantum):
    """The turns are charged in advance: in the end the difference has been given back, whatever the schedule was."""
    rig = Rig(LAS(quantum), lanes=lanes, frames=512)
    family = Family(1, Group(1))
    for n in range(5):
        rig.think(5, 30 + n, family=family)
    rig.run()
    assert family.served == sum(5 + sum(1 + (5 + said) / 256 for said in range(29 + n)) for n in range(5))
