"""Evict, Pin, Forget: what a program moves by itself, and what is gone for good."""

from facts import FACTS, SMALL, learn, resident
from harness import MAIN, Ended, always, boot, clean, errno, run, told
from tokix.kernel.events import Embedded
from tokix.syscalls import Append, Evict, Forget, GetPid, Kill, Pages, Pin, Recall, Recv, Send, Sleep, Spawn, Wait


def test_evict_and_pin_say_what_is_wrong():
    async def main():
        await Append(text="pinned", pinned=True)
        await Append(text="out")
        await Evict(pages=[1, 1])
        await Evict(pages=[1])
        calls = (Evict(pages=[1, 9]), Evict(pages=[0]), Pin(page=1), Pin(page=9), Forget(page=9))
        return [await told(call) for call in calls], await resident()

    errors, here = run(main)
    assert errors == [
        "ENOENT: page 9",
        "EINVAL: page 0 is pinned: unpin it first",
        "ENOENT: page 1 has left the window: bring it back with Recall",
        "ENOENT: page 9",
        "ENOENT: page 9",
    ]
    assert here == [0]


def test_the_id_of_a_message_names_all_its_pages():
    async def main():
        first = await Append(text="one two three. " * 10)
        await Pin(page=first)
        pinned = [p.pinned for p in await Pages()]
        await Pin(page=first, pinned=False)
        await Evict(pages=[first + 1])
        one = [p.resident for p in await Pages()]
        await Evict(pages=[first])
        none = await resident()
        await Forget(page=first)
        return [pinned, one, none, await Pages()]

    pinned, one, none, after = always(main, **SMALL)
    assert len(pinned) > 4
    assert all(pinned)
    assert one == [n != 1 for n in range(len(pinned))]
    assert none == after == []


def test_forget_deletes_it_everywhere():
    async def main():
        await learn()
        await Recall(query="cat", k=1, load=True)
        await Append(text="the cat again")
        await Forget(page=0)
        await Forget(page=5)
        return [await errno(Forget(page=0)), [p.text for p in await Pages()], [f.id for f in await Recall(query="cat")]]

    sim, rows, vectors = boot(main, budget=1), set(), set()
    while True:
        sim.step()
        rows |= {row[2] for row in sim.store.read("page", ())}
        if any(e.call.startswith("forget") for p in sim.kernel.procs.values() for e in p.log):
            assert (MAIN, "", 0) not in {row[:3] for row in sim.store.read("page", ())}
            assert not any("Turing" in str(row) for row in sim.store.read("page", ()))
        vectors = vectors or {row[2] for row in sim.store.read("vector", ())}
        if not sim.wait():
            break
    clean(sim)
    assert rows >= {0, 1, 2, 3} <= vectors
    gone, texts, found = Ended(sim).value
    assert gone == "ENOENT"
    assert texts == list(FACTS[1:])
    assert sorted(found) == [1, 2, 3]
    always(main)


def test_a_vector_that_comes_after_its_page_was_forgotten_is_not_kept():
    async def main():
        await learn()
        await Sleep(seconds=4)
        await Forget(page=0)
        await Sleep(seconds=9)

    sim = boot(main)
    while (MAIN, "", 0) not in {row[:3] for row in sim.store.read("page", ())}:
        sim.step()
        sim.wait()
    late = [Embedded((pid, space, 0), "toy-128", b"1234") for pid, space in ((MAIN, ""), (99, ""), (MAIN, "0:7."))]
    sim.due += late
    sim.step()
    assert [row[:3] for row in sim.store.read("vector", ())] == [(MAIN, "", 0)]
    while any(row[2] == 0 for row in sim.store.read("page", ())):
        sim.wait()
        sim.step()
    assert not sim.store.read("vector", (MAIN, "", 0))
    sim.due += late
    sim.run(1000)
    clean(sim)


def test_a_search_that_began_before_a_forget_does_not_give_what_is_gone():
    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv(sender=pid)
        found = await Recall(query="cat", k=9, pid=pid)
        await Kill(pid=pid)
        await Wait(pid=pid)
        return [f.id for f in found]

    async def child(boss):
        await learn()
        await Send(to=boss)
        await Forget(page=0)
        await Recv()

    assert run(main, child) == [3, 2, 1]
