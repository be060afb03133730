"""Recovery, also from a store that makes no sense."""

import pytest

from bench import Bench, Devices, parked
from harness import ends_with
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Detach, Invoke, Shown
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import RR
from tokix.kernel.ports import TABLES
from tokix.kernel.process import State
from tokix.storage import MemoryStore, StoreError
from tokix.syscalls import Call, Recv, Send, Sleep, Spawn, Think, Wait, Write, gather


def damaged(change):
    """Give the tables of a system in mid-life, with a change."""

    async def init():
        await Spawn(program="child", fds={1: "pipe:p"})
        await Send(to=1, tag="kept")
        await gather(Sleep(seconds=5), Think(prompt="x", max_tokens=40, stream=True), Recv(tag="z"))

    async def child():
        await Write(text="unread")
        await Recv()

    bench = Bench(init, child)
    for _ in range(4):
        bench.run_tick()
    change(bench.store.tables)
    return bench


def column(table, key, name, value):
    def change(tables):
        row = list(tables[table][key])
        row[list(TABLES[table].columns).index(name)] = value
        tables[table][key] = tuple(row)

    return change


def row(table, *values):
    def change(tables):
        tables[table][values[: TABLES[table].keys]] = values

    return change


def gone(table, *key):
    return lambda tables: tables[table].pop(key)


GARBAGE = {
    "mail for nobody": row("message", 99, 77, "id", 1, "", "1"),
    "a signal for nobody": row("signal", 77, '["TERM"]'),
    "signals that are no JSON": row("signal", 1, "TERM"),
    "a stream of nobody": row("stream", "pipe:1:q", "[0,[77],[],[],true,true]"),
    "a stream with a short note": row("stream", "pipe:1:q", "[0]"),
    "a stream that is no JSON": row("stream", "pipe:1:q", "{{"),
    "caps": column("process", (1,), "caps", "{{"),
    "caps null": column("process", (1,), "caps", None),
    "caps 5": column("process", (1,), "caps", "5"),
    "limits": column("process", (1,), "limits", '{"frames":1}'),
    "fds": column("process", (1,), "fds", None),
    "fds list": column("process", (1,), "fds", "[1]"),
    "status": column("process", (2,), "status", "{}"),
    "a hole in the journal": gone("journal", 1, 0, 0),
    "a journal entry too many": row("journal", 1, 0, 9, "9", "sleep{}", 1, "null"),
    "the next pid is gone": gone("kernel", "next_pid"),
    "the next pid is low": column("kernel", ("next_pid",), "value", "1"),
    "the next pid is no number": column("kernel", ("next_pid",), "value", "x"),
    "a note that is no JSON": column("started", ("1:0:3.0.1",), "note", "{"),
    "a note that is a number": column("started", ("1:0:3.0.1",), "note", "5"),
    "a note of nobody": row("started", "zz:0:1", 1, "sleep{}", "{}"),
    "tokens that are no JSON": column("partial", ("1:0:3.1.1", 0), "tokens", "{"),
    "tokens of nobody": row("partial", "zz:0:1", 0, "[1]"),
    "an image that is no JSON": column("process", (1,), "image", "{{"),
    "an image of another shape": column("process", (1,), "image", "[1]"),
    "arguments that are no JSON": column("process", (2,), "args", "{{"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_in_the_store_is_said_clearly(what):
    """Either the kernel does not start, and says so, or the process is parked. It never goes on as if nothing was."""
    bench = damaged(GARBAGE[what])
    try:
        bench.boot()
    except (KernelBug, StoreError) as error:
        said = str(error)
    else:
        said = next((p.parked for p in bench.kernel.procs.values() if p.parked), "")
    assert len(said) > 10, "nobody noticed"


@pytest.mark.parametrize(
    ("value", "ok"),
    [("{oops", 1), ("5", 1), ("{oops", 0), ('{"errno":"EVIL","detail":"","key":""}', 0), ("{}", 0), ("5", 0)],
)
def test_an_outcome_that_cannot_be_read_parks_its_process(value, ok):
    def change(tables):
        column("journal", (1, 0, 1), "value", value)(tables)
        column("journal", (1, 0, 1), "ok", ok)(tables)

    bench = damaged(change)
    bench.boot()
    assert parked(bench).startswith("at call 2 the outcome in the journal cannot be read")
    assert not bench.kernel.procs[2].parked


def test_a_healthy_store_is_no_garbage():
    bench = damaged(lambda tables: None)
    bench.boot()
    assert not any(p.parked for p in bench.kernel.procs.values())


def test_a_first_start_is_a_restart_from_nothing():
    store = MemoryStore()
    bench = Bench(ends_with(7), store=store)
    bench.settle()
    assert not bench.kernel.procs
    bench.boot()
    assert not bench.kernel.procs, "init has ended: it is not started again"
    assert [r[0] for r in store.dead()] == [1]


def test_zombies_and_orphans_after_a_restart():
    async def init():
        await Spawn(program="parent")
        await Recv()
        return sorted([(await Wait()).value for _ in range(3)])

    async def parent():
        for n in (1, 2):
            await Spawn(program="child", args=[n])
        await Sleep(seconds=1)
        return 0

    async def child(n):
        return n

    bench = Bench(init, parent, child)
    assert [p.state for p in bench.kernel.procs.values()] == [State.BLOCKED, State.BLOCKED, State.ZOMBIE, State.ZOMBIE]
    bench.boot()
    bench.later(1)
    bench.boot()
    assert {p.ppid for p in bench.kernel.procs.values() if p.status} == {1}
    pid = bench.attach()
    bench.trap(pid, "go", Send(to=1))
    bench.settle(Detach(pid))
    assert not bench.kernel.procs
    assert '"value":[0,1,2]' in bench.store.dead()[0][15]


def test_replay_has_no_effects():
    async def init():
        await Write(text="once")
        await gather(Call(device="dev", op="idempotent"), Sleep(seconds=1), Recv(timeout=2))

    bench = Bench(init)
    bench.settle(Shown("tty:out", 0))
    bench.out.clear()
    process = bench.store.load()
    kernel = Kernel(
        process, machine=ToyMachine(), programs=bench.programs, policy=RR(), now=0.0, devices=Devices.devices
    )
    assert kernel.calls == 4, "only the open calls: the root's Gather and its three branches"
    effects = kernel.step([], 0.0).effects
    assert [type(effect) for effect in effects] == [Invoke]
