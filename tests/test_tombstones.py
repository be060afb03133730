"""What is forgotten is nowhere any more: not in an image, not in what a file has brought, not among large texts."""

from facts import FACTS, SMALL, listed
from harness import MAIN, Ended, always, boot, clean, run
from stores import opened, put, row
from tokix.storage.schema import LARGE
from tokix.syscalls import (
    Append,
    Evict,
    Exec,
    Exit,
    Forget,
    Fork,
    Pages,
    Recall,
    Restore,
    Save,
    Sleep,
    Stat,
    Think,
    Wait,
)

SECRET = FACTS[0]


def kept(sim, word="Turing"):
    """Name the tables that have a word."""
    rows = {**sim.store.load(), "page": sim.store.read("page", ())}
    return {table for table, found in rows.items() if word in str(found)}


def never_again(*programs, **options):
    """Assert that no row has the secret from the third `Forget` of main on; gives how main ends."""
    sim, looks = boot(*programs, budget=1, **options), 0
    while True:
        sim.step()
        log = sim.kernel.procs[MAIN].log if MAIN in sim.kernel.procs else []
        if sum(entry.call.startswith("forget") for entry in log) == 3:
            assert kept(sim) == set()
            looks += 1
        if not sim.wait():
            break
    assert looks
    clean(sim)
    return Ended(sim).value


async def goes_on():
    """Say what is left, alone and in a child, after two more thoughts."""
    texts = [page.text for page in await listed()]
    first = await Think(prompt="and?", max_tokens=5)
    if not (child := await Fork()):
        await Exit(value=[(await Think(prompt="so?", max_tokens=5)).tokens, [page.text for page in await listed()]])
    return [texts, first.tokens, (await Wait(pid=child)).value, [found.id for found in await Recall(query="cat", k=9)]]


def test_what_came_through_an_exec():
    async def main():
        await Append(text=SECRET)
        await Append(text=SECRET + " Yes.")
        await Append(text=FACTS[1])
        await Think(prompt="well?", max_tokens=5)
        await Evict(pages=[1])
        return await Exec(program="after")

    async def after():
        again = await Append(text=SECRET)
        await Append(text="a new text, and " * 20)  # pages may leave for it
        await Forget(page=0)
        await Think(prompt="what?", max_tokens=3)
        await Forget(page=1)
        await Forget(page=again)  # the image has it since the others were forgotten
        return await goes_on()

    value = always(main, after, **SMALL)
    assert value == never_again(main, after, **SMALL)
    assert not any("Turing" in text for text in value[0])
    assert value[3]


def test_what_a_file_has_brought(file):
    async def tell():
        await Append(text=SECRET)
        await Evict(pages=[await Append(text=SECRET + " Yes.")])
        await Append(text=FACTS[1])
        await Save(path=file)

    async def main():
        await Restore(path=file)
        await Think(prompt="what?", max_tokens=3)
        again = await Append(text=SECRET)
        await Forget(page=0)
        await Append(text="a new text")
        await Forget(page=again)
        await Forget(page=1)
        return await goes_on()

    run(tell)
    value = always(main)
    assert value == never_again(main)
    assert value[0][0] == FACTS[1]


def test_when_pages_were_used_last_is_known_without_the_answer():
    async def main():
        for fact in FACTS[:2]:
            await Append(text=fact)
        await Exec(program="after")

    async def after():
        await Think(prompt="what?", max_tokens=3)
        await Forget(page=3)  # the answer
        await Forget(page=0)
        await Sleep(seconds=5)
        before = [[page.id, page.used] for page in await Pages()]
        await Evict(pages=[1])
        if not await Fork():
            await Exit(value=[[page.id, page.used] for page in await Pages()])
        return [before, (await Wait()).value]

    assert always(main, after) == [[[1, 3], [2, 3]], [[1, 3], [2, 3]]]


def test_the_budget_counts_what_was_before():
    async def main():
        await Append(text=SECRET)
        await Exec(program="after")

    async def after():
        await Think(prompt="what?", max_tokens=9)
        await Forget(page=0)
        await Think(prompt="and?", max_tokens=9)
        [me] = [process for process in await Stat() if process.pid == MAIN]
        return me.tokens

    assert always(main, after) > 18


def test_large_text_goes_with_the_commit_of_a_forget(path):
    said, large = row("journal", pid=1, call="append"), "x" * (LARGE + 1)
    with opened(path) as store:
        store.commit(put("process", row("process", pid=1)))
        store.commit(put("journal", (*said[:4], large, *said[5:])))
        forget = row("journal", pid=1, seq=1, call='forget{"page":0}')
        store.commit(put("journal", said, forget))
        assert store._raw.execute("SELECT count(*) FROM blob").fetchone() == (0,)
        store.check()
