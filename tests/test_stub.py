"""The stub: what stands in the window for what has left it."""

import pytest

from facts import FACTS, SMALL, learn, listed, small
from harness import always, boot, run
from tokix.kernel.context import STUB, Page
from tokix.kernel.stubs import MOST, PART, stub
from tokix.syscalls import Advise, Append, Evict, Forget, Pages, Think


async def stubs():
    return [(page.role, page.text, page.tokens) for page in await Pages() if page.id == STUB]


def record(id, text, role="user", message=None):
    return Page(role, 9, False, text, id, id if message is None else message)


def test_it_says_how_many_are_gone_and_how_the_latest_begin():
    page, tokens = stub(small(), 40, [record(n, f"message {n:03}") for n in range(40)], 2048)
    head, *lines = page.text.splitlines()
    assert head == "In the archive: 40 pages. Some begin:"
    assert lines == [f"- user: message {n:03}" for n in range(40 - len(lines), 40)]
    assert page.tokens == len(tokens) <= MOST
    assert tokens == small().render("system", page.text)


def test_the_user_comes_first_and_a_message_once():
    said = [record(0, "asked"), record(1, "a b", "tool"), record(2, "c d", "tool", 1), record(3, "said", "assistant")]
    page, _ = stub(small(), len(said), said, 100_000)
    assert page.text.splitlines()[1:] == ["- user: asked", "- tool: a b", "- assistant: said"]
    assert ": 4 pages" in page.text


@pytest.mark.parametrize("window", [256, 2048, 1_000_000])
def test_it_is_bounded(window):
    made = stub(small(), 99, [record(n, "word " * 12) for n in range(99)], window)
    assert made is None if window < 2048 else made[0].tokens <= min(MOST, window // PART)
    assert stub(small(), 0, [], window) is None


def test_it_comes_when_pages_leave_by_themselves_and_stands_behind_the_system_prompt():
    async def main():
        await Append(role="system", text="be good")
        await Append(text="keep", pinned=True)
        seen = []
        for n in range(60):
            await Append(role="tool", text=f"{n:02} " + "x" * 60)
            pages = await Pages()
            seen.append([sum(p.resident is False for p in pages), *(p.text for p in pages if p.id == STUB)])
        return seen

    seen = always(main, machine=small(2048, 200))
    with_one = [(gone, *text) for gone, *text in seen if gone]
    assert not any(text for gone, *text in seen if not gone)
    assert all(f": {gone} pages" in text for gone, text in with_one)


def test_it_is_part_of_what_the_model_reads_behind_what_never_leaves():
    async def main():
        await Append(role="system", text="be good")
        for n in range(40):
            await Append(text=f"{n:02} " + "x" * 60)
        return len(await stubs())

    machine = small(2048, 200)
    sim = boot(main, machine=machine, budget=1)
    told = []
    while True:
        sim.step()
        for process in sim.kernel.procs.values():
            ctx = process.root and process.root.ctx
            if ctx and any(page.id == STUB for page in ctx.pages):
                at = next(n for n, page in enumerate(ctx.pages) if page.id == STUB)
                assert [page.role for page in ctx.pages[:at]] == ["system"]
                texts = [(page.role, page.text) for page in ctx.pages]
                assert ctx.tokens == [token for role, text in texts for token in machine.render(role, text)]
                told.append(at)
        if not sim.wait():
            break
    assert told


def test_what_a_program_moves_itself_makes_none():
    async def main():
        await learn()
        return await stubs()

    assert run(main) == []


def test_what_is_forgotten_is_not_in_it():
    async def main():
        ids = [await Append(text=fact) for fact in FACTS]
        for n in range(40):
            await Append(text=f"{n:02} " + "x" * 60, role="tool")
        before = await stubs()
        await Forget(page=ids[2])
        return before, await stubs(), [p.id for p in await Pages() if not p.resident]

    [[_, before, _]], [[_, after, _]], gone = always(main, machine=small(2048, 200))
    assert FACTS[2] in before
    assert FACTS[2] not in after
    assert f": {len(gone)} pages" in after


def test_who_wants_none_has_none():
    async def main():
        await Advise(stub=False)
        for n in range(40):
            await Append(text=f"{n:02} " + "x" * 60)
        without = await stubs()
        await Advise(stub=True)
        for n in range(40):
            await Append(text=f"{n:02} " + "x" * 60)
        some = len(await stubs())
        await Advise(stub=False)
        await Evict(pages=[p.id for p in await listed() if p.resident][:2])
        return without, some, await stubs(), (await Think(max_tokens=3)).reason

    assert always(main, machine=small(2048, 200)) == [[], 1, [], "length"]


def test_a_small_window_has_none():
    async def main():
        for n in range(20):
            await Append(text=f"{n:02} " + "x" * 60)
        return await stubs()

    assert run(main, **SMALL) == []
