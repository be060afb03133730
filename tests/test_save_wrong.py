"""Save and Restore: what goes wrong, with the frames, the rights or the file, is told, and spoils nothing."""

import json
from pathlib import Path

import pytest

from harness import boot, clean, errno, finish, run, told
from rig import Rig
from saved import STORY, Late, save_only, tell
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.policy import FCFS
from tokix.sim import Person, World
from tokix.syscalls import Append, Kill, Limits, Pages, Recv, Restore, Save, Signal, Sleep, Spawn, Think, Wait, gather


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
    said, *_ = attempt(file, whole.replace(b"tokix context 3", b"tokix context 4", 1))
    assert said == f"EINVAL: {file} is a context file of version 4, and this tokix reads version 3"

    class Other(ToyMachine):
        name = "other"

    said, *_ = attempt(file, whole, machine=Other(ends=False))
    assert said == f"EINVAL: {file} was saved on the model toy, and this is other; its tokens mean nothing here"


def forged(whole, **changes):
    """A file with another header, and the digest that belongs to it."""
    from hashlib import sha256

    _, line, rest = whole.split(b"\n", 2)
    line = json.dumps(json.loads(line) | changes).encode() + b"\n"
    return f"tokix context 3 {sha256(line).hexdigest()}\n".encode() + line + rest


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
