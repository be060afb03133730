"""Context memory: what leaves a window, what comes back, and to whom it belongs."""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_calls import CHILD, MAIN, Ended, always, boot, clean, errno, run, told

from tokix import archive as edge
from tokix.archive import Archive, encode, pack, products
from tokix.boot import boot as real_boot
from tokix.kernel import pager
from tokix.kernel.arch.toy import MARKS, ToyEncoder, ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Embedded, Search
from tokix.kernel.pager import PAGE, border, cut
from tokix.sim import World
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import (
    EIO,
    ENOENT,
    Append,
    ChatMessage,
    Drop,
    Embed,
    Evict,
    Exec,
    Forget,
    Fork,
    GetPid,
    Grant,
    Kill,
    Limits,
    Pages,
    Pin,
    Recall,
    Recv,
    Send,
    Sleep,
    Spawn,
    SyscallError,
    Think,
    Wait,
    gather,
    select,
)
from torture import Killed, Mortal

FACTS = (
    "Ada has a cat that is called Turing.",
    "The key of the safe is under the mat.",
    "Paper burns at 451 degrees.",
    "The train to Turin leaves at noon.",
)
#: A window of 256 tokens: pages leave above 230, until at most 153 are used; a page has 32 at most.
SMALL = {"machine": ToyMachine(frames=64, window=256, ends=False)}


def small(window=256, frames=64):
    return ToyMachine(frames=frames, window=window, ends=False)


async def resident():
    return [page.id for page in await Pages() if page.resident]


async def learn():
    """Append the facts and push them out."""
    ids = [await Append(text=fact, role="tool") for fact in FACTS]
    await Evict(pages=ids)
    return ids


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
    assert border("one two. three\nfour five six", 0, 25) == 15
    assert border("one two. three four", 0, 12) == 9
    assert border("one two three", 0, 9) == 8
    assert border("onetwothree", 0, 9) == 9
    assert border("a " + "b" * 50, 0, 30) == 30, "not in the first half"


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
    assert 100 < prompt <= 154
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

    sim, fed = boot(main, prefill=1000, machine=small()), []
    while True:
        before = sim.kernel.scheduler.counters.fed
        sim.step()
        fed.append(sim.kernel.scheduler.counters.fed - before)
        if not sim.wait():
            break
    clean(sim)
    large = [n for n in fed if n > 30]
    assert large == [62 + 5 * 22 + 1, 2 * 22 + 4 + 1]
    tokens = [t for text in ("s" * 60, *(f"{n}" * 20 for n in (0, 1, 3, 4))) for t in small().render("user", text)]
    tokens[0] = MARKS["system"]
    first, second = Ended(sim).value
    tokens += [MARKS["assistant"], *first, *small().closing(), MARKS["assistant"]]
    assert second == small().continuation(tokens, sim.kernel.scheduler.tick.rows[0].sampling, 2)


# ---- random programs against a plain model


class Model:
    """A window and an archive as two lists, with the rules in their plainest form."""

    def __init__(self, window):
        self.window, self.here, self.gone, self.next = window, [], {}, 0
        self.limit = max(16, window // 8)

    def pages(self, role, text, pinned=False):
        whole = len(text) + 2 <= max(self.limit, self.window // 4)
        pieces = [text] if whole else [piece for piece, _ in cut(small(), role, text, self.limit)]
        first = self.next
        return [[first + n, role, piece, pinned, len(piece) + 2, first, None] for n, piece in enumerate(pieces)]

    def size(self, pages):
        return sum(page[4] for page in pages)

    def make_room(self, new, more, room, least):
        pages = self.here + new
        high = min(int(0.9 * self.window), self.window - min(room, self.window - int(0.6 * self.window)))
        out = []
        size = self.size(pages) + more
        if size > high or size + least > self.window:
            users = [p for p in pages if p[1] == "user" and p[6] is None]
            for page in pages:
                if size <= min(int(high * 0.6 / 0.9), self.window - least):
                    break
                if not page[3] and page[1] != "system" and page not in (*users[-1:], pages[-1]):
                    out.append(page)
                    size -= page[4]
        if size + least > self.window:
            return None
        return out

    def enter(self, new, more=0, room=0, least=0):
        out = self.make_room(new, more, room, least)
        if out is None:
            return False
        self.next += len(new)
        self.here = self.here + new
        self.leave(out)
        return True

    def leave(self, out):
        self.here = [page for page in self.here if page not in out]
        for id, role, text, _, _, message, source in out:
            if source is not None:
                continue
            for n, (piece, _) in enumerate(cut(small(), role, text, self.limit)):
                if n:
                    id, self.next = self.next, self.next + 1
                self.gone[id] = [role, piece, message]

    def named(self, id):
        return [page for page in self.here if id in (page[0], page[5])]

    def view(self):
        return [[page[0], page[2], page[3], page[4], page[5], page[6]] for page in self.here], sorted(self.gone)


def script(r):
    """Give random calls."""
    for _ in range(r.randint(5, 25)):
        text = " ".join(r.choice(["alpha", "beta", "gamma. ", "delta\n"]) for _ in range(r.choice([1, 3, 8, 60])))
        yield r.choice(
            [
                ["append", r.choice(["user", "tool", "tool", "assistant"]), text, r.random() < 0.1],
                ["append", "system", text[:20], False],
                ["think", text if r.random() < 0.7 else None, r.choice([1, 5, 30, 400])],
                ["pin", r.randint(0, 12), r.random() < 0.3],
                ["evict", r.randint(0, 15)],
                ["forget", r.randint(0, 15)],
                ["recall", r.choice(["alpha", "gamma delta"]), r.randint(1, 3), r.choice([10, 60])],
            ]
        )


async def actor(script):
    seen = []
    for step in script:
        outcome = None
        with suppress(SyscallError):
            match step:
                case ["append", role, text, pinned]:
                    outcome = await Append(role=role, text=text, pinned=pinned)
                case ["think", prompt, n]:
                    outcome = (await Think(prompt=prompt, max_tokens=n)).text
                case ["pin", id, pinned]:
                    outcome = await Pin(page=id, pinned=pinned) or "done"
                case ["evict", id]:
                    outcome = await Evict(pages=[id]) or "done"
                case ["forget", id]:
                    outcome = await Forget(page=id) or "done"
                case ["recall", query, k, budget]:
                    found = await Recall(query=query, k=k, budget=budget, load=True)
                    outcome = [[f.id, f.role, f.text, f.tokens] for f in found]
        pages = await Pages()
        here = [[p.id, p.text, p.pinned, p.tokens, p.message, p.recalled] for p in pages if p.resident]
        seen.append([step, outcome, here, [p.id for p in pages if not p.resident]])
    return seen


def judge(model, what):
    """Compare what a program saw after each call with the model."""
    step, outcome, here, gone = what
    match step:
        case ["append", role, text, pinned]:
            id = model.next
            assert outcome == (id if model.enter(model.pages(role, text, pinned)) else None)
        case ["think", prompt, n]:
            new = model.pages("user", prompt) if prompt is not None else []
            fits = model.enter(new, more=1, room=n + 1, least=2)
            assert (outcome is not None) == fits
            if fits:
                room = model.window - model.size(model.here) - 2
                assert len(outcome) == min(n, room), "an answer gets the room that there is"
                heavy = any(p[3] or p[1] == "system" or p[4] > model.window // 4 for p in model.here)
                assert len(outcome) >= min(n, int(0.4 * model.window) - 1) or heavy
                page = [model.next, "assistant", outcome, False, len(outcome) + 2, model.next, None]
                model.here, model.next = [*model.here, page], model.next + 1
        case ["pin", id, pinned]:
            assert (outcome is not None) == bool(model.named(id))
            for page in model.named(id):
                page[3] = pinned
        case ["evict", id]:
            known = model.named(id) or [i for i, page in model.gone.items() if id in (i, page[2])]
            allowed = known and not any(page[3] for page in model.named(id))
            assert (outcome is not None) == bool(allowed)
            if allowed:
                model.leave(model.named(id))
        case ["forget", id]:
            out = [i for i, page in model.gone.items() if id in (i, page[2])]
            gone_ids = {*out, *(page[0] for page in model.named(id))}
            assert (outcome is not None) == bool(gone_ids)
            model.here = [p for p in model.here if p[0] not in gone_ids and p[6] not in gone_ids]
            for i in out:
                del model.gone[i]
        case ["recall", _, k, budget] if outcome is not None:
            assert len(outcome) <= k
            assert sum(tokens for *_, tokens in outcome) <= budget
            for id, role, text, tokens in outcome:
                assert model.gone[id][:2] == [role, text]
                assert tokens == len(text) + 2
            loaded = {page[6] for page in model.here}
            new = sorted(page for page in outcome if page[0] not in loaded)
            at = enumerate(new, model.next)
            assert not new or model.enter([[i, role, text, False, n, i, id] for i, (id, role, text, n) in at])
    assert (here, gone) == model.view()
    assert model.size(model.here) <= model.window


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_do_what_a_plain_model_does(seed):
    r = random.Random(seed)
    calls, window = [*script(r)], r.choice([128, 256, 300])

    async def main():
        return await actor(calls)

    def played(*crashes):
        store, world = Mortal(), World()
        for store.crash in [*crashes, (0, "")]:
            store.reopen()
            sim = boot(main, store=store, world=world, machine=small(window), budget=1)
            with suppress(Killed):
                while True:
                    sim.step()
                    look(sim, window)
                    if not sim.wait():
                        clean(sim)
                        return Ended(sim).value, store.commits
        raise AssertionError("it died once more than it was killed")

    seen, commits = played()
    assert len(seen) == len(calls)
    model = Model(window)
    for what in seen:
        judge(model, what)
    for _ in range(6):
        crash = r.randint(1, commits), r.choice(["before", "after"])
        assert played(crash)[0] == seen, f"killed {crash}"


def look(sim, window):
    """The window is never exceeded; the pages that memory knows of are those that the store has."""
    process = sim.kernel.procs.get(MAIN)
    ctx = process and process.root and process.root.ctx
    if not ctx:
        return
    assert len(ctx.tokens) <= window
    rows = {row[2]: row for row in sim.store.read("page", (process.pid, ""))}
    assert {*rows} == {*ctx.archived}
    for id, row in rows.items():
        page = ctx.archived[id]
        assert row[3:6] == (page.message, page.role, page.tokens)
        assert row[6].startswith(page.text.removesuffix("…"))
    assert {row[2] for row in sim.store.read("vector", (process.pid,))} <= {*rows}


# ---- Recall


def test_recall_finds_what_has_left_and_only_that():
    async def main():
        empty = await Recall(query="cat")
        ids = await learn()
        await Append(text="I have a cat, too.")
        found = await Recall(query="Has Ada got a cat?", k=2)
        return [empty, ids, [f.model_dump() for f in found], [f.id for f in await Recall(query="Turin", k=9)]]

    empty, ids, found, ranked = always(main)
    assert empty == []
    assert ids == [0, 1, 2, 3]
    assert [f["text"] for f in found][:1] == [FACTS[0]]
    assert found[0] | {"score": 0} == {"id": 0, "role": "tool", "text": FACTS[0], "score": 0, "tokens": 38}
    assert 1 >= found[0]["score"] > found[1]["score"] >= 0
    assert ranked == [3, 0, 1, 2], "the same score: the older page first"


def test_the_budget_holds_and_what_does_not_fit_is_passed_over():
    async def main():
        sizes = (100, 20, 60, 10)
        await Evict(pages=[await Append(text="cat " * (n // 4)) for n in sizes])
        return [[f.tokens for f in await Recall(query="cat", budget=n)] for n in (0, 12, 80, 90, 110, 10**6)]

    sizes = run(main)
    assert sizes == [[], [10], [22, 10], [22, 62], [102], [102, 22, 62, 10]]


def test_what_is_loaded_comes_behind_all_and_is_never_stored_again():
    async def main():
        await learn()
        await Append(text="now")
        found = [f.id for f in await Recall(query="Ada, cats, trains, noon", k=2, load=True)]
        again = [f.id for f in await Recall(query="train", k=1, load=True)]
        pages = [(p.text, p.recalled) for p in await Pages() if p.resident]
        thought = (await Think(prompt="so?", max_tokens=4)).prompt_tokens
        await Evict(pages=[p.id for p in await Pages() if p.recalled is not None])
        left = [(p.id, p.resident) for p in await Pages()]
        return [found, again, pages, thought, left, [f.id for f in await Recall(query="train", k=9)]]

    found, again, pages, thought, left, after = always(main)
    assert sorted(found) == [0, 3]
    assert again == [3]
    assert pages == [["now", None], [FACTS[0], 0], [FACTS[3], 3]], "in the order of the conversation, and once"
    assert thought == 5 + len(FACTS[0]) + len(FACTS[3]) + 4 + 5 + 1
    assert left == [[n, False] for n in range(4)] + [[4, True], [7, True], [8, True]]
    assert sorted(after) == [0, 1, 2, 3]


def test_what_is_loaded_takes_a_quarter_of_the_window_and_is_paid_for():
    async def child():
        await Evict(pages=[await Append(text=f"cat {n} " + "x" * 20) for n in range(12)])
        found = await Recall(query="cat", k=12, budget=10**6, load=True)
        poor = await errno(Recall(query="cat 11", k=12, budget=10**6, load=True))
        elsewhere = await errno(Recall(query="cat", load=True, pid=await GetPid()))
        return [sum(f.tokens for f in found), poor, elsewhere]

    async def main():
        paid = (12 * 28 + 2) + 56
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=paid)))).value

    size, poor, elsewhere = always(main, child, **SMALL)
    assert size == 56 <= 64
    assert poor == "EDQUOT"
    assert elsewhere == "EINVAL"


def test_a_process_reads_its_own_memory_and_that_of_its_children_and_others_with_a_capability():
    async def child(boss):
        await learn()
        await Append(text="here")
        await Send(to=boss, body="ready")
        await Recv()

    async def stranger(pid):
        async def look():
            return [await errno(Pages(pid=pid)), await errno(Recall(query="cat", k=1, pid=pid))]

        refused = await look()
        await Send(to=2, body="refused")
        await Recv()
        [pages, found] = await look()
        await Drop()
        return [refused, len(pages), found[0].text, await errno(Embed(texts=["x"])), await Recall(query="cat")]

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv(sender=pid)
        mine = [await Recall(query="cat"), (await Recall(query="cat", k=1, pid=pid))[0].text]
        seen = [p.resident for p in await Pages(pid=pid)]
        other = await Spawn(program="stranger", args=[pid], caps=["send:*", "think"])
        await Recv(sender=other)
        await Grant(pid=other, caps=["read:*"])
        await Send(to=other)
        theirs = (await Wait(pid=other)).value
        await Kill(pid=pid)
        await Wait(pid=pid)
        return [mine, seen, theirs, await errno(Pages(pid=pid)), await errno(Recall(query="cat", pid=pid))]

    mine, seen, theirs, *gone = always(main, child, stranger, step=3)
    assert mine == [[], FACTS[0]]
    assert seen == [False] * 4 + [True]
    assert theirs == [["EPERM", "EPERM"], 5, FACTS[0], "EPERM", []]
    assert gone == ["ESRCH", "ESRCH"]


def test_embed_gives_vectors_of_length_one():
    async def main():
        return [await Embed(texts=["a cat", "cats", ""]), await Embed(texts=[])]

    [a, b, empty], nothing = always(main)
    assert len(a) == len(b) == ToyEncoder.dimensions
    assert sum(x * x for x in a) == pytest.approx(1)
    assert sum(x * y for x, y in zip(a, b, strict=True)) == pytest.approx(2**-0.5)
    assert set(empty) == {0}
    assert nothing == []


# ---- Evict, Pin, Forget


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

    assert run(main, child) == [1, 2, 3]


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


# ---- copies: branches, Fork, Exec


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


# ---- the encoder, and the edge


class Broken(ToyEncoder):
    name = "broken"

    def embed(self, texts):
        raise ValueError("no such layer")


class Other(ToyEncoder):
    name, dimensions = "other", 32


def test_an_encoder_that_fails_is_an_error_of_who_asked():
    async def main():
        await learn()
        await Sleep(seconds=5)
        return [await told(Recall(query="cat")), await told(Embed(texts=["x"]))]

    text = "EIO: the encoder broken failed: ValueError: no such layer"
    store, world = Mortal(), World()
    sim = boot(main, store=store, world=world, encoder=Broken())
    assert Ended(sim.run(1000)).value == [text, text]
    with pytest.raises(EIO, match="another number or size"):
        encode(type("Short", (ToyEncoder,), {"embed": lambda self, texts: []})(), ["x"])


def test_without_an_encoder():
    async def main():
        await learn()
        return [await told(Recall(query="cat")), await told(Embed(texts=["x"])), await resident()]

    sim = boot(main)
    sim.archive = Archive(sim.store, None)
    value = Ended(sim.run(1000)).value
    assert value[0] == value[1]
    assert value[0].startswith("ENOENT: no encoder")
    assert value[2] == []


def test_another_encoder_at_the_next_boot_makes_all_vectors_anew():
    async def main():
        await learn()
        await Sleep(seconds=9)
        return [f.text for f in await Recall(query="Ada's cat", k=1)]

    store, world = MemoryStore(), World()
    sim = boot(main, store=store, world=world)
    sim.step()
    while len(store.tables["vector"]) < 4:
        sim.wait()
        sim.step()
    sim = boot(main, store=store, world=world, encoder=Other())
    sizes = set()
    while True:
        sim.step()
        sizes |= {(row[3], len(row[4])) for row in store.read("vector", ())}
        if not sim.wait():
            break
    clean(sim)
    assert ("other", 4 * 32) in sizes
    assert Ended(sim).value == [FACTS[0]]


@pytest.mark.parametrize("fresh", [0, 5, 20])
def test_search_is_exact_over_any_number_of_chunks(monkeypatch, fresh):
    monkeypatch.setattr(edge, "CHUNK", 7)
    r, store = random.Random(fresh), MemoryStore()
    texts = [" ".join(r.choices("abcdefgh", k=5)) for _ in range(40)]
    keys = [(1, "" if n % 3 else "0:1.", n) for n in range(40)]
    store.commit({"page": {key: (*key, key[2], "user", 3, text) for key, text in zip(keys, texts, strict=True)}})
    vectors = ToyEncoder().embed(texts)
    known = {key: (*key, "toy-128", pack(v)) for key, v in [*zip(keys, vectors, strict=True)][fresh:]}
    store.commit({"vector": known, "page": {(2, "", 0): (2, "", 0, 0, "user", 3, "a b c")}})
    shelf = Archive(store, ToyEncoder())
    while batch := shelf.batch():
        shelf.embedded(batch[0], encode(ToyEncoder(), batch[1]))
    [query] = ToyEncoder().embed(["a b c d"])
    *_, found = shelf.search(Search("k", ((1, ""), (1, "0:1.")), "a b c d", 9), query)
    scores = {n: round(sum(map(float.__mul__, query, v)), 5) for n, v in enumerate(vectors)}
    assert [f["id"] for f in found] == sorted(scores, key=lambda n: (-scores[n], n))[:9]


def test_products_without_numpy_are_the_same(monkeypatch):
    vectors = ToyEncoder().embed(["a b", "b c d", "e"])
    packed, query = [pack(v) for v in vectors], vectors[1]
    fast = products(packed, query)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert products(packed, query) == pytest.approx(fast)
    assert fast == pytest.approx([6**-0.5, 1, 0], abs=1e-6)
    assert products([], query) == []


# ---- the real edge


async def rememberer(marker):
    await learn()
    await Sleep(seconds=0.01)
    if marker and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    found = await Recall(query="which cat has Ada?", k=1, load=True)
    return [[f.text for f in found], await resident(), len(await Embed(texts=["x"] * 20))]


def test_a_system_that_is_killed_remembers(tmp_path):
    code = (
        "import anyio, sys; sys.path.insert(0, sys.argv[1]); import test_memory, tokix\n"
        "print(tokix.run(test_memory.rememberer, sys.argv[3], state=sys.argv[2]).value)"
    )
    here = os.path.dirname(__file__)
    arguments = [sys.executable, "-c", code, here, str(tmp_path / "state"), str(tmp_path / "marker")]
    first = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert first.returncode == -signal.SIGKILL, first.stderr
    store = SqliteStore(tmp_path / "state" / "tokix.db")
    assert [row[-1] for row in store.read("page", ())] == [*FACTS]
    store.close()

    async def again():
        with anyio.fail_after(20):
            async with real_boot(tmp_path / "state", programs={"test_memory:rememberer": rememberer}) as system:
                while any(p.program.endswith("rememberer") for p in system.kernel.procs.values()):
                    await anyio.sleep(0.001)
                return [row for row in system.store.dead() if "rememberer" in row[3]]

    [row] = anyio.run(again)
    assert FACTS[0] in row[15]
    assert '"reason":"exit"' in row[15]
    store = SqliteStore(tmp_path / "state" / "tokix.db")
    assert store.read("page", ()) == store.read("vector", ()) == []
    store.close()


def test_pages_are_embedded_while_the_machine_is_idle(tmp_path):

    async def idler():
        await Evict(pages=[await Append(text=f"page {n}") for n in range(20)])
        await Recv()

    async def play():
        store = MemoryStore()
        with anyio.fail_after(20):
            async with real_boot(store=store, programs={"idler": idler}) as system, system.attach("test") as client:
                pid = await client.call(Spawn(program="idler"))
                while len(store.tables["vector"]) < 20:
                    await anyio.sleep(0.001)
                found = await client.call(Recall(query="page 7", k=1, pid=pid))
                return found[0].text, system.desk.archive.pending, system.desk.archive.fresh

    assert anyio.run(play) == ("page 7", {}, {})


def test_a_real_system_without_an_encoder_says_so():

    async def play(encoder):
        with anyio.fail_after(20):
            async with real_boot(machine=small(), encoder=encoder, drivers={}) as system, system.attach("t") as client:
                ids = [await client.call(Append(text="x"))]
                await client.call(Evict(pages=ids))
                with pytest.raises((ENOENT, EIO)) as caught:
                    await client.call(Recall(query="x"))
                return str(caught.value)

    assert anyio.run(play, None).startswith("ENOENT: no encoder")
    assert anyio.run(play, Broken()) == "EIO: the encoder broken failed: ValueError: no such layer"


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
