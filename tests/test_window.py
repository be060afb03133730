"""The window: how text is cut into pages, which pages leave, and what another machine makes of it."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts import SMALL, resident, small
from harness import MAIN, Ended, always, boot, clean, errno, run, told
from tokix.kernel import pager
from tokix.kernel.arch.toy import MARKS
from tokix.kernel.cutting import PAGE, border, cut
from tokix.kernel.errors import KernelBug
from tokix.sim import World
from tokix.syscalls import Append, ChatMessage, Evict, Fork, Kill, Pages, Pin, Recall, Sleep, Spawn, Think, Wait
from torture import Killed, Mortal

# ---- cutting


@given(st.text("ab .\n\u00e9\U0001f600", max_size=400), st.integers(3, 40))
def test_pieces_join_to_the_text_and_fit(text, limit):
    pieces = [*cut(small(), "user", text, limit)]
    assert "".join(piece for piece, _ in pieces) == text
    for piece, tokens in pieces:
        assert tokens == small().render("user", piece)
        assert len(tokens) <= limit or len(piece) == 1, "a page has a character at least"
    assert all(piece for piece, _ in pieces[1:])


@given(st.text("ab .\n", min_size=1), st.data())
def test_a_border_is_inside(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text) + 5))
    assert start < border(text, start, end) <= min(end, len(text))


def test_a_piece_ends_where_a_reader_would_pause():
    assert border("one two. three\nfour\n\nfive six", 0, 25) == 21
    assert border("one two three.\n\nfour\nfive six", 0, 24) == 16, "at a paragraph, though a line ends later"
    assert border("one two. three\nfour five six", 0, 25) == 15
    assert border("one two. three four", 0, 12) == 9
    assert border("one two three", 0, 9) == 8
    assert border("onetwothree", 0, 9) == 9
    assert border("a " + "b" * 50, 0, 30) == 30, "not in the first half"


def test_what_follows_a_dense_part_is_cut_into_long_pieces_again():
    pieces = [len(tokens) for _, tokens in cut(small(), "user", "東" * 400 + "word " * 400, 64)]
    assert min(pieces[-10:-1]) > 48
    assert len(pieces) < 60


# ---- the window


def test_an_oversized_message_leaves_its_end_in_the_window_and_loses_nothing():
    text = " ".join(f"word{n}" for n in range(300))

    async def main():
        first = await Append(text=text)
        pages = await Pages()
        await Sleep(seconds=1)  # what a process has is gone when it ends, if it was ever there
        return [first, [p.model_dump() for p in pages]]

    sim = boot(main, **SMALL)
    kept = []
    while not kept or sim.kernel.procs:
        sim.step()
        kept = max(kept, sim.store.read("page", ()), key=len)
        if not sim.wait():
            break
    first, pages = Ended(sim).value
    assert first == 0
    assert [p["id"] for p in pages] == [*range(len(pages))]
    assert {p["message"] for p in pages} == {0}
    out = [p for p in pages if not p["resident"]]
    here = [p for p in pages if p["resident"]]
    assert pages == [*out, *here], "the end stays"
    assert sum(p["tokens"] for p in here) <= 0.6 * 256
    assert "".join([row[-1] for row in kept] + [p["text"] for p in here]) == text
    assert all(p["tokens"] <= 32 for p in pages)
    clean(sim)


def test_a_prompt_that_is_too_large_is_read_from_its_end():
    async def main():
        thought = await Think(prompt="x " * 1000, max_tokens=64)
        pages = await Pages()
        again = await errno(Think(messages=[ChatMessage(role="user", text="x " * 1000)]))
        return [len(thought.tokens), thought.prompt_tokens, sum(p.resident for p in pages), again]

    length, prompt, count, again = always(main, step=5, **SMALL)
    assert length == 64
    assert 80 < prompt <= 154
    assert count > 3
    assert again == "ENOMEM"


def test_a_message_that_is_short_beside_the_window_stays_whole():
    async def main():
        await Append(text="x" * 500)
        await Append(text="y" * 511)
        whole = [(p.id, p.message, p.tokens) for p in await Pages()]
        await Evict(pages=[0])
        return [whole, [(p.id, p.message, p.tokens, p.resident) for p in await Pages()]]

    whole, after = run(main)  # a window of 2048
    assert whole[0] == [0, 0, 502]
    assert [page[1] for page in whole[1:]] == [1] * 3, "a longer one is cut"
    assert after[0] == [0, 0, PAGE, False]
    assert after[-1] == [4, 0, 248, False], "in the archive it is in pieces, whose ids were never used"
    assert after[1:-1] == [[*page, True] for page in whole[1:]]


def test_pages_leave_in_bulk_oldest_first_and_some_never():
    async def main():
        system = await Append(role="system", text="be good")
        pinned = await Append(text="keep me", pinned=True)
        seen = []
        for n in range(30):
            await Append(role="tool", text=f"result {n:02}")
            seen.append(await resident())
            if n == 15:
                await Append(text="what was the question?")
        return [system, pinned, seen]

    system, pinned, seen = run(main, machine=small(160))
    times = [n for n, (a, b) in enumerate(pairwise(seen), 1) if not {*a} <= {*b}]
    assert len(times) in (3, 4, 5), "rarely"
    for n in times:
        gone = {*seen[n - 1]} - {*seen[n]}
        assert len(gone) >= 3, "and several at once"
        assert gone.isdisjoint({system, pinned})
        rest = {*seen[n]} - {system, pinned, 18}
        assert max(gone) < min(rest), "oldest first"
    assert 18 in seen[-1], "the last page of the user stays"


def test_what_may_not_leave_fills_the_window():
    async def main():
        for _ in range(4):
            await Append(text="x" * 50, pinned=True)
        await Append(role="tool", text="loose")
        told_ = [await told(Append(text="y" * 60, pinned=True)), await told(Append(role="system", text="z" * 900))]
        told_.append(await told(Think(prompt="y" * 50)))
        before = await resident()
        await Pin(page=0, pinned=False)
        await Append(text="y" * 60, pinned=True)
        return [told_, before, await resident()]

    refused, before, after = always(main, **SMALL)
    for text in refused:
        assert text.startswith("ENOMEM: ")
        assert "the window has 256; pinned pages, system pages and the last user page do not leave it" in text
    assert before == [0, 1, 2, 3, 4], "who is refused has moved nothing"
    assert after == [1, 2, 3, 5]


@pytest.mark.parametrize(("wanted", "got"), [(1, 1), (64, 64), (90, 90), (100_000, 102)])
def test_there_is_room_for_an_answer_when_the_window_is_full(wanted, got):
    async def main():
        lengths = []
        for n in range(12):
            await Append(text=f"{n:03}" + "x" * 20)
            lengths.append(len((await Think(prompt="and?", max_tokens=wanted)).tokens))
        return min(lengths)

    assert run(main, **SMALL) >= got


def test_what_is_behind_a_cut_is_computed_again_and_what_is_before_it_is_not():
    async def main():
        await Append(role="system", text="s" * 60)
        for n in range(5):
            await Append(text=f"{n}" * 20)
        first = await Think(max_tokens=2)
        await Evict(pages=[3])
        return [first.tokens, (await Think(max_tokens=2)).tokens]

    sim, fed, sampling = boot(main, prefill=1000, machine=small()), [], None
    while True:
        before = sim.kernel.scheduler.mmu.counters.fed
        sim.step()
        for tick, _ in sim.kernel.scheduler.flights:
            sampling = tick.rows[0].sampling
        fed.append(sim.kernel.scheduler.mmu.counters.fed - before)
        if not sim.wait():
            break
    clean(sim)
    large = [n for n in fed if n > 30]
    assert large == [62 + 5 * 22 + 1, 2 * 22 + 4], "the mark behind the cut is the same"
    tokens = [t for text in ("s" * 60, *(f"{n}" * 20 for n in (0, 1, 3, 4))) for t in small().render("user", text)]
    tokens[0] = MARKS["system"]
    first, second = Ended(sim).value
    tokens += [MARKS["assistant"], *first, *small().closing(), MARKS["assistant"]]
    assert second == small().continuation(tokens, sampling, 2)


# ---- Think moves pages only if it succeeds


def test_a_think_that_is_interrupted_has_moved_nothing():
    async def child():
        for n in range(9):
            await Append(text=f"{n} " + "x" * 20, role="tool")
        before = [p.model_dump() for p in await Pages()]
        cut = [await errno(Think(prompt="y" * 150, max_tokens=90)) for _ in range(3)]
        after = [p.model_dump() for p in await Pages()]
        same = before == after
        done = await Think(prompt="y" * 150, max_tokens=9)
        return [cut, same, done.text, [p.resident for p in await Pages()]]

    async def main():
        pid = await Spawn(program="child")
        for _ in range(3):
            await Sleep(seconds=7)
            await Kill(pid=pid)
        return (await Wait(pid=pid)).value

    cut, same, text, here = always(main, child, **SMALL)
    assert cut == ["EINTR"] * 3
    assert same
    assert len(text) == 9
    assert not all(here)


# ---- another machine


def test_the_window_may_change_between_two_boots():
    """Pages leave when the machine is smaller, and nothing else differs: also at the boots after that."""

    async def main():
        seen = []
        for n in range(12):
            await Append(text=f"{n:02} " + "x" * 11, role="tool")
            await Sleep(seconds=1)
            seen.append([p.id for p in await Pages() if p.resident])
        child = await Fork()
        if child:
            await Wait(pid=child)
        await Sleep(seconds=1)
        kept = sorted({f.id for f in await Recall(query="x", k=99)} | {*seen[-1]})
        return [seen, kept]

    def play(windows, kills):
        store, world = Mortal(), World()
        for window, store.crash in zip(windows, [*((n, "after") for n in kills), (0, "")], strict=True):
            store.reopen()
            sim = boot(main, store=store, world=world, machine=small(window))
            with suppress(Killed):
                sim.run(20_000)
                clean(sim)
                return Ended(sim).value
            world.now += 1
        raise AssertionError("killed")

    everything = [*range(12)]
    for windows in ([512, 128, 128], [128, 512, 128], [200, 160, 128]):
        outcomes = {str(play(windows, (n, n + 3))) for n in range(8, 14)}
        for outcome in outcomes:
            assert outcome.endswith(f"{everything}]"), "nothing is lost"
    smaller = play([512, 128, 128], (9, 12))
    assert smaller == play([512, 128, 128, 128, 128], (9, 10, 11, 12)), "a replay moves the same pages"


def test_a_parked_process_keeps_the_windows_that_it_has_had():
    async def main():
        for n in range(8):
            await Append(text=f"{n} " + "x" * 12, role="tool")
            await Sleep(seconds=1)
        return [await resident(), sorted([f.id for f in await Recall(query="x", k=99)])]

    async def changed():
        await Append(text="something else")

    store, world = Mortal(), World()
    store.crash = (9, "after")
    with pytest.raises(Killed):
        boot(main, store=store, world=world, machine=small(200)).run()
    for window in (512, 128, 200):
        store.crash = (0, "")
        sim = boot(changed, store=store, world=world, machine=small(window))
        sim.kernel.programs = {"main": changed}
        sim = boot(main, store=store, world=world, machine=small(window)) if window == 200 else sim
        for _ in range(3):
            sim.step()
    sim.run(1000)
    clean(sim)
    here, gone = Ended(sim).value
    assert sorted([*here, *gone]) == [*range(8)]


def test_an_answer_that_was_begun_in_a_larger_window_says_so():
    async def main():
        return await told(Think(prompt="go", max_tokens=200))

    store, world = Mortal(), World()
    store.crash = (2, "after")
    with pytest.raises(Killed):
        boot(main, store=store, world=world, machine=small(512)).run()
    store.reopen()
    store.crash = (0, "")
    said = Ended(boot(main, store=store, world=world, machine=small(64)).run()).value
    assert said == (
        "ENOMEM: the prompt has 5 tokens and the answer, begun in a larger window, up to 200; this window has 64"
    )


# ---- integrity


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ctx: ctx.tokens.append(1),
        lambda ctx: ctx.pages.reverse(),
        lambda ctx: ctx.archived.update({ctx.pages[0].id: ctx.pages[0]}),
        lambda ctx: setattr(ctx, "next_page", 1),
        lambda ctx: setattr(ctx, "before", []),
    ],
)
def test_check_finds_a_context_that_is_wrong(spoil):
    async def main():
        await Append(text="one")
        await Append(text="two")
        await Sleep(seconds=1)

    sim = boot(main)
    sim.step()
    sim.kernel.check()
    spoil(sim.kernel.procs[MAIN].root.ctx)
    with pytest.raises(KernelBug):
        pager.check(sim.kernel)
