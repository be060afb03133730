"""Save and Restore: a context in a file, in another kernel, with its pages and its archive."""

import json
from pathlib import Path

import pytest

from facts import FACTS, learn, small
from harness import always, boot, clean, finish, run, told
from saved import Late, brief, fed, more, save_only, tell
from tokix.kernel.frames import FRAME
from tokix.sim import World
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import Append, Exec, Fork, Pages, Pin, Recall, Restore, Save, Sleep, Spawn, Wait, gather
from torture import Mortal

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
    assert again_pages == [page | {"born": None} for page in pages], "the log that has the calls is another's"
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
