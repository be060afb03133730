"""Save and Restore: the frames of a context come along, where there is room and they mean the same."""

from itertools import count

import pytest

from harness import boot, clean, finish, run
from saved import STORY, SWAP, Late, brief, more, save_only
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Pack
from tokix.kernel.frames import FRAME, frames_for
from tokix.sim import Simulation, World
from tokix.syscalls import Append, Kill, Recv, Restore, Save, Send, Sleep, Spawn, Think, Wait


def test_it_takes_the_frames_that_there_are(file):
    async def main():
        await Append(role="system", text=STORY)
        await Think(prompt="go on", max_tokens=90)
        return [brief(await Save(path=file)), await more()]

    async def again():
        return [brief(await Restore(path=file)), await more()]

    async def busy():
        await Append(text="y" * 200)
        return len((await Think(max_tokens=200)).tokens)

    async def crowded():
        pid = await Spawn(program="busy")
        await Sleep(seconds=130)
        other = await Spawn(program="again")
        return [(await Wait(pid=other)).value, (await Wait(pid=pid)).value]

    (tokens, computed), expected = run(main)
    (restored, said), length = run(crowded, again, busy, machine=ToyMachine(28, 448, ends=False))
    assert said == expected
    assert length == 200
    assert restored[0] == tokens
    assert 0 < restored[1] < computed
    assert restored[1] % FRAME == 0


def test_two_who_restore_the_same_share_all_whole_frames(file):
    saved = run(lambda: save_only(file))

    async def warm():
        await Restore(path=file)
        await Recv()

    async def main():
        pids = [await Spawn(program="warm") for _ in range(3)]
        await Sleep(seconds=50)
        for pid in pids:
            await Kill(pid=pid)
            await Wait(pid=pid)

    sim = boot(main, warm)
    while len([c for c in sim.kernel.scheduler.mmu.resident if c.computed == saved["computed"]]) < 3:
        sim.step()
        sim.wait()
    pool = sim.kernel.scheduler.mmu.pool
    whole = saved["computed"] // FRAME
    assert pool.total - len(pool.free) == whole + 3
    clean(sim.run())


def test_frames_of_another_arithmetic_are_not_taken(file):
    async def again():
        return [brief(await Restore(path=file)), await more()]

    saved = run(lambda: save_only(file))
    expected = run(again)[1]
    machine = ToyMachine(ends=False)
    machine.arithmetic = "other"
    (tokens, computed), said = run(again, machine=machine)
    assert (tokens, computed) == (saved["tokens"], 0)
    assert said == expected


def sleeping(file, world=World):
    """Save, from outside, a context that has lost its frames; gives that system, and what was saved."""
    serial = count()

    async def child():
        await Append(text=STORY)
        await Think(prompt="go on", max_tokens=20)
        await Recv()
        return await more()

    async def crowd():
        await Append(text=f"{next(serial)}" * 150)
        return len((await Think(max_tokens=100)).tokens)

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=60)
        others = [await Spawn(program="crowd") for _ in range(2)]
        await Sleep(seconds=45)
        saving = await Spawn(program="saver", args=[pid])
        await Sleep(seconds=5)
        await Send(to=pid)
        said = (await Wait(pid=pid)).value
        saved = (await Wait(pid=saving)).value
        return [saved, said, [(await Wait(pid=other)).value for other in others]]

    async def saver(pid):
        return (await Save(path=file, pid=pid)).model_dump()

    machine = ToyMachine(20, 320, slots=24, costs=SWAP, ends=False)
    return finish(main, child, crowd, saver, machine=machine, lanes=2, world=world)


@pytest.mark.parametrize("world", [World, Late])
def test_a_context_that_sleeps_is_read_from_the_swap_file(file, world, monkeypatch):
    asleep = []
    original = Simulation.start

    def start(sim, effect):
        if isinstance(effect, Pack):
            asleep.append([place >= sim.kernel.scheduler.mmu.pool.total for place in effect.places])
        original(sim, effect)

    monkeypatch.setattr(Simulation, "start", start)
    ended = sleeping(file, world)
    saved, said, others = ended.value
    assert asleep == [[True] * frames_for(saved["computed"])]
    assert saved["computed"] == saved["tokens"] - 2
    assert others == [100, 100]
    assert ended.kernel.scheduler.mmu.counters.ins, "it came back while it was read"

    async def again():
        return [brief(await Restore(path=file)), await more()]

    second = finish(again)
    assert second.value == [[saved["tokens"], saved["computed"]], said]
