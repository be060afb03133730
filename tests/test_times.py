"""When it was said: pages and journals know, and a search can ask for it."""

from bench import Bench, forever
from facts import learn, listed
from harness import MAIN, always, boot, run
from tokix.syscalls import (
    Append,
    Evict,
    Exec,
    Forget,
    Fork,
    GetPid,
    Journal,
    Map,
    Pages,
    Recall,
    Sleep,
    Think,
    Unlink,
    Wait,
)


def test_pages_and_entries_have_the_time_of_their_call():
    async def main():
        await Append(text="first")
        await Sleep(seconds=100)
        await Think(prompt="second", max_tokens=2)
        journal = await Journal(pid=await GetPid())
        born = [journal[page.born].call.partition("{")[0] for page in await Pages()]
        return [page.at for page in await Pages()], [e.at for e in journal], born

    (first, prompt, answer), entries, born = run(main)
    assert born == ["append", "think", "think"]
    assert prompt == answer
    assert 100 <= prompt - first < 110, "a page is said when its call is decided"
    assert (first, answer) == (entries[0], entries[2])
    assert entries == sorted(entries)


def test_a_restart_and_a_fork_change_no_time():
    """What was said before a kill was said then, whenever the next kernel boots."""

    async def main():
        await learn()
        await Sleep(seconds=100)
        await Append(text="the cat again")
        if not await Fork():
            pages = await listed()
            return [page.at for page in pages], [e.at for e in await Journal(pid=MAIN, last=99)][: len(pages)]
        return await times(await Wait())

    async def times(status):
        mine, entries = status.value
        said = [page.at for page in await listed()]
        return [mine == said, round(said[4] - said[0], -1), len(entries)]

    assert always(main) == [True, 100.0, 5]


def test_a_search_between_two_times():
    async def main():
        await learn()
        await Sleep(seconds=100)
        await learn()
        old, new = (page.at for page in await Pages() if page.id in (3, 4))
        found = []
        for how in ("fused", "dense", "lexical"):
            for since, until in ((None, None), (new, None), (None, new), (old, old + 1), (new + 1, None)):
                pages = await Recall(query="cat called Turing", k=9, how=how, since=since, until=until)
                found.append([how, sorted(page.id for page in pages if "cat" in page.text)])
                assert all(page.at == (old if page.id < 4 else new) for page in pages)
        return found

    each = ([0, 4], [4], [0], [0], [])
    assert run(main) == [[how, ids] for how in ("fused", "dense", "lexical") for ids in each]


def test_copies_have_the_time_of_what_they_are_copies_of():
    async def main():
        await learn()
        await Sleep(seconds=100)
        [found] = await Recall(query="safe", k=1, load=True)
        [copy] = [page for page in await Pages() if page.recalled == found.id]
        return found.at == copy.at

    assert always(main) is True


def test_times_go_through_exec():
    async def main(before=None):
        if before is None:
            await learn()
            await Append(text="here")
            await Exec(program="main", args=[[page.at for page in await Pages()]])
        return before == [page.at for page in await Pages()]

    assert always(main) is True


def test_pages_of_a_region_have_the_time_of_their_call():
    async def main():
        await Map(region="facts", append=True)
        await Append(text="a cat", region="facts")
        await Sleep(seconds=100)
        await Append(text="another cat", region="facts")
        first, second = (page.at for page in await Pages(region="facts"))
        entries = [entry.at for entry in await Journal(pid=MAIN) if entry.call.startswith("append")]
        [late] = await Recall(query="cat", since=second)
        await Unlink(region="facts")
        return [[first, second] == entries, round(second - first, -1), late.text]

    assert always(main) == [True, 100.0, "another cat"]


def test_what_was_forgotten_is_a_digest_in_the_journal_and_a_replay_knows_it_again():
    async def main():
        await Append(text="an open secret")
        secret = await Append(text="my secret is Turing")
        answer = await Think(prompt="what is Turing?", max_tokens=2)
        await Forget(page=secret)
        await Forget(page=secret + 1)
        await Sleep(seconds=5)
        log = [entry.call for entry in await Journal(pid=await GetPid())]
        return [call for call in log if "forgotten" in call], ["Turing" in call for call in log], answer.tokens

    buried, found, _ = always(main)
    assert [call.partition("{")[0] for call in buried] == ["append", "think"]
    assert not any(found)


def test_another_text_in_the_place_of_what_was_forgotten_is_a_divergence():
    def made(text):
        async def main():
            await Forget(page=await Append(text=text))
            await Sleep(seconds=50)
            return "done"

        return main

    sim = boot(made("a secret"))
    while sim.wait():
        sim.step()
        if any(entry.call.startswith("forget") for entry in sim.kernel.procs[MAIN].log):
            break
    for text, parked in (("a secret", ""), ("another", "at call 1 the program differs from its journal")):
        again = boot(made(text), store=sim.store)
        assert again.kernel.procs[MAIN].parked.startswith(parked)
        assert bool(again.kernel.procs[MAIN].parked) == bool(parked)


def test_what_is_forgotten_in_a_child_stays_with_its_parent():
    async def main():
        await Append(text="a secret")
        if not await Fork():
            await Forget(page=0)
            return next(e.call for e in await Journal(pid=await GetPid()))
        status = await Wait()
        return [status.value[:18], next(e.call for e in await Journal(pid=MAIN))]

    assert always(main) == ['append{"forgotten"', 'append{"text":"a secret"}']


def test_of_an_answer_nothing_is_buried():
    async def main():
        await Think(prompt="why?", max_tokens=2)
        await Forget(page=1)
        return next(entry.call for entry in await Journal(pid=MAIN))

    assert run(main) == 'think{"prompt":"why?","max_tokens":2}'


def test_what_came_before_an_exec_has_no_entry_in_the_new_journal():
    """To forget it must not bury what is in its place there."""

    async def main(again=False):
        if not again:
            await Append(text="an old secret")
            await Evict(pages=[await Append(text="and another")])
            await Exec(program="main", args=[True])
        await Append(text="new words")
        await Append(text="more of them")
        born = [page.born for page in await listed()]
        await Forget(page=0)
        await Forget(page=1)
        return [born, ["forgotten" in entry.call for entry in await Journal(pid=MAIN)][:2]]

    assert always(main) == [[None, None, 0, 1], [False, False]]


def test_a_foreign_process_keeps_its_calls_for_its_context_is_made_again_from_them():
    bench = Bench(forever)
    pid = bench.attach()
    assert [bench.trap(pid, key, Append(text=key)) for key in ("a", "b")] == [0, 1]
    assert bench.trap(pid, "c", Forget(page=0)) is None
    bench.boot()
    assert [page.text for page in bench.trap(pid, "d", Pages())] == ["b"]
    assert bench.trap(pid, "e", Append(text="e")) == 2
