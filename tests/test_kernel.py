"""The kernel as a state machine: what enters a step, what leaves it, and what is in its transaction."""

import itertools
from contextlib import suppress

import pytest

from bench import Bench, forever, opened
from harness import boot, clean, ends_with, errno, sleeper
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import Answer, Detach, Input, Invoke, Prompt, Revoke, Show, Shown, TickDone, Trap
from tokix.kernel.ports import TABLES
from tokix.kernel.process import TRANSITIONS, Process, State
from tokix.syscalls import (
    EINTR,
    ESRCH,
    Call,
    Count,
    GetPid,
    Kill,
    Limits,
    Now,
    Random,
    Read,
    Recv,
    Send,
    Signal,
    Sleep,
    Spawn,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from torture import run as corpus_run

# ---- interrupts


def test_answers_for_nobody_are_ignored():
    bench = Bench(forever)
    bench.settle(Answer("nobody", 1), Answer("nobody", error=ESRCH("x")), Shown("tty:out", 5), Detach(1), Detach(77))
    assert set(bench.kernel.procs) == {1}


def test_an_answer_comes_once():
    async def init():
        return [await Call(device="dev", op="pure"), await errno(Call(device="dev", op="pure", timeout=1))]

    bench = Bench(init)
    [first] = bench.effects(Invoke)
    bench.settle(Answer(first.key, "one"), Answer(first.key, "two"))
    second = bench.effects(Invoke)[1]
    bench.later(1)
    assert bench.effects(Revoke) == [Revoke(second.key)]
    bench.settle(Answer(second.key, "late"))
    assert bench.end.value == ["one", "ETIMEDOUT"]


@pytest.mark.parametrize("tokens", [[], [1, 2]])
def test_a_machine_that_answers_for_another_tick_is_a_bug(tokens):
    async def init():
        await Think(prompt="x")

    bench = Bench(init)
    assert bench.outcome.ticks[0].serial == 1
    with pytest.raises(KernelBug, match="tick 1 was in flight"):
        bench.kernel.step([TickDone(1, tokens)], 0.0)
    bench = Bench(init)
    with pytest.raises(KernelBug, match="the machine answers for 2"):
        bench.kernel.step([TickDone(2, [1])], 0.0)


def test_input_before_anybody_reads_is_kept_over_a_restart():
    async def init():
        await Recv()
        return [await Read(fd=0, limit=3), await Read(fd=0)]

    bench = Bench(init)
    bench.settle(Input("tty:in", "hello"), Input("tty:in", " you\n"))
    bench.boot()
    reader = bench.attach()
    assert bench.trap(reader, "a", Read(limit=3)) == "hel"
    assert bench.trap(reader, "b", Read()) == "lo you\n"
    assert not bench.effects(Prompt)
    assert bench.trap(reader, "c", Read()) is None
    assert bench.effects(Prompt) == [Prompt("tty:in")]
    bench.settle(Input("tty:in", None))
    assert opened(Read(), bench.replies("c")[0]) == ""


# ---- states


def process():
    return Process(
        pid=1, ppid=0, lineage="1", program="p", args="[]", nice=0, caps=(), limits=Limits(), fds={}, born=0.0
    )


@pytest.mark.parametrize(("old", "new"), [*itertools.product(State, State)])
def test_only_the_transitions_of_the_table_are_legal(old, new):
    one = process()
    one.state = old
    if new is old or new in TRANSITIONS[old]:
        one.move(new)
        assert one.state is new
    else:
        with pytest.raises(KernelBug, match=f"pid 1 cannot go from {old} to {new}"):
            one.move(new)
        assert one.state is old


def test_the_table_of_transitions_has_no_way_that_nobody_goes(monkeypatch):
    """Walk every edge that the kernel uses; the table has no others, except to an end."""
    used = set()
    move = Process.move

    def watched(self, state):
        if state is not self.state:
            used.add((self.state, state))
        move(self, state)

    async def main():
        pid = await Spawn(program="child")
        await Sleep(seconds=1)
        for signal in (Signal.STOP, Signal.CONT):
            await Kill(pid=pid, signal=signal)
            await Sleep(seconds=1)
        for signal in (Signal.STOP, Signal.INT):
            await Kill(pid=pid, signal=signal)
        await Sleep(seconds=5)
        await Kill(pid=pid, signal=Signal.CONT)  # the child gets EINTR, and what its Sleep gives comes too late

    async def child():
        with suppress(EINTR):
            await gather(Recv(), Sleep(seconds=5))
        await Sleep(seconds=1)

    monkeypatch.setattr(Process, "move", watched)
    boot(main, child).run()
    corpus_run()
    corpus_run([(n, "after") for n in (20, 30)], budget=1)
    corpus_run([(30, "after"), (0, "")], changed={"worker": None})
    ends = {State.STOPPED, State.DIVERGED, State.ZOMBIE}
    unused = {(old, new) for old, news in TRANSITIONS.items() for new in news - ends} - used
    assert not unused, sorted(f"{old} → {new}" for old, new in unused)


# ---- time


def test_deadline_tells_the_truth():
    async def init():
        await Sleep(seconds=5)
        await select(Recv(timeout=100), Sleep(seconds=2))
        await Think(prompt="x", max_tokens=3)
        await Recv(timeout=7)

    bench = Bench(init)
    assert bench.kernel.deadline() == 5.0
    bench.now = 4.9
    bench.step()
    assert bench.kernel.deadline() == 5.0
    bench.now = 5.0
    bench.step()
    assert bench.kernel.deadline() == 7.0
    bench.now = 7.5
    outcome = bench.step()
    assert outcome.ticks
    assert bench.kernel.deadline() is None, "only the machine's answer can change anything; a cancelled timeout cannot"
    bench.settle()
    assert bench.kernel.deadline() == 14.5


def test_deadline_is_now_while_there_is_something_to_deliver():
    async def init():
        await gather(*(Count(text="x") for _ in range(9)))
        await Recv()

    bench = Bench(init, budget=1)
    steps = 0
    while bench.kernel.deadline() is not None:
        assert bench.kernel.deadline() == bench.kernel.now
        bench.step()
        steps += 1
    assert steps == 10
    assert not bench.step().rows


def test_a_step_without_a_reason_does_nothing():
    async def init():
        await Recv()

    bench = Bench(init)
    for _ in range(3):
        outcome = bench.step()
        assert (outcome.ticks, outcome.rows, outcome.effects) == ([], {}, [])


def test_cancelled_timeouts_do_not_pile_up():
    async def init():
        for _ in range(2000):
            await select(Recv(timeout=3600.0), Random())

    bench = Bench(init)
    most = 0
    while bench.kernel.procs:
        most = max(most, len(bench.kernel.timers))
        bench.step()
    assert most < 400


def test_the_clock_of_the_kernel_never_goes_back():
    async def init():
        seen = [await Now()]
        await Recv()
        seen.append(await Now())
        await Recv()
        return [*seen, await Now()]

    bench = Bench(init, now=100.0)
    pid = bench.attach()
    bench.now = 50.0
    bench.trap(pid, "a", Send(to=1))
    bench.boot()
    assert bench.kernel.now == 100.0
    bench.now = 120.0
    bench.trap(pid, "b", Send(to=1))
    assert bench.end.value == [100.0, 100.0, 120.0]


# ---- transactions


def touched(outcome):
    """Give the rows of a step without those of the kernel itself: table → {key: row}."""
    return {name: rows for name, rows in outcome.rows.items() if name != "kernel"}


def test_a_message_that_is_sent_and_received_in_one_step_never_touches_its_table():
    async def init():
        me = await GetPid()
        await Send(to=me, body=1)
        await Recv()
        await gather(Recv(), Send(to=me, body=2))
        await Recv(tag="end")

    bench = Bench(init)
    assert "message" not in bench.outcome.rows
    assert [row[3] for row in bench.store.load()["journal"]] == ["1", "2", "3", "4.0.1", "4.1.1", "4"]


def test_a_call_that_begins_and_ends_in_one_step_leaves_no_note():
    async def init():
        me = await GetPid()
        await gather(Recv(timeout=9), Send(to=me))
        await select(Recv(timeout=9), Think(prompt="x"), Random())
        await Recv(tag="end")

    bench = Bench(init)
    assert "started" not in bench.outcome.rows
    assert "partial" not in bench.outcome.rows
    assert not bench.outcome.ticks


def test_a_process_that_lives_and_dies_in_one_step_is_one_row():
    async def init():
        await Wait(pid=await Spawn(program="child"))
        await Recv()

    bench = Bench(init, ends_with(3))
    assert sorted(bench.outcome.rows["process"]) == [(1,), (2,)]
    assert bench.outcome.rows["process"][2,][-1] == 1


def test_nothing_happens_outside_before_its_rows_are_there():
    """For every effect, the rows of its step hold the reason for it."""

    async def init():
        await Write(text="hello")
        await gather(
            Call(device="dev", op="unsafe"),
            Call(device="dev", op="idempotent"),
            Think(prompt="x", stream=True, max_tokens=20),
        )

    bench = Bench(init)
    outcome = bench.outcome
    assert [type(effect) for effect in outcome.effects] == [Show, Invoke, Invoke]
    assert ("tty:out", 0) in outcome.rows["chunk"]
    assert {effect.key for effect in bench.effects(Invoke)} <= {key for (key,) in outcome.rows["started"]}
    shown = 1
    while bench.tick:
        outcome = bench.run_tick()
        for effect in outcome.effects:
            assert isinstance(effect, Show)
            assert outcome.rows["chunk"]["tty:out", effect.offset] == tuple(effect)
            saved = [row for row in outcome.rows.get("partial", {}).values() if row]
            ended = [row for row in outcome.rows.get("journal", {}).values() if row[4].startswith("think")]
            assert saved or ended, "text is shown whose tokens are not saved"
            shown += 1
    assert shown == 21
    pid = bench.attach()
    outcome = bench.step(Trap(pid, "k", Send(to=1, body="x")))
    [reply] = outcome.effects
    assert outcome.rows["journal"][pid, 0, 0][3:] == ("k", 'send{"to":1,"body":"x"}', 1, reply.text, 0.0)


def test_an_effect_that_is_cancelled_in_its_own_step_does_not_leave():
    """Its intent is in no row: if it ran, nobody could ever ask what became of it."""

    async def init():
        await select(Call(device="dev", op="unsafe"), Random())
        await Recv()

    bench = Bench(init)
    assert "started" not in bench.outcome.rows
    assert bench.outcome.effects == []


def test_a_step_that_was_not_committed_has_never_been():
    async def init():
        numbers = [await Random(), (await Recv()).body]
        await Write(text=str(numbers))
        return numbers

    bench = Bench(init)
    pid = bench.attach()
    lost = bench.step(Trap(pid, "k", Send(to=1, body="lost")), commit=False)
    assert any(isinstance(effect, Show) for effect in lost.effects)
    bench.out.clear()
    bench.boot()
    assert not bench.effects(Show)
    bench.trap(pid, "k", Send(to=1, body="found"))
    assert bench.end.value[1] == "found"


def test_what_was_shown_and_not_acknowledged_is_shown_again():
    async def init():
        for text in "abc":
            await Write(text=text)
        await Recv()

    bench = Bench(init)
    bench.settle(Shown("tty:out", 0))
    bench.out.clear()
    bench.boot()
    assert [(show.offset, show.text) for show in bench.effects(Show)] == [(1, "b"), (2, "c")]
    bench.settle(Shown("tty:out", 2))
    bench.out.clear()
    bench.boot()
    assert not bench.effects(Show)
    assert bench.kernel.streams["tty:out"].next == 3


def test_every_row_fits_its_table_and_is_written_once_a_step():
    """The keys are those of the rows, and every value has the type of its column: what both stores demand."""

    async def main():
        await Spawn(program="sleeper", args=[3], limits=Limits(seconds=2, tokens=5))
        await select(Think(prompt="x", max_tokens=20, stream=True), Sleep(seconds=9))
        await Now()
        return (await Wait()).detail

    sim = boot(main, sleeper)
    commit, seen = sim.store.commit, set()

    def checked(rows):
        for name, changes in rows.items():
            width = TABLES[name].keys
            for key, row in changes.items():
                seen.add(name)
                if row is None:
                    assert len(key) == width
                    continue
                assert row[:width] == key
                assert len(row) == len(TABLES[name].columns)
                for value, kind in zip(row, TABLES[name].columns.values(), strict=True):
                    assert value is None or type(value) is kind
        commit(rows)

    sim.store.commit = checked
    sim.run()
    clean(sim)
    assert seen == {"process", "journal", "started", "partial", "stream", "chunk", "kernel"}
