"""Every port fails once, at its n-th use, for every n: nothing is lost, nothing leaks, nothing hangs.

What fails inside the kernel's own step stops that kernel; a new one goes on from the store. What a driver or the
program loader fails at is a reply to the program that asked.
"""

from contextlib import suppress

import corpus_town
import pytest

import corpus
from tokix.kernel import admission
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.sim import Simulation
from tokix.syscalls import EIO
from torture import Life, Mortal, broken, run


class Broken(Exception):
    """What a port raises."""


@pytest.fixture(scope="module")
def undisturbed():
    return run()


def boot(store, world, machine=None, programs=corpus.PROGRAMS):
    return Simulation(programs, store, world, machine or ToyMachine(24, 400, ends=False), RR(), lanes=2, prefill=8)


def life_after(store, world):
    """What a new kernel makes of the store."""
    sim = boot(store, world)
    sim.run(20_000)
    return Life(store, world, sim, 0, 0)


class FailingStore(Mortal):
    """The n-th commit fails: nothing of it is written."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def commit(self, rows):
        if self.commits + 1 == self.n:
            self.n = 0
            raise Broken("disk full")
        super().commit(rows)


def test_a_failed_commit_stops_the_kernel_and_the_next_one_goes_on(undisturbed):
    for n in range(1, undisturbed.store.commits + 1):
        store, world = FailingStore(n), corpus_town.town()
        with pytest.raises(Broken):
            boot(store, world).run(20_000)
        life_after(store, world).same_as(undisturbed)


class FailingMachine(ToyMachine):
    """The n-th tick fails."""

    def __init__(self, n):
        super().__init__(24, 400, ends=False)
        self.left = n

    def run(self, tick):
        self.left -= 1
        if not self.left:
            raise Broken("out of memory")
        return super().run(tick)


def test_a_failed_tick_stops_the_kernel_and_the_next_one_goes_on(undisturbed):
    ticks = undisturbed.sim.kernel.scheduler.mmu.counters.ticks
    for n in range(1, ticks + 1, 3):
        store, world = Mortal(), corpus_town.town()
        with pytest.raises(Broken):
            boot(store, world, FailingMachine(n)).run(20_000)
        life_after(store, world).same_as(undisturbed)


class FailingTown(corpus_town.Town):
    """The n-th use of a device fails."""

    def __init__(self, n):
        town = corpus_town.town()
        super().__init__(lines=town.lines, person=town.person)
        self.left = n

    def invoke(self, effect):
        self.left -= 1
        if not self.left:
            raise EIO("the driver broke")
        return super().invoke(effect)


def test_a_failed_driver_is_an_error_of_the_program_that_called_it(undisturbed):
    uses = sum(undisturbed.world.runs[key] for key in undisturbed.world.runs if ":" in key)
    assert uses > 8
    for n in range(1, uses + 1):
        store, world = Mortal(), FailingTown(n)
        sim = boot(store, world)
        sim.run(20_000)
        told = [row for row in store.store.tables["journal"].values() if '"errno":"EIO"' in row[6]]
        assert len(told) == 1, f"use {n} failed: {told}"
        assert not sim.kernel.started
        assert not sim.kernel.invoked
        sim.kernel.check()


class FailingPrograms(dict):
    """The n-th look-up finds nothing."""

    def __init__(self, n):
        super().__init__(corpus.PROGRAMS)
        self.left = n

    def get(self, name, default=None):
        self.left -= 1
        return None if not self.left else super().get(name, default)


def test_a_program_that_cannot_be_found_is_an_error_of_whoever_asked(undisturbed):
    failed = 0
    for n in range(1, 120):
        store, world = Mortal(), corpus_town.town()
        programs = FailingPrograms(n)
        sim = boot(store, world, programs=programs)
        with suppress(RuntimeError):  # who was to end the endless one may be what could not be found
            sim.run(2_000)
        failed += programs.left <= 0 and Life(store, world, sim, 0, 0).exits != undisturbed.exits
        sim.kernel.check()
    assert failed > 50


def test_a_shortage_of_frames_at_any_moment_changes_nothing(undisturbed):
    def uses_with_failure(n):
        uses = 0

        def counted(room):
            def wrong(scheduler, burst, count):
                nonlocal uses
                uses += 1
                return False if uses == n else room(scheduler, burst, count)

            return wrong

        with broken(admission, "room", counted):
            run().same_as(undisturbed)
        return uses

    total = uses_with_failure(0)
    assert total > 50
    for n in range(1, total + 1, 3):
        uses_with_failure(n)


@pytest.mark.parametrize("n", range(7))
def test_a_clock_that_goes_back_changes_nothing(undisturbed, n):
    steps = 0

    def jumping(step):
        def wrong(kernel, interrupts, now):
            nonlocal steps
            steps += 1
            return step(kernel, interrupts, now - 1000 if steps % 7 == n else now)

        return wrong

    with broken(Kernel, "step", jumping):
        run().same_as(undisturbed)
