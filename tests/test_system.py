"""Sched and Journal, and terminals with names."""

from __future__ import annotations

import pytest

from harness import boot, clean, run
from tokix.kernel.events import Input, Show
from tokix.kernel.ports import TABLES
from tokix.sim import World
from tokix.storage import MemoryStore, SqliteStore
from tokix.syscalls import (
    EINTR,
    Drop,
    Exec,
    GetPid,
    Journal,
    Kill,
    Now,
    Read,
    Recv,
    Sched,
    Send,
    Sleep,
    Spawn,
    SyscallError,
    Think,
    Wait,
    Write,
    gather,
)


async def errno(call):
    try:
        return await call
    except SyscallError as error:
        return str(error)


# ---- Sched


def test_the_policy_can_be_changed_while_bursts_run() -> None:
    async def main():
        seen = [await Sched()]
        for policy, quantum in [("FCFS", None), ("RR", 3), ("PRIORITY", None)]:
            thoughts = gather(*(Think(prompt=f"{policy} {i}", max_tokens=9) for i in range(12)))
            _, found = await gather(thoughts, change(policy, quantum))
            seen.append(found)
        return [(info.policy, info.quantum, info.lanes, info.running, info.waiting) for info in seen]

    async def change(policy, quantum):
        await Sleep(seconds=2.5)
        return await Sched(policy=policy, quantum=quantum)

    assert run(main) == [["RR", 16, 8, 0, 0], ["FCFS", None, 8, 8, 4], ["RR", 3, 8, 8, 4], ["PRIORITY", 16, 8, 8, 4]]


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (Sched(quantum=3), "EINVAL: a quantum belongs to a policy; name that too"),
        (Sched(policy="FCFS", quantum=3), "EINVAL: with FCFS there are no turns, and a quantum has no meaning"),
    ],
)
def test_a_schedule_that_makes_no_sense(call: Sched, complaint: str) -> None:
    async def main():
        return await errno(call)

    assert run(main) == complaint


def test_changing_the_schedule_needs_a_capability() -> None:
    async def main():
        await Drop(keep=["think"])
        return [(await Sched()).policy, await errno(Sched(policy="RR"))]

    assert run(main) == ["RR", "EPERM: main (pid 2) has no capability 'sched'"]


# ---- Journal


async def worker(boss):
    try:
        await Recv()
    except EINTR:
        await gather(Now(), Send(to=boss, body="bye"))


def test_the_journal_of_the_living_and_of_the_dead() -> None:
    async def main():
        child = await Spawn(program="worker", args=[await GetPid()])
        await Sleep(seconds=1)
        alive = await Journal(pid=child)
        await Kill(pid=child)
        await Recv()
        await Wait(pid=child)
        dead = await Journal(pid=child)
        last = await Journal(pid=child, last=2)
        return [len(alive), [(e.path, e.call, e.ok) for e in dead], last == dead[-2:], dead[0].value]

    count, dead, cut, value = run(main, worker)
    assert (count, cut) == (0, True)
    assert dead == [
        ["1", "recv{}", False],
        ["2.0.1", "now{}", True],
        ["2.1.1", 'send{"to":2,"body":"bye"}', True],
        ["2", 'gather{"branches":2}', True],
    ]
    assert value == '{"errno":"EINTR","detail":"TERM","key":""}'


def test_who_may_read_a_journal() -> None:
    async def main():
        child = await Spawn(program="reader", args=[await GetPid()])
        return (await Wait(pid=child)).value

    async def reader(boss):
        await Drop(keep=["read:1"])
        own = await Journal(pid=await GetPid(), last=1)
        return [own[0].call, await errno(Journal(pid=boss)), bool(await Journal(pid=1)), await errno(Journal(pid=99))]

    assert run(main, reader) == [
        *("getpid{}", "EPERM: reader (pid 3) has no capability 'read:2'", True),
        "EPERM: reader (pid 3) has no capability 'read:99'",
    ]


def test_a_journal_that_never_was() -> None:
    async def main():
        return await errno(Journal(pid=99))

    assert run(main) == "ESRCH: no process 99"


def test_exec_begins_a_new_journal() -> None:
    async def main(again=True):
        if again:
            await Exec(program="main", args=[False])
        pid = await GetPid()
        return [(entry.epoch, entry.call) for entry in await Journal(pid=pid)]

    assert run(main) == [[1, "getpid{}"]]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_store_gives_one_journal(kind: str, tmp_path) -> None:
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "tokix.db")
    long = "x" * 10_000
    rows = [(pid, epoch, seq, "1", "now", 1, long, 0.5) for pid in (3, 4) for epoch in (0, 2) for seq in range(3)]
    store.commit({"journal": {row[: TABLES["journal"].keys]: row for row in rows}})
    assert store.journal(3) == rows[:6]
    assert store.journal(3, 2) == rows[4:6]
    assert store.journal(3, 100) == rows[:6]
    assert store.journal(5) == []
    store.close()


# ---- terminals with names


async def talker(word):
    await Write(text=f"{word}\n")
    while text := await Read():
        await Write(text=text.upper())
    await Write(text="end", fd=2)


def test_each_terminal_has_its_own_input_and_output() -> None:
    async def main():
        for name in ("a", "b"):
            await Spawn(program="talker", args=[name], fds=dict.fromkeys(range(3), f"tty:{name}"))
        await Write(text="main\n")
        return [(await Wait()).reason for _ in range(2)]

    sim = boot(main, talker, world=World())
    sim.due += [Input("tty:nobody:in", "lost")]
    sim.run()
    sim.due += [Input("tty:a:in", "for a "), Input("tty:b:in", "for b"), Input("tty:a:in", "alone")]
    sim.run()
    sim.due += [Input("tty:a:in", None), Input("tty:b:in", None)]
    sim.run()
    clean(sim)
    screens: dict[str, str] = {}
    for (stream, _), (_, _, text) in sorted(sim.world.screen.items()):
        screens[stream] = screens.get(stream, "") + text
    assert screens == {"tty:a:out": "a\nFOR A ALONEend", "tty:b:out": "b\nFOR Bend", "tty:out": "main\n"}
    assert not sim.store.load()["stream"][1:], "nobody is on them any more"


def test_what_a_terminal_has_not_shown_is_shown_by_the_next_kernel() -> None:
    async def main():
        await Spawn(program="talker", args=["a"], fds={0: "null", 1: "tty:a", 2: "tty:a"})
        await Wait()

    class Blind(World):
        def show(self, effect: Show) -> None:
            raise Unseen

    class Unseen(Exception):
        pass

    world = World()
    sim = boot(main, talker, world=Blind())
    with pytest.raises(Unseen):
        sim.run()
    again = boot(main, talker, store=sim.store, world=world).run()
    clean(again)
    assert [text for _, (_, _, text) in sorted(world.screen.items())] == ["a\n", "end"]
    assert set(again.kernel.streams) <= {"tty:in", "tty:out"}


def test_children_are_on_the_terminal_of_their_parent() -> None:
    async def main():
        await Spawn(program="parent", fds={1: "tty:x"})
        await Wait()

    async def parent():
        await Spawn(program="child")

    async def child():
        await Sleep(seconds=3)
        await Write(text="later\n")

    sim = boot(main, parent, child, world=World()).run()
    clean(sim)
    assert [key[0] for key in sim.world.screen] == ["tty:x:out"]


@pytest.mark.parametrize("spec", ["tty:", "tty:a b", "tty:a:b", "tty:ä", "tty:" + "x" * 65])
def test_a_name_that_is_none(spec: str) -> None:
    async def main():
        return await errno(Spawn(program="talker", args=["x"], fds={1: spec}))

    assert run(main, talker) == f"EINVAL: descriptor 1: {spec!r} is not tty, tty:NAME, null or pipe:NAME"
