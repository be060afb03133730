"""Sysinfo, and what pages say of their last use: figures for people, by which nothing is decided."""

from __future__ import annotations

from facts import FACTS, learn
from harness import MAIN, always, boot, run
from tokix.kernel.frames import FRAME, frames_for
from tokix.storage import MemoryStore
from tokix.syscalls import (
    ESRCH,
    Advise,
    Append,
    ChatMessage,
    Evict,
    Exec,
    Forget,
    Fork,
    GetPid,
    Kill,
    Pages,
    Recall,
    Recv,
    Sleep,
    Spawn,
    Sysinfo,
    Think,
    Wait,
    gather,
)


def test_who_has_which_lane_and_what_was_sampled():
    async def main():
        thoughts = gather(*(Think(messages=[ChatMessage(role="user", text=f"{i}")], max_tokens=9) for i in range(11)))
        _, (info, mine) = await gather(thoughts, look())
        after = await Sysinfo(pid=await GetPid())
        return [info.schedule.running, info.schedule.waiting, mine.model_dump(), after.model_dump()]

    async def look():
        await Sleep(seconds=4.5)
        info = await Sysinfo()
        [mine] = [process for process in info.processes if process.pid == MAIN]
        return info, mine

    running, waiting, mine, after = run(main)
    assert (running, waiting) == (8, 3)
    assert (mine["running"], mine["waiting"], mine["program"]) == ([*range(8)], 3, "main")
    assert 0 < mine["sampled"] < 99
    assert mine["resident"] > mine["window"] == 0
    assert (after["sampled"], after["processes"][0]["sampled"]) == (99, 99)
    assert after["ticks"] >= 18
    assert after["fed"] > 99


def test_frames_add_up():
    async def main():
        await Append(text="a long beginning " * 12)
        await Think(max_tokens=20)
        child = await Fork()
        if not child:
            await Recv()
        info = await Sysinfo()
        mine, other = (p for p in info.processes if p.program == "main")
        await Spawn(program="ender", args=[child])
        await Wait()
        await Wait()
        return [info.model_dump(), mine.model_dump(), other.model_dump(), (await Sysinfo()).model_dump()]

    async def ender(pid):
        await Kill(pid=pid)

    info, mine, other, after = run(main, ender)
    assert mine["computed"] == other["computed"] == mine["shared"] == other["shared"] > 12 * FRAME
    assert info["used"] == info["shared"] == frames_for(mine["computed"])
    assert info["used"] + info["cached"] <= info["frames"] == 256
    assert (info["slots"], info["swapped"], info["window"], info["frame"]) == (256, 0, 2048, FRAME)
    assert (after["shared"], after["processes"][-1]["shared"]) == (0, 0)


def test_pages_that_leave_and_come_back_are_counted_once():
    async def main():
        await learn()
        [fact] = await Recall(query="which cat has Ada?", k=1, load=True)
        await Recall(query="which cat has Ada?", k=1, load=True)
        await Advise(demand=0.25)
        came = (await Think(prompt="When does the train to Turin leave?", max_tokens=2)).recalled
        info = await Sysinfo(pid=await GetPid())
        [mine] = info.processes
        return [sorted({fact.id, *(page.id for page in came)}), info.model_dump(), mine.model_dump()]

    came, info, mine = run(main)
    assert info["faults"] == mine["faults"] == len(came) > 1
    assert info["evictions"] == mine["evictions"] == mine["archived"] == len(FACTS)
    assert mine["evicted"] > sum(len(fact) for fact in FACTS)


def test_counts_begin_at_boot_and_a_replay_counts_nothing():
    async def main():
        await learn()
        await Recall(query="which cat has Ada?", k=1, load=True)
        await Think(max_tokens=5)
        await Recv()

    def counts(kernel):
        counters, process = kernel.scheduler.mmu.counters, kernel.procs[MAIN]
        return [(c.faults, c.evictions, c.sampled) for c in (counters, process)]

    store = MemoryStore()
    sim = boot(main, store=store).run()
    assert counts(sim.kernel) == [(1, len(FACTS), 5)] * 2
    assert counts(boot(main, store=store).run().kernel) == [(0, 0, 0)] * 2


def test_nobody_by_that_number():
    async def main():
        try:
            await Sysinfo(pid=99)
        except ESRCH as error:
            return str(error)

    assert run(main) == "ESRCH: no process 99"


# ---- the last use of a page


async def used():
    return {page.id: page.used for page in await Pages()}


def test_a_page_was_last_used_by_the_newest_answer_that_it_was_there_for():
    async def main():
        await Advise(stub=False)
        first = await Append(text="one")
        seen = [await used()]
        await Think(max_tokens=2)
        second = await Append(text="two")
        seen.append(await used())
        await Evict(pages=[first])
        await Think(max_tokens=2)
        await Append(text="three")
        seen.append(await used())
        await Recall(query="one", k=1, load=True)
        seen.append(await used())
        await Think(max_tokens=2)
        seen.append(await used())
        await Evict(pages=[5])  # the copy: what it is a copy of was used with it
        seen.append(await used())
        await Forget(page=6)
        return [*seen, await used(), second]

    fresh, one, two, copy, again, gone, forgotten, second = [
        {int(id): use for id, use in seen.items()} if isinstance(seen, dict) else seen for seen in always(main)
    ]
    assert (fresh, second) == ({0: None}, 2)
    assert one == {0: 1, 1: 1, 2: None}
    assert two == {0: 1, 1: 3, 2: 3, 3: 3, 4: None}
    assert copy == {**two, 5: None}
    assert again == {0: 1, **dict.fromkeys(range(1, 7), 6)}
    assert gone == {0: 6, **dict.fromkeys([1, 2, 3, 4, 6], 6)}
    assert forgotten == {0: 6, **dict.fromkeys([1, 2, 3, 4], 6)}


def test_the_last_use_survives_exec_and_restart():
    async def main(again=True):
        if again:
            await Append(text="a beginning", role="system")
            await Append(text="one")
            await Think(max_tokens=2)
            await Evict(pages=[1])
            await Append(text="two")
            await Exec(program="main", args=[False])
        return [[page.id, page.used] for page in await Pages()]

    assert always(main) == [[0, 2], [1, 2], [2, 2], [3, None]]


def test_a_forgotten_answer_is_forgotten_over_exec_too():
    """A child is made from the image, and its parent has lived on: both know the same."""

    async def main(stage=0):
        if not stage:
            await Append(text="mine")
            await Think(prompt="hello", max_tokens=4)
            await Forget(page=(await Pages())[-1].id)
            await Exec(program="main", args=[1])
        await Evict(pages=[0])
        child = await Fork()
        used = [page.used for page in await Pages()]
        return used if not child else [used, (await Wait(pid=child)).value]

    used, of_the_child = always(main)
    assert used == of_the_child == [None, None]
