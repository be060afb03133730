"""Save and Restore: a context in a file, in another kernel, with its pages, its archive and its frames."""

import json
from itertools import count
from pathlib import Path

import pytest

from facts import FACTS, learn, small
from harness import always, boot, clean, errno, finish, run, told
from rig import Rig
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.costs import Costs
from tokix.kernel.events import Pack
from tokix.kernel.frames import FRAME, frames_for
from tokix.kernel.policy import FCFS
from tokix.sim import Person, Simulation, World
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import (
    Append,
    Exec,
    Fork,
    Kill,
    Limits,
    Pages,
    Pin,
    Recall,
    Recv,
    Restore,
    Save,
    Send,
    Signal,
    Sleep,
    Spawn,
    Think,
    Wait,
    gather,
)
from torture import Mortal

STORY = "Once upon a time there was a kernel that lost nothing, and nobody knew how it did that."
SWAP = Costs(tick=1000, token=1000, frame=1)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "story.context")


async def tell(path, tokens=20):
    """Have a conversation of a few frames, and save it."""
    await Append(role="system", text=STORY)
    await Think(prompt="go on", max_tokens=tokens)
    return await Save(path=path)


async def more():
    return (await Think(prompt="and then?", max_tokens=12)).tokens


def brief(restored):
    return [restored.tokens, restored.computed]


def fed(ended):
    return ended.kernel.scheduler.mmu.counters.fed


class Late(World):
    """Files take long: many ticks pass while one is read or written."""

    def carrying(self, effect):
        return 40.0


# ---- another kernel


@pytest.mark.parametrize("kind", [MemoryStore, SqliteStore])
def test_another_kernel_goes_on_and_computes_nothing_again(file, tmp_path, kind):
    async def main():
        saved = await tell(file)
        return [saved.tokens, saved.computed, saved.bytes, await more()]

    async def again():
        restored = await Restore(path=file)
        pages = [(page.id, page.role, page.text) for page in await Pages()]
        return [brief(restored), pages, await more()]

    def store(name):
        return Mortal(MemoryStore if kind is MemoryStore else lambda: SqliteStore(tmp_path / name))

    tokens, computed, size, expected = run(main, store=store("a"))
    second = finish(again, store=store("b"))
    restored, pages, said = second.value
    assert said == expected
    assert restored == [tokens, computed]
    assert computed % FRAME, "the last frame has a part of its tokens"
    assert computed == tokens - 2, "the last token of an answer is never fed, nor what closes it"
    assert size == Path(file).stat().st_size
    assert [role for _, role, _ in pages] == ["system", "user", "assistant"]
    assert fed(second) == (tokens - computed) + len("and then?") + 2 + 1 + 12 - 1


@pytest.mark.parametrize("world", [World, Late])
def test_no_kill_changes_what_is_restored(file, world):
    async def warm():
        restored = await Restore(path=file)
        await Pin(page=1)
        return [brief(restored), await more(), [(p.id, p.pinned) for p in await Pages()]]

    async def main():
        pids = [await Spawn(program="warm") for _ in range(2)]
        return [(await Wait(pid=pid)).value for pid in pids]

    saved = run(lambda: save_only(file))
    for restored, said, pages in always(main, warm, world=world):
        assert restored == [saved["tokens"], saved["computed"]]
        assert len(said) == 12
        assert pages == [[0, False], [1, True], [2, False], [3, False], [4, False]]


def test_no_kill_changes_what_is_saved(file):
    async def child():
        return (await tell(file)).tokens

    async def warm():
        return [(await Restore(path=file)).tokens, await more()]

    async def main():
        saved = (await Wait(pid=await Spawn(program="child"))).value
        return [saved, (await Wait(pid=await Spawn(program="warm"))).value]

    saved, (restored, said) = always(main, child, warm)
    assert restored == saved
    assert len(said) == 12


def test_a_restart_needs_no_file(file):
    run(lambda: tell_only(file))

    async def main():
        await Restore(path=file)
        before = await more()
        Path(file).unlink(missing_ok=True)
        await Sleep(seconds=100)
        return [before, await more(), len(await Pages())]

    store = Mortal()
    sim = boot(main, store=store)
    while not (2 in sim.kernel.procs and len(sim.kernel.procs[2].log) == 2):
        sim.step()
        sim.wait()
    sim.step()
    world = sim.world
    sim = boot(main, store=store, world=world).run()
    clean(sim)
    assert not Path(file).exists()
    [status] = [json.loads(row[15]) for row in store.dead() if row[0] == 2]
    assert status["value"][2] == 3 + 2 + 2


async def tell_only(path):
    await tell(path)


def test_forks_and_programs_that_follow_have_the_context(file):
    run(lambda: tell_only(file))

    async def other():
        return [await Recall(query="x"), await more()]

    async def child():
        await Restore(path=file)
        if not (pid := await Fork()):
            return await more()
        [said] = await gather(more())
        await Wait(pid=pid)
        return await Exec(program="other") if said else None

    async def plain():
        await Restore(path=file)
        return await more()

    async def main():
        return [(await Wait(pid=await Spawn(program=name))).value for name in ("plain", "child")]

    expected, (found, said) = run(main, child, other, plain)
    assert found == []
    assert len(expected) == len(said) == 12
    always(main, child, other, plain, step=3)


# ---- the archive


def test_what_had_left_the_window_comes_along(file):
    async def main():
        await learn()
        await Append(text="now")
        await Recall(query="cat", k=1)  # they have their vectors
        await Save(path=file)
        return [page.model_dump() for page in await Pages()]

    async def again():
        await Restore(path=file)
        pages = [page.model_dump() for page in await Pages()]
        found = await Recall(query="Has Ada got a cat?", k=1, load=True)
        return [pages, found[0].text, await Append(text="new")]

    pages = run(main)
    again_pages, text, new = always(again)
    assert again_pages == pages
    assert text == FACTS[0]
    assert new == 6, "ids go on behind those of the file, and the copy that was loaded"


def test_vectors_come_along_and_are_not_made_again(file):
    async def main():
        await learn()
        await Recall(query="cat")
        await Save(path=file)

    class Counting:
        name, dimensions = "toy-128", 128

        def __init__(self):
            from tokix.kernel.arch.toy import ToyEncoder

            self.texts, self.toy = [], ToyEncoder()

        def embed(self, texts):
            self.texts += texts
            return self.toy.embed(texts)

    async def again():
        await Restore(path=file)
        return [page.text for page in await Recall(query="the key", k=1)]

    run(main)
    encoder = Counting()
    assert run(again, encoder=encoder) == [FACTS[1]]
    assert encoder.texts == ["the key"]
    encoder = Counting()
    encoder.name = "another"
    assert run(again, encoder=encoder) == [FACTS[1]]
    assert sorted(encoder.texts) == sorted([*FACTS, "the key"])


def test_in_a_smaller_window_the_oldest_pages_leave(file):
    async def main():
        for number in range(12):
            await Append(text=f"line {number} " + "x" * 20)
        await Save(path=file)

    async def again():
        restored = await Restore(path=file)
        resident = [page.id for page in await Pages() if page.resident]
        gone = {page.message for page in await Pages() if not page.resident}
        found = await Recall(query="line", k=40, budget=9999)
        return [
            brief(restored),
            resident,
            [*gone],
            "".join(p.text for p in sorted(found, key=lambda p: p.id)),
            await more(),
        ]

    run(main)
    (tokens, computed), resident, gone, text, said = always(again, machine=small(128))
    assert tokens <= 128
    assert computed == 0, "frames behind the first cut are of no use"
    assert resident[-1] == 11
    assert [*gone, *resident] == [*range(12)]
    assert all(f"line {number} " in text for number in gone)
    assert len(said) == 12


def test_what_cannot_be_made_to_fit_is_refused(file):
    async def main():
        for number in range(3):
            await Append(role="system", text=f"{number}" * 60)
        await Save(path=file)

    async def again():
        return [await told(Restore(path=file)), await Pages(), await Append(text="x")]

    run(main)
    said, pages, id = run(again, machine=small(128))
    assert said == "ENOMEM: 186 tokens of the context cannot leave the window, which has 128"
    assert (pages, id) == ([], 0)


# ---- frames


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


async def save_only(path):
    return (await tell(path)).model_dump()


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


# ---- what goes wrong


def test_who_is_killed_or_interrupted_meanwhile_gives_its_frames_back_when_they_are_not_written_any_more(file):
    run(lambda: save_only(file))
    seen = []

    async def warm():
        await Restore(path=file)

    async def main():
        for sign in (Signal.KILL, Signal.TERM):
            pid = await Spawn(program="warm")
            await Sleep(seconds=60)
            await Kill(pid=pid, signal=sign)
            seen.append((await Wait(pid=pid)).reason)
            lent.append(len(sim.kernel.scheduler.mmu.lent))
            await Sleep(seconds=100)
            lent.append(len(sim.kernel.scheduler.mmu.lent))

    lent = []
    sim = boot(main, warm, world=Late())
    clean(sim.run())
    assert seen == ["killed", "killed"]
    assert lent == [1, 0, 1, 0]
    pool = sim.kernel.scheduler.mmu.pool
    assert pool.available == pool.total


def test_a_burst_that_needs_all_frames_waits_for_those_that_are_read(file):
    async def child():
        await tell(file)

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=30)  # it saves now
        await Kill(pid=pid, signal=Signal.KILL)
        await Wait(pid=pid)
        await Append(text="z" * 150)
        return len((await Think(max_tokens=90)).tokens)

    ended = finish(main, child, machine=ToyMachine(16, 256, ends=False), world=Late)
    assert ended.value == 90


def test_who_cannot_have_the_frames_of_a_better_burst_waits_too():
    rig = Rig(FCFS(), frames=8, lanes=2)
    first = rig.think(60, 60)
    rig.tick()
    assert len(rig.mmu.borrow("restore", 2)) == 2
    while rig.tick() or rig.scheduler.gang:
        pass
    assert len(first.ctx.table) == 6, "all that there are"
    second = rig.think(20, 5)
    assert rig.start() is None
    assert rig.mmu.back("restore")
    rig.scheduler.dirty = True
    assert rig.run() == [first, second]
    rig.empty()


def test_it_is_refused_where_it_makes_no_sense(file, tmp_path):
    async def child():
        await Append(text="hi")
        await Think(max_tokens=50)
        await Recv()

    async def weak(pid):
        return [await told(Save(path=file)), await told(Restore(path=file)), await told(Save(path=file, pid=pid))]

    async def narrow(pid):
        await Append(text="x")
        return [await errno(Save(path=path)) for path in (file, file + "x", "/tmp/x")] + [
            await errno(Save(path=file, pid=pid))
        ]

    async def poor(path):
        return await told(Restore(path=path))

    async def main():
        said = [await told(Save(path=file)), await told(Restore(path=str(tmp_path / "none")))]
        await tell(file)
        said += [await told(Restore(path=file))]
        said += await gather(told(Restore(path=file)))
        pid = await Spawn(program="child")
        await Sleep(seconds=10)
        said += [await told(Save(path=file, pid=pid)), await told(Save(path=file, pid=99))]
        await Sleep(seconds=60)
        said += [await errno(Save(path=file, pid=pid))]
        for name in ("story", "./story", "/", "/a/../b", "/a//b", "/a/.", "/a/", "/a\0b", ""):
            assert await errno(Save(path=name)) == await errno(Restore(path=name)) == "EINVAL", name
        said += [await told(Save(path=str(tmp_path)))]
        said += [(await Wait(pid=await Spawn(program="poor", args=[str(tmp_path)]))).value]
        said += [await errno(Save(path=str(tmp_path / "no" / "x"))), await errno(Save(path=f"{file}/x"))]
        said += [await errno(Save(path=str(tmp_path / ("x" * 300))))]
        rights = [(await Wait(pid=await Spawn(program="weak", args=[pid], caps=["think"]))).value]
        cap = f"save:{file}"
        rights += [(await Wait(pid=await Spawn(program="narrow", args=[pid], caps=[cap]))).value]
        rights += [(await Wait(pid=await Spawn(program="poor", args=[file], limits=Limits(tokens=2)))).value]
        await Kill(pid=pid)
        await Wait(pid=pid)
        return [said, rights]

    said, (weak_said, narrow_said, poor_said) = run(main, child, weak, narrow, poor)
    assert said[:2] == [
        "EINVAL: nothing was said to process 2 yet: its context is empty",
        f"ENOENT: {tmp_path}/none: No such file or directory",
    ]
    assert said[2] == "EINVAL: the context is not empty: restore has to come before all that is said in it"
    assert said[3] == "EINVAL: restore works in the root branch of a program only"
    assert said[4] == "EAGAIN: process 3 is thinking: its context can be saved when it has its answer"
    assert said[5] == "ESRCH: no process 99"
    assert said[6]["computed"] > 40
    assert said[7:] == [
        f"EINVAL: {tmp_path} is there, and is no file",
        f"EINVAL: {tmp_path} is no file",
        "ENOENT",
        "EINVAL",
        "EINVAL",
    ]
    assert weak_said[:2] == [
        f"EPERM: weak (pid 5) has no capability 'save:{file}'",
        f"EPERM: weak (pid 5) has no capability 'restore:{file}'",
    ]
    assert weak_said[2].startswith("EPERM")
    assert [type(narrow_said[0]), *narrow_said[1:]] == [dict, "EPERM", "EPERM", "EPERM"]
    assert poor_said.startswith("EDQUOT")


def test_a_foreign_process_saves_and_does_not_restore(file):
    async def listener():
        await Append(text=STORY)
        await Recv()

    async def main():
        return None

    calls = [Spawn(program="listener"), Sleep(seconds=9), Save(path=file, pid=-1), Restore(path=file), Kill(pid=-1)]
    person = Person([*calls, Wait(pid=-1)])
    boot(main, listener, world=World(person=person)).run()
    _, _, saved, refused, *_ = person.outcomes
    assert saved.tokens == len(STORY) + 2
    assert refused.errno == "EINVAL"


@pytest.fixture
def whole(file):
    run(lambda: save_only(file))
    return Path(file).read_bytes()


async def try_it(path):
    said = await told(Restore(path=path))
    return [said if isinstance(said, str) else "", len(await Pages()), await Append(text="x")]


def attempt(file, data, **options):
    Path(file).write_bytes(data)
    return run(lambda: try_it(file), **options)


@pytest.mark.parametrize("at", [0.0, 0.02, 0.1, 0.4, 0.7, 0.9, 0.999])
def test_a_flipped_bit_is_noticed(file, whole, at):
    data = bytearray(whole)
    data[int(at * len(data))] ^= 4
    said, pages, id = attempt(file, data)
    assert said in (
        f"EIO: {file} is damaged: it is not what was saved",
        f"EINVAL: {file} is no context file",
    )
    assert (pages, id) == (0, 0)


@pytest.mark.parametrize("keep", [0, 1, 40, 90, 500, -66, -64, -1])
def test_a_file_that_is_cut_short_is_noticed(file, whole, keep):
    said, pages, id = attempt(file, whole[:keep])
    assert said.startswith(("EIO", "EINVAL"))
    assert (pages, id) == (0, 0)


def test_a_file_that_is_too_long_is_noticed(file, whole):
    assert attempt(file, whole + b"x")[0].startswith("EIO")


def test_other_versions_and_other_models_are_refused(file, whole):
    said, *_ = attempt(file, whole.replace(b"tokix context 1", b"tokix context 2", 1))
    assert said == f"EINVAL: {file} is a context file of version 2, and this tokix reads version 1"

    class Other(ToyMachine):
        name = "other"

    said, *_ = attempt(file, whole, machine=Other(ends=False))
    assert said == f"EINVAL: {file} was saved on the model toy, and this is other; its tokens mean nothing here"


def forged(whole, **changes):
    """A file with another header, and the digest that belongs to it."""
    from hashlib import sha256

    _, line, rest = whole.split(b"\n", 2)
    line = json.dumps(json.loads(line) | changes).encode() + b"\n"
    return f"tokix context 1 {sha256(line).hexdigest()}\n".encode() + line + rest


@pytest.mark.parametrize(
    "image",
    [
        "",
        "{",
        "[]",
        "[[1],[],[],0]",
        '[["1"],[["user",1,false,"x",0,0,null]],[],1]',
        '[[1],[["user","1",false,"x",0,0,null]],[],1]',
        '[[1],[["nobody",1,false,"x",0,0,null]],[],1]',
        '[[-1],[["user",1,false,"x",0,0,null]],[],1]',
        '[[99999],[["user",1,false,"x",0,0,null]],[],1]',
        '[[1],[["user",1,false,"x",0,0,null]],[],0]',
        '[[1],[["user",1,false,"x",0,0,null]],[["user",1,false,"x",0,0,null]],1]',
        '[[1],[["user",2,false,"x",0,0,null],["user",-1,false,"x",1,1,null]],[],2]',
        '[[1],[["user",1,false,"x",0,0,null]],[["user",1,false,"x",1,1,null]],2]',
    ],
)
def test_what_nobody_has_saved_is_refused(file, whole, image):
    said, pages, id = attempt(file, forged(whole, image=image))
    assert said.startswith("EINVAL")
    assert "\n" not in said
    assert (pages, id) == (0, 0)


@pytest.mark.parametrize("changes", [{"computed": 10**9}, {"computed": -1}, {"pages": 1}, {"vectors": [[0, "a", "?"]]}])
def test_headers_that_make_no_sense_are_refused(file, whole, changes):
    said, pages, id = attempt(file, forged(whole, **changes))
    assert said.startswith(("EINVAL", "EIO"))
    assert (pages, id) == (0, 0)


def test_a_file_that_is_replaced_while_it_is_read_is_noticed(file, whole):
    class Replaced(World):
        def carrying(self, effect):
            if getattr(effect, "frames", ()):
                Path(file).write_bytes(forged(whole, arithmetic="other"))
            return 1.0

    assert run(lambda: try_it(file), world=Replaced)[0] == f"EAGAIN: {file} has been replaced while it was read"


def test_a_save_that_fails_leaves_the_file_that_was_there(file, whole, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    async def main():
        await tell(file, tokens=30)

    monkeypatch.setattr("os.fsync", full)

    async def told_so():
        return await told(tell(file, tokens=30))

    assert run(told_so) == f"EIO: {file}: No space left on device"
    assert Path(file).read_bytes() == whole
    assert [path.name for path in Path(file).parent.iterdir()] == [Path(file).name]


def test_the_same_context_gives_the_same_file(file, whole):
    """Nothing of what others have had in the same frames gets into it."""

    async def main():
        pid = await Spawn(program="other")
        await Wait(pid=pid)
        return await tell(file)

    async def other():
        await Append(text="secret" * 100)
        await Think(max_tokens=100)

    run(main, other, machine=ToyMachine(50, ends=False))
    assert Path(file).read_bytes().split(b"\n", 2)[2] == whole.split(b"\n", 2)[2]
