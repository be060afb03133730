"""A tick takes off while the last one is in flight: what it names, when it waits, what becomes of a row too many."""

import threading
from asyncio import get_running_loop
from functools import partial

import anyio
import pytest

from rig import Rig, fed
from stage import PATIENCE, Screen, launch, play
from tokix.boot import boot
from tokix.failure import Stopped
from tokix.host import MachineThread
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Tick
from tokix.kernel.frames import FRAME
from tokix.kernel.policy import RR


def ahead(**shape):
    """Give a rig that makes ticks ahead."""
    return Rig(RR(50), ahead=True, **shape)


def decoding(rig, *lengths, **more):
    """Start bursts with prompts of these lengths; gives them when all have their first token."""
    bursts = [rig.think(length, 30, **more) for length in lengths]
    rig.tick()
    return bursts


def feeds(tick):
    return [row.feed for row in tick.rows]


def drain(rig):
    while rig.scheduler.flights:
        rig.land()


# ---- when


def test_the_next_tick_names_what_the_last_one_samples():
    rig = ahead()
    decoding(rig, 3, 5)
    first, second = rig.start(), rig.start()
    assert rig.start() is None, "two are in flight"
    assert feeds(second) == [[~0], [~1]]
    assert [row.start for row in second.rows] == [row.start + 1 for row in first.rows]
    rig.land()
    third = rig.start()
    assert (feeds(third), third.serial) == ([[~0], [~1]], second.serial + 1)
    drain(rig)
    assert len(rig.run()) == 2, "and both say what they would say alone"
    rig.empty()


def test_it_follows_the_end_of_a_prompt_and_not_its_beginning():
    rig = ahead(prefill=8)
    rig.think(12, 9)
    assert (fed(rig.start()), rig.start()) == ([8], None)
    rig.land()
    assert (fed(rig.start()), fed(rig.start())) == ([4], [1])
    drain(rig)
    assert rig.run()


@pytest.mark.parametrize("event", ["arrival", "suspend", "withdraw", "renice", "policy"])
def test_it_waits_after_an_event(event):
    rig = ahead(lanes=3)
    first, _ = decoding(rig, 3, 5)
    rig.start()
    scheduler = rig.scheduler
    {
        "arrival": lambda: rig.think(2, 2),
        "suspend": lambda: scheduler.suspend(first),
        "withdraw": lambda: scheduler.withdraw(first),
        "renice": lambda: scheduler.renice(first, 3),
        "policy": lambda: scheduler.set_policy(RR(20)),
    }[event]()
    assert rig.start() is None
    rig.land()
    assert rig.start()


def test_it_waits_for_the_last_token_of_a_turn_and_of_a_burst():
    rig = ahead()
    burst = rig.think(3, 60)
    alone = []
    while burst.alive:
        while rig.start():
            pass
        if len(rig.scheduler.flights) == 1:
            alone.append(burst.generated + 1)
        rig.land()
    assert alone == [50, 60], "which are to be sampled by the only tick in flight"
    rig.empty()


def test_it_takes_no_frames_from_anybody():
    rig = ahead(frames=4)
    rig.think(FRAME + 1, 1)
    rig.run()
    rig.think(2 * FRAME - 1, 20)
    rig.tick()
    assert rig.free() == 0
    assert (fed(rig.start()), rig.start()) == ([1], None), "the next token needs a frame of the idle context"
    rig.land()
    assert rig.start()
    drain(rig)
    assert len(rig.run()) == 1


def test_where_the_grammar_goes_by_what_was_said_it_waits():
    rig = ahead()
    [burst] = decoding(rig, 3)
    burst.sampling = burst.sampling._replace(schema='{"type":"integer"}')
    rig.start()
    assert rig.start() is None


# ---- a row too many


def test_nobody_hears_of_the_row_of_a_burst_that_has_ended():
    rig = ahead(ends=True, lanes=3)
    for length in (3, 20, 40):
        rig.think(length, 400)
    many, ended = 0, 0
    while rig.scheduler.gang or rig.scheduler.waiting:
        rig.start()
        rig.start()
        ended += len(rig.land())
        many += sum(not burst.alive for flight in rig.scheduler.flights for burst in flight.bursts)
    drain(rig)
    assert (ended, many) == (3, 3), "each ended by what it sampled, while its next row was in flight"
    rig.empty()


def test_its_frames_stay_until_the_last_tick_that_names_them_has_landed():
    rig = ahead(frames=8)
    burst, _ = decoding(rig, 2 * FRAME, 3)
    rig.start()
    rig.start()
    free = rig.free()
    rig.scheduler.withdraw(burst)
    rig.mmu.release(burst.ctx)
    rig.land()
    assert rig.free() == free
    rig.land()
    assert rig.free() == free + 3
    rig.run()
    rig.empty()


def test_a_context_goes_on_while_a_row_too_many_of_its_last_burst_is_in_flight():
    rig = ahead(frames=8)
    for tokens in range(1, 2 * FRAME):
        ctx = rig.context()
        rig.think(tokens, 30, ctx=ctx)
        rig.tick()
        rig.start()
        rig.start()
        rig.scheduler.withdraw(ctx.burst)
        rig.land()
        rig.think(5, 5, ctx=ctx)
        drain(rig)
        assert len(rig.run()) == 1
    rig.empty()


def test_answers_come_in_the_order_of_ticks():
    rig = ahead()
    decoding(rig, 3)
    rig.start()
    second = rig.start()
    with pytest.raises(KernelBug, match="in flight"):
        rig.scheduler.done(second.serial, [1])


# ---- at the edge


class Eager(ToyMachine):
    """Gives the control back before a tick is done."""

    ahead = True

    def __init__(self, fails: int = 0) -> None:
        super().__init__(ends=False)
        self.fails, self.waited, self.named = fails, 0, 0

    def start(self, tick):
        self.named += any(min(row.feed) < 0 for row in tick.rows)
        return partial(self.wait, self.run(tick))

    def wait(self, tokens):
        self.waited += 1
        if self.waited == self.fails:
            raise MemoryError("no frames there")
        return list(tokens)


def ran(folder, machine):
    """Give what is shown of a run."""
    folder.mkdir()
    screen = Screen(folder)

    async def main():
        async with boot(folder, machine=machine, terminal=screen) as system:
            assert (await launch(system, "philosophers", 3, 2)).reason == "exit"

    play(main)
    return screen.shown


def test_a_machine_that_gives_the_control_back_has_ticks_ahead(tmp_path):
    machine = Eager()
    assert ran(tmp_path / "eager", machine) == ran(tmp_path / "toy", ToyMachine(ends=False)) != ""
    assert machine.named


class Slow(Eager):
    """The first tick ends after the second has begun."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()

    def start(self, tick):
        if tick.serial == 2:
            self.begun.set()
        return super().start(tick)

    def wait(self, tokens):
        assert self.begun.wait(PATIENCE), "the second tick is not begun before somebody has waited for the first"
        return super().wait(tokens)


def test_whoever_waits_for_a_tick_does_not_hold_up_the_next():
    async def main():
        landed, failed, event = [], [], anyio.Event()

        def done(tick):
            landed.append(tick.serial)
            if tick.serial == 2:
                event.set()

        thread = MachineThread(Slow(), get_running_loop(), done, failed.append)
        for serial in (1, 2):
            thread.start(Tick(serial, [], []))
        await event.wait()
        thread.end()
        assert (landed, failed) == ([1, 2], [])

    play(main)


def test_what_fails_behind_the_start_of_a_tick_stops_the_kernel(tmp_path):
    with pytest.raises(Stopped, match="the machine failed, and the kernel has stopped: MemoryError: no frames there"):
        ran(tmp_path / "eager", Eager(fails=3))
