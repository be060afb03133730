"""Whose archive it is: branches, Fork and Exec."""

import pytest

from facts import FACTS, SMALL, learn, resident
from harness import CHILD, MAIN, always, boot, clean, errno
from tokix.kernel.events import Embedded
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import (
    Append,
    Evict,
    Exec,
    Forget,
    Fork,
    Kill,
    Pages,
    Recall,
    Recv,
    Sleep,
    Spawn,
    Wait,
    gather,
    select,
)


def test_branches_see_what_is_around_them_and_what_they_move_goes_with_them():
    async def main():
        await learn()

        async def branch(name):
            await Evict(pages=[await Append(text=f"a secret of {name}")])
            mine = sorted([f.text for f in await Recall(query="secret of Ada's cat", k=9)])

            async def inner():
                await Evict(pages=[await Append(text=f"inside {name}")])
                return len(await Recall(query="x", k=9))

            return [mine, await gather(inner(), inner()), len(await Recall(query="x", k=9))]

        found = await gather(branch("one"), branch("two"))
        lost = await select(branch("three"), Sleep(seconds=0))
        await Sleep(seconds=5)
        return [found, lost[0], len(await Recall(query="x", k=9)), [p.id for p in await Pages()]]

    found, lost, rest, ids = always(main, step=2)
    for name, (texts, inner, outer) in zip(("one", "two"), found, strict=True):
        assert texts == sorted([*FACTS, f"a secret of {name}"])
        assert inner == [6, 6]
        assert outer == 5
    assert lost == 1
    assert rest == 4
    assert ids == [0, 1, 2, 3]


def test_the_space_of_a_branch_is_gone_when_the_branch_is():
    async def main():
        async def branch(name):
            await Evict(pages=[await Append(text=name)])
            await Sleep(seconds=5)

        await Evict(pages=[await Append(text="mine")])
        await gather(branch("a"), branch("b"))
        await Sleep(seconds=5)

    sim, seen = boot(main), []
    while sim.wait() or not sim.steps:
        sim.step()
        seen += [{row[1] for row in sim.store.read("page", ())}, {row[1] for row in sim.store.read("vector", ())}]
    clean(sim)
    spaces = [space for space, before in zip(seen, [None, *seen], strict=False) if space != before]
    both = {"", "0:3.0.", "0:3.1."}
    assert both in spaces
    assert {""} in spaces[spaces.index(both) :], "before the process ends"


def test_what_a_branch_moves_after_it_has_lost_is_deleted_too():
    """The outcome of its last call is in the log behind that of the Select which ends it."""

    async def main():
        async def late():
            await Sleep(seconds=1)
            await Append(text="much " * 100)
            await Recv()

        return (await select(Sleep(seconds=1), late()))[0]

    assert always(main, budget=1, **SMALL) == 0


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_the_spaces_in_the_store(store, tmp_path):
    """Each process has rows of its own; a fork gets a copy, with vectors, of what was there when it was made."""

    async def main():
        await learn()
        await Sleep(seconds=5)  # until they are embedded
        await Evict(pages=[await Append(text="five")])
        child = await Fork()
        await Forget(page=1 if child else 2)
        await Evict(pages=[await Append(text="parent" if child else "child")])
        await Sleep(seconds=10)
        return await resident()

    opened = SqliteStore(tmp_path / "tokix.db") if store == "sqlite" else MemoryStore()
    sim, seen = boot(main, store=opened), []
    while sim.wait() or not sim.steps:
        sim.step()
        seen.append({t: [row[:3] for row in opened.read(t, ())] for t in ("page", "vector")})
    clean(sim)
    full = [s for s in seen if len(s["vector"]) == 10]
    want = [(MAIN, "", n) for n in (0, 2, 3, 4, 5)] + [(CHILD, "", n) for n in (0, 1, 3, 4, 5)]
    assert full
    assert full[0] == {"page": want, "vector": want}
    opened.close()


def test_exec_keeps_the_archive_and_a_fresh_one_does_not():
    async def main():
        await learn()
        await Append(text="stays")
        return await Exec(program="second", args=[0])

    async def second(times):
        found = sorted([f.id for f in await Recall(query="x", k=9)])
        seen = [found, [(p.id, p.resident) for p in await Pages()]]
        await Evict(pages=[await Append(text=f"round {times}")])
        if times < 2:
            return await Exec(program="second", args=[times + 1])
        return await Exec(program="third", args=[seen], fresh=True)

    async def third(seen):
        return [*seen, await Recall(query="x"), await Append(text="anew"), await errno(Forget(page=7))]

    found, pages, *fresh = always(main, second, third)
    assert found == [0, 1, 2, 3, 5, 6]
    assert pages == [[0, False], [1, False], [2, False], [3, False], [4, True], [5, False], [6, False]]
    assert fresh == [[], 0, "ENOENT"]


def test_a_fork_after_exec_has_its_own_archive():
    """What was moved before the Exec is in the store alone: the child cannot make it again from its log."""

    async def main():
        await learn()
        return await Exec(program="second")

    async def second():
        child = await Fork()
        if not child:
            await Forget(page=0)
            grandchild = await Fork()
            mine = sorted([f.text for f in await Recall(query="x", k=9)])
            return mine if not grandchild else [mine, (await Wait(pid=grandchild)).value]
        return [(await Wait(pid=child)).value, sorted([f.text for f in await Recall(query="x", k=9)])]

    [child, grandchild], mine = always(main, second)
    assert child == grandchild == sorted(FACTS[1:])
    assert mine == sorted(FACTS)


def test_what_is_evicted_and_forgotten_in_one_step_as_it_is_forked():
    async def main():
        await learn()
        child = await Fork()
        if child:
            await Forget(page=1)
            second = await Fork()
            if second:
                await Kill(pid=child, signal="KILL")
                ends = [await Wait(pid=second), await Wait(pid=child)]
                return [ends[0].value, sorted([f.id for f in await Recall(query="x", k=9)])]
        return sorted([f.id for f in await Recall(query="x", k=9)])

    assert always(main) == [[0, 2, 3], [0, 2, 3]]
    assert always(main, budget=1) == [[0, 2, 3], [0, 2, 3]]


def test_late_vectors_of_branches_and_processes_that_are_over_are_not_kept():
    async def main(again=False):
        async def branch(seconds):
            await Evict(pages=[await Append(text=f"for {seconds}")])
            await Sleep(seconds=seconds)

        if again:
            for _ in range(6):  # so that the branches have the same paths
                await Sleep(seconds=0)
        else:
            await learn()
            await Spawn(program="child")
        await gather(branch(2), branch(9))
        await Sleep(seconds=5)
        if not again:
            await Exec(program="main", args=[True])
        await Wait()

    async def child():
        await learn()
        await Sleep(seconds=1)

    sim, there, gone, spaces = boot(main, child), set(), set(), set()
    while sim.wait() or not sim.steps:
        sim.due += [Embedded(key, "toy-128", b"1234") for key in sorted(gone)]
        sim.step()
        now = {row[:3] for row in sim.store.read("page", ())}
        there |= now
        gone, spaces = there - now, spaces | {key[:2] for key in now}
        assert not [row[:3] for row in sim.store.read("vector", ()) if row[4] == b"1234"]
    clean(sim)
    branches = [space for _, space in spaces if space]
    assert sorted(branches) == ["0:7.0.", "0:7.1.", "1:7.0.", "1:7.1."]
    assert len(spaces) == 6
