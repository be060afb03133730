"""Regions: what one process writes down, others find, if they have mapped it."""

import pytest

from facts import FACTS, SMALL
from harness import MAIN, always, boot, clean, errno, run, told
from tokix.kernel.events import Embedded
from tokix.syscalls import (
    Advise,
    Append,
    Drop,
    Evict,
    Exec,
    Forget,
    Fork,
    GetPid,
    Kill,
    Limits,
    Map,
    Pages,
    Recall,
    Recv,
    Regions,
    Send,
    Sleep,
    Spawn,
    Stat,
    Think,
    Unlink,
    Unmap,
    Wait,
    gather,
)


async def shelf(region="facts"):
    """Fill a region."""
    await Map(region=region, append=True)
    return [await Append(role="tool", text=fact, region=region) for fact in FACTS]


def test_what_one_appends_another_finds():
    async def main():
        ids = await shelf()
        pid = await Spawn(program="child")
        found = (await Wait(pid=pid)).value
        await Unlink(region="facts")
        return [ids, found, await Regions()]

    async def child():
        before = await Recall(query="cat")
        await Map(region="facts")
        found = await Recall(query="which cat has Ada?", k=2)
        listed = [(page.id, page.role, page.text, page.resident, page.region) for page in await Pages(region="facts")]
        [info] = await Regions()
        return [len(before), found[0].text, found[0].region, listed, [info.creator, info.appended, info.mapped]]

    ids, (before, text, region, listed, info), after = always(main, child)
    assert (ids, before, text, region) == ([0, 1, 2, 3], 0, FACTS[0], "facts")
    assert listed == [[n, "tool", fact, False, "facts"] for n, fact in enumerate(FACTS)]
    assert info == [MAIN, 4, "read"]
    assert after == []


def test_a_region_outlives_who_has_made_it_and_a_restart():
    async def main():
        await Wait(pid=await Spawn(program="child"))
        await Sleep(seconds=10)
        await Map(region="facts")
        found = [page.id for page in await Recall(query="Turin", k=1)]
        await Unlink(region="facts")
        return found

    async def child():
        await shelf()

    assert always(main, child) == [3]


def test_rights():
    async def main():
        refused = [
            await told(Map(region="facts")),
            await told(Append(text="x", region="facts")),
            await told(Recall(query="x", region="facts")),
            await told(Pages(region="facts")),
            await told(Unmap(region="facts")),
            await told(Unlink(region="facts")),
            await told(Forget(page=0, region="facts")),
        ]
        await shelf()
        wrong = [
            await told(Append(text="x", region="facts", pinned=True)),
            await told(Recall(query="x", region="facts", pid=MAIN)),
            await told(Pages(region="facts", pid=MAIN)),
            await told(Forget(page=4, region="facts")),
        ]
        pid = await Spawn(program="child", caps=["map:facts", "spawn:*"])
        value = (await Wait(pid=pid)).value
        await Unlink(region="facts")
        return refused, wrong, value

    async def child():
        await Map(region="facts")
        read = [
            len(await Recall(query="cat", region="facts", k=1)),
            await told(Append(text="x", region="facts")),
            await errno(Map(region="facts", append=True)),
            await errno(Map(region="others")),
            await errno(Unlink(region="facts")),
            await errno(Forget(page=0, region="facts")),
        ]
        await Drop()
        return [*read, len(await Recall(query="cat", region="facts", k=1)), await errno(Map(region="facts"))]

    refused, wrong, child_read = run(main, child)
    missing = "no region facts: the first that maps it to append makes it"
    unmapped = "EBADF: the region facts is not mapped: call Map first"
    assert refused == [
        f"ENOENT: {missing}",
        *[unmapped] * 3,
        "ENOENT: the region facts is not mapped",
        *[f"ENOENT: {missing}"] * 2,
    ]
    assert [text.partition(":")[0] for text in wrong] == ["EINVAL"] * 3 + ["ENOENT"]
    reading = "EBADF: the region facts is mapped to read only: call Map with append"
    assert child_read == [1, reading, "EPERM", "EPERM", "EPERM", "EPERM", 1, "EPERM"]


def test_a_search_without_a_name_goes_through_the_archive_and_all_that_is_mapped():
    async def main():
        await shelf()
        await shelf("more")
        await Unmap(region="more")
        own = await Append(text="My own cat is called Gauss.")
        await Evict(pages=[own])
        everywhere = [(page.region, page.id) for page in await Recall(query="cat called", k=2)]
        alone = [page.region for page in await Recall(query="cat", k=9, region="facts")]
        of_me = [page.region for page in await Recall(query="cat", k=9, pid=await GetPid())]
        mapped = sorted({page.region for page in await Recall(query="cat", k=99)})
        for name in ("facts", "more"):
            await Unlink(region=name)
        after = [page.text for page in await Recall(query="cat", how="lexical")]
        return [sorted(everywhere), alone, of_me, mapped, after]

    everywhere, alone, of_me, mapped, after = always(main)
    assert everywhere == [["", 0], ["facts", 0]]
    assert alone == ["facts"] * 4
    assert of_me == [""]
    assert mapped == ["", "facts"], "not what was unmapped"
    assert after == ["My own cat is called Gauss."], "mapped, and no longer there"


def test_copies_come_into_the_window_once_and_are_not_stored():
    async def main():
        await shelf()
        own = await Append(text="a cat of my own")
        await Evict(pages=[own])
        for _ in range(2):
            await Recall(query="cat", k=2, load=True)
        copies = [(page.region, page.recalled, page.text) for page in await Pages() if page.recalled is not None]
        await Forget(page=own)
        left = [page.region for page in await Pages() if page.recalled is not None]
        await Forget(page=0, region="facts")
        left += [page.region for page in await Pages() if page.recalled is not None]
        await Evict(pages=[page.id for page in await Pages() if page.resident])
        after = [page.id for page in await Pages()]
        await Unlink(region="facts")
        return [copies, left, after]

    copies, left, after = always(main)
    assert copies == [["facts", 0, FACTS[0]], ["", 0, "a cat of my own"]], "what is shared goes first"
    assert left == ["facts", "facts"], "a copy of what others have forgotten stays"
    assert after == []


def test_a_copy_from_a_region_that_leaves_says_nothing_of_a_page_with_the_same_id():
    async def main():
        await shelf()
        own = await Append(text="a cat of my own")
        await Evict(pages=[own])
        await Recall(query="cat called Turing", k=1, load=True, region="facts")
        await Think(prompt="so?", max_tokens=4)
        [copy] = [page.id for page in await Pages() if page.recalled is not None]
        await Evict(pages=[copy])
        used = {page.id: page.used for page in await Pages()}
        await Unlink(region="facts")
        return [own, copy, used[own]]

    assert always(main) == [0, 1, None]


def test_demand_paging_looks_into_regions():
    async def main():
        await shelf()
        await Advise(demand=0.3)
        thought = await Think(prompt="which cat has Ada?", max_tokens=4)
        here = [(page.region, page.recalled) for page in await Pages() if page.recalled is not None]
        await Unlink(region="facts")
        again = await Think(prompt="which cat has Ada?", max_tokens=4)
        return [[(page.region, page.id) for page in thought.recalled], here, again.recalled]

    recalled, here, again = always(main)
    assert ["facts", 0] in recalled
    assert sorted(here) == sorted(recalled)
    assert again == []


def test_long_messages_are_several_pages_and_cost_what_they_have():
    async def main():
        await Map(region="r", append=True)
        text = "A sentence of some length. " * 40
        id = await Append(text=text, region="r")
        pages = await Pages(region="r")
        [info] = await Stat(pid=await GetPid())
        await Forget(page=id + 1, region="r")
        left = [page.id for page in await Pages(region="r")]
        [after] = await Regions()
        await Unlink(region="r")
        tokens = sum(page.tokens for page in pages)
        return [len(pages), info.tokens == tokens, {page.message for page in pages} == {id}, left, after.appended]

    many, exact, one_message, left, appended = always(main, **SMALL)
    assert many > 3
    assert exact
    assert one_message
    assert left == [0, *range(2, many)]
    assert appended == many


def test_a_long_list_comes_in_parts(monkeypatch):
    monkeypatch.setattr("tokix.kernel.calls.memory.LISTED", 3)

    async def main():
        await shelf()
        await Forget(page=1, region="facts")
        parts = [[page.id for page in await Pages(region="facts", start=start)] for start in (0, 1, 3, 4)]
        await Unlink(region="facts")
        return parts

    assert run(main) == [[0, 2, 3], [2, 3], [3], []]


def test_a_limit_holds_for_regions_too():
    async def main():
        child = await Spawn(program="child", limits=Limits(tokens=50))
        value = (await Wait(pid=child)).value
        await Unlink(region="r")
        return value

    async def child():
        await Map(region="r", append=True)
        await Append(text="x" * 30, region="r")
        return [await told(Append(text="x" * 30, region="r")), len(await Pages(region="r"))]

    assert run(main, child) == ["EDQUOT: the page has 32 tokens, 18 are left of the limit", 1]


def test_branches_fork_and_exec_keep_what_is_mapped():
    async def main(*before):
        if before:
            found = len(await Recall(query="cat", k=9, region="facts"))
            await Unlink(region="facts")
            return [*before, found]
        await shelf()

        async def branch(name):
            await Map(region=name, append=True)
            await Append(text=f"a {name}", region=name)
            await Append(text=f"{name} says: facts", region="facts")
            return [page.region for page in await Recall(query=name, k=1, region=name)]

        both = await gather(branch("one"), branch("two"))
        mapped = [info.name for info in await Regions() if info.mapped]
        for name in ("one", "two"):
            await Unlink(region=name)
        if not await Fork():
            return len(await Recall(query="cat", k=9, region="facts"))
        return await Exec(program="main", args=[both, mapped, (await Wait()).value])

    assert always(main) == [[["one"], ["two"]], ["facts"], 6, 6]


def test_a_region_that_is_made_again_has_nothing_of_the_old_one():
    async def main():
        child = await Spawn(program="child", args=[await GetPid()])
        await shelf()
        await Send(to=child)
        await Unlink(region="facts")
        await Map(region="facts", append=True)
        await Append(text="another cat", region="facts")
        found = [page.text for page in await Recall(query="cat", k=9)]
        await Recv()
        await Unlink(region="facts")
        return found, (await Wait(pid=child)).value

    async def child(boss):
        await Recv()
        await Map(region="facts", append=True)
        found = [page.text for page in await Recall(query="cat", k=9)]
        await Send(to=boss)
        return found

    own, others = run(main, child)
    assert own == ["another cat"]
    assert set(others) <= {"another cat", *FACTS}
    for budget in (1, 2, 3, 5):
        own, others = run(main, child, budget=budget)
        assert own == ["another cat"]


def test_no_kill_lets_ids_of_a_region_be_used_again():
    async def main():
        await shelf()
        await Recall(query="cat", k=1, load=True)
        await Unlink(region="facts")
        await Sleep(seconds=5)
        await Map(region="facts", append=True)
        id = await Append(text="another cat", region="facts")
        await Recall(query="cat", k=1, load=True)
        copies = [page.text for page in await Pages() if page.recalled is not None]
        [info] = await Regions()
        wrong = await errno(Forget(page=0, region="facts"))
        await Unlink(region="facts")
        return [id, copies, info.appended, wrong]

    assert always(main) == [4, [FACTS[0], "another cat"], 1, "ENOENT"]


def test_ids_are_not_used_again_after_the_end_of_a_smaller_region_either():
    async def main():
        await shelf()
        await Map(region="small", append=True)
        await Append(text="a cat", region="small")
        for name in ("facts", "small"):
            await Unlink(region=name)
        await Map(region="facts", append=True)
        id = await Append(text="another cat", region="facts")
        await Unlink(region="facts")
        return id

    assert always(main) == 4


def test_to_erase_a_page_twice_is_the_same_before_and_after_a_restart():
    async def main():
        await shelf()
        await Forget(page=1, region="facts")
        await Sleep(seconds=5)
        again = await errno(Forget(page=1, region="facts"))
        left = [page.id for page in await Pages(region="facts")]
        await Unlink(region="facts")
        return [again, left]

    assert always(main) == [None, [0, 2, 3]]


def test_a_list_has_nothing_that_was_erased_while_it_was_made():
    async def main():
        await shelf()

        async def erase():
            await Sleep(seconds=0.2)
            await Forget(page=0, region="facts")

        pages, _ = await gather(Pages(region="facts"), erase())
        await Unlink(region="facts")
        return [page.id for page in pages]

    assert run(main) == [1, 2, 3]


@pytest.mark.parametrize("how", ["dense", "lexical", "fused", "demand"])
def test_what_was_erased_while_a_search_went_on_is_not_found(how):
    async def main():
        await shelf()
        await Advise(demand=0.5)

        async def search():
            if how == "demand":
                return (await Think(prompt="cat called Turing", max_tokens=1)).recalled
            return await Recall(query="cat called Turing", k=9, how=how)

        async def erase():
            await Sleep(seconds=0.2)
            await Forget(page=0, region="facts")

        before = [page.id for page in await search()]
        found, _ = await gather(search(), erase())
        await Unlink(region="facts")
        return [0 in before, 0 in [page.id for page in found]]

    assert run(main) == [True, False]


def test_late_vectors_of_what_is_gone_are_not_kept():
    async def main():
        await shelf()
        await Forget(page=0, region="facts")
        await Sleep(seconds=20)
        await Unlink(region="facts")
        await Sleep(seconds=20)

    sim = boot(main)
    while sim.wait():
        sim.step()
        if [row[2] for row in sim.store.read("page", (0, "facts"))] == [1, 2, 3]:
            break
    assert {row[2] for row in sim.store.read("vector", (0, "facts"))} <= {1, 2, 3}
    late = [Embedded((0, name, id), "toy-128", b"1234") for name, id in (("facts", 0), ("facts", 9), ("other", 0))]
    sim.due += late
    sim.step()
    assert not {row[:3] for row in sim.store.read("vector", ())} & {interrupt.key for interrupt in late}
    while sim.kernel.regions:
        sim.wait()
        sim.step()
    sim.due += late
    sim.run(500)
    clean(sim)


def test_a_killed_process_keeps_nothing_mapped_and_its_pages_stay():
    async def main():
        child = await Spawn(program="child", args=[await GetPid()])
        await Recv()
        await Kill(pid=child)
        await Wait(pid=child)
        await Map(region="facts")
        found = len(await Recall(query="Turin", k=9))
        await Unlink(region="facts")
        return found

    async def child(boss):
        await shelf()
        await Send(to=boss)
        await Recv()

    assert run(main, child) == 4


def test_names():
    for name in ("", "a b", "../x", "-x", "x" * 65):
        with pytest.raises(ValueError, match="region"):
            Map(region=name)
    assert Map(region="team.notes_2-a").region


def test_an_erased_page_takes_its_vector_along_and_late_ones_of_an_older_region_are_not_kept():
    async def main():
        await shelf()
        await Sleep(seconds=20)  # until they are embedded
        await Forget(page=0, region="facts")
        await Sleep(seconds=20)
        await Unlink(region="facts")
        await shelf()
        for _ in range(3):
            await Sleep(seconds=20)
        await Unlink(region="facts")

    sim, seen = boot(main), []
    while sim.wait() or not sim.steps:
        sim.due += [Embedded((0, "facts", 0), "toy-128", b"1234")] if seen[-1:] == [[4, 5, 6, 7]] else []
        sim.step()
        seen.append([row[2] for row in sim.store.read("vector", (0, "facts"))])
    clean(sim)
    assert [0, 1, 2, 3] in seen
    assert [1, 2, 3] in seen
    assert seen[-1] == []
    assert max(seen) == [4, 5, 6, 7]
    assert [0, 4, 5, 6, 7] not in seen
