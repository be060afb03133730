"""The kernel as a state machine: what enters a step, what leaves it, and what is in its transaction."""

import itertools
import random
from contextlib import suppress

import pytest
from test_calls import Ended, boot, clean, ends_with, errno, receiver, sleeper, told

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.errors import KernelBug
from tokix.kernel.events import (
    Answer,
    Attach,
    Attached,
    Detach,
    Event,
    Hangup,
    Input,
    Invoke,
    Prompt,
    Reply,
    Report,
    Revoke,
    SetPolicy,
    Show,
    Shown,
    TickDone,
    Trap,
)
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.kernel.ports import TABLES
from tokix.kernel.process import TRANSITIONS, Process, State
from tokix.sim import Simulation, World
from tokix.storage import MemoryStore, StoreError
from tokix.syscalls import (
    EINTR,
    ESRCH,
    Append,
    Call,
    ChatMessage,
    Count,
    DeviceInfo,
    Drop,
    Exec,
    Exit,
    ExitStatus,
    Fork,
    Gather,
    GetPid,
    Grant,
    Kill,
    Limits,
    Now,
    OpInfo,
    Pages,
    Pin,
    Random,
    Read,
    Recv,
    Renice,
    Select,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    SyscallError,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from tokix.syscalls.errors import decode_error
from torture import Killed, Mortal
from torture import run as corpus_run

# ---- a kernel by hand


class Devices(World):
    """`dev` has one op of each effect class; it never answers by itself."""

    devices = (
        DeviceInfo(
            name="dev", ops=[OpInfo(name=e, doc="", effect=e, parameters={}) for e in ("pure", "idempotent", "unsafe")]
        ),
    )

    def latency(self, effect):
        return 1e6


class Bench:
    """A kernel that is stepped by hand over a store; what leaves it is kept by kind."""

    def __init__(self, first, *programs, store=None, now=0.0, **options):
        self.programs = {program.__name__: program for program in programs} | {"init": first}
        self.store, self.now, self.options = store or MemoryStore(), now, options
        self.out = []
        self.boot()

    @property
    def end(self):
        """How init has ended."""
        return ExitStatus.model_validate_json(self.store.dead()[0][15])

    def boot(self, **options):
        """Start a kernel, as after a kill, and let it take its first step."""
        self.machine = ToyMachine(ends=False)
        self.kernel = Kernel(
            self.store.load(),
            **{
                "machine": self.machine,
                "programs": self.programs,
                "policy": RR(),
                "now": self.now,
                "devices": Devices.devices,
                **self.options,
                **options,
            },
        )
        self.tick = self.outcome = None
        self.step()

    def step(self, *interrupts, commit=True):
        outcome = self.outcome = self.kernel.step(interrupts, self.now)
        self.tick = outcome.tick or self.tick
        if outcome.rows and commit:
            self.store.commit(outcome.rows)
        self.out += outcome.effects
        self.kernel.check()
        return outcome

    def run_tick(self):
        """Let the machine answer."""
        tick, self.tick = self.tick, None
        return self.step(TickDone(tick.serial, self.machine.run(tick)))

    def settle(self, *interrupts):
        """Step until nothing is ready, running ticks at once."""
        self.step(*interrupts)
        for _ in range(10_000):
            if self.tick:
                self.run_tick()
            elif self.kernel.ready:
                self.step()
            else:
                return self
        raise AssertionError("it does not settle")

    def later(self, seconds):
        self.now += seconds
        return self.settle()

    def effects(self, kind):
        return [effect for effect in self.out if isinstance(effect, kind)]

    # foreign processes

    def attach(self, program="person"):
        self.settle(Attach(len(self.out), program))
        return self.effects(Attached)[-1].pid

    def trap(self, pid, key, call):
        """Send a call; gives its outcome, or None if it waits."""
        before = len(self.effects(Reply))
        self.settle(Trap(pid, key, call))
        replies = [reply for reply in self.effects(Reply)[before:] if (reply.pid, reply.key) == (pid, key)]
        assert len(replies) < 2
        return opened(call, replies[0]) if replies else None

    def replies(self, key):
        return [reply for reply in self.effects(Reply) if reply.key == key]


def opened(call, reply):
    """Give the value or the error of a Reply."""
    return call.reply.validate_json(reply.text) if reply.ok else decode_error(reply.text)


async def forever():
    await Recv(tag="never")


# ---- foreign processes


def test_a_foreign_process_makes_calls_and_gets_replies():
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, "a", GetPid()) == pid
    assert bench.trap(pid, "b", Count(text="abc")) == 3
    assert bench.trap(pid, "c", Append(text="mine")) == 0
    assert bench.trap(pid, "d", Think(prompt="q", max_tokens=4)).prompt_tokens == 6 + 3 + 1
    assert [p.role for p in bench.trap(pid, "e", Pages())] == ["user", "user", "assistant"]
    assert str(bench.trap(pid, "f", Kill(pid=99))) == "ESRCH: no process 99"
    [me] = bench.trap(pid, "g", Stat(pid=pid))
    assert (me.program, me.ppid, me.state) == ("person", 0, "BLOCKED")
    bench.settle(Detach(pid))
    assert pid not in bench.kernel.procs
    assert bench.effects(Hangup) == [Hangup(pid, "exit")]


def test_a_key_that_was_used_gets_the_outcome_that_it_had():
    bench = Bench(forever, ends_with(5))
    pid = bench.attach()
    first = bench.trap(pid, "a", Spawn(program="child"))
    assert bench.trap(pid, "a", Spawn(program="child")) == first
    assert bench.trap(pid, "b", Kill(pid=99)).errno == "ESRCH"
    assert bench.trap(pid, "b", Kill(pid=99)).errno == "ESRCH"
    assert bench.trap(pid, "c", Wait(pid=first)).value == 5
    assert bench.trap(pid, "c", Wait(pid=first)).value == 5
    assert bench.kernel.next_pid == first + 1


def test_a_key_that_was_used_is_not_for_another_call():
    """The outcome of a Spawn is no answer to a Wait: a client that mixes up its keys is told so."""
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, "a", Append(text="x")) == 0
    refused = bench.trap(pid, "a", Sleep(seconds=0))
    assert refused.errno == "EINVAL"
    assert "append" in refused.detail
    assert bench.trap(pid, "a", Append(text="x")) == 0


def test_a_key_that_is_in_flight_is_not_begun_again():
    bench = Bench(forever)
    pid = bench.attach()
    for _ in range(3):
        assert bench.trap(pid, "a", Recv(timeout=5)) is None
    bench.later(5)
    [reply] = bench.replies("a")
    assert opened(Recv(), reply).errno == "ETIMEDOUT"
    assert bench.trap(pid, "b", Call(device="dev", op="unsafe")) is None
    assert bench.trap(pid, "b", Call(device="dev", op="unsafe")) is None
    assert len(bench.effects(Invoke)) == 1


def test_several_calls_in_flight_answer_in_any_order():
    bench = Bench(forever)
    pid = bench.attach()
    for n in (3, 1, 2):
        bench.trap(pid, f"sleep {n}", Sleep(seconds=n))
    bench.trap(pid, "recv", Recv())
    assert bench.trap(pid, "send", Send(to=pid, body="to myself")) is None
    for _ in range(3):
        bench.later(1)
    assert [r.key for r in bench.effects(Reply)] == ["recv", "send", "sleep 1", "sleep 2", "sleep 3"]


@pytest.mark.parametrize("pid", [99, 0, -1, 1])
def test_a_trap_for_nobody_is_esrch(pid):
    """Of an unknown process, and of one that is not foreign."""
    bench = Bench(forever)
    assert bench.trap(pid, "a", GetPid()).errno == "ESRCH"


def test_a_trap_after_the_end_is_esrch():
    bench = Bench(forever)
    pid = bench.attach()
    bench.settle(Detach(pid))
    bench.settle(Detach(pid))
    assert bench.trap(pid, "a", GetPid()).errno == "ESRCH"


@pytest.mark.parametrize(
    "call", [Gather(branches=0), Gather(branches=2), Select(branches=1), Fork(), Exec(program="init")]
)
def test_what_only_programs_can_do_is_einval(call):
    bench = Bench(forever)
    assert bench.trap(bench.attach(), "a", call).errno == "EINVAL"


class MySend(Send):
    """No call of the ABI."""


@pytest.mark.parametrize(
    "call",
    [Send(to=1, body=object()), MySend(to=1), Spawn(program="init", args=[10**5000])],
    ids=["object", "subclass", "big"],
)
def test_a_call_that_makes_no_sense_is_einval_and_its_key_is_free(call):
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, "a", call).errno == "EINVAL"
    assert bench.trap(pid, "a", GetPid()) == pid


@pytest.mark.parametrize("key", ["", 'a"b', "a\\b", "\ud800", "a:0:1", "a/b", "x" * 1000, "\n"], ids=repr)
def test_a_key_is_a_plain_name(key):
    """Keys become part of lineages, of ids of messages and of rows."""
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, key, Send(to=pid)).errno == "EINVAL"
    assert bench.trap(pid, "good_1.2-3 x", Send(to=pid)) is None
    assert bench.trap(pid, "r", Recv()).id == f"foreign{pid}:0:good_1.2-3 x"


def test_a_detach_ends_open_calls_and_the_children_go_to_init():
    async def init():
        return (await Wait()).program

    bench = Bench(init, sleeper)
    pid = bench.attach()
    child = bench.trap(pid, "s", Spawn(program="sleeper"))
    open_calls = [
        Recv(),
        Recv(timeout=50),
        Wait(),
        Think(prompt="x", max_tokens=900),
        Think(messages=[ChatMessage(role="user", text="y")], max_tokens=900),
        Call(device="dev", op="unsafe"),
        Call(device="dev", op="idempotent", timeout=50),
        Stat(dead=True),
        Read(timeout=9),
        Sleep(seconds=50),
    ]
    for n, call in enumerate(open_calls):
        bench.step(Trap(pid, f"open {n}", call))
    bench.step(Detach(pid))
    bench.settle()
    assert pid not in bench.kernel.procs
    assert bench.kernel.procs[child].ppid == 1
    assert len(bench.effects(Revoke)) == 2
    assert not bench.kernel.invoked
    assert not bench.kernel.scheduler.gang
    rows = bench.store.load()
    assert not [row for row in rows["journal"] if row[0] == pid]
    assert [row[1] for row in rows["started"]] == [child]
    assert list(bench.kernel.started) == [f"foreign{pid}/s:0:1"]


def test_a_foreign_process_goes_on_after_a_restart():
    bench = Bench(forever)
    pid = bench.attach()
    bench.trap(pid, "a", Append(text="page"))
    done = bench.trap(pid, "t", Think(prompt="q", max_tokens=3))
    bench.trap(pid, "r", Recv(timeout=10))
    bench.step(Trap(pid, "u", Call(device="dev", op="unsafe")))
    bench.step(Trap(pid, "i", Call(device="dev", op="idempotent")))
    bench.now += 4
    bench.boot()
    assert bench.trap(pid, "a", Append(text="page")) == 0
    assert bench.trap(pid, "t", Think(prompt="q", max_tokens=3)) == done
    assert len(bench.trap(pid, "p", Pages())) == 3
    unknown = bench.trap(pid, "u", Call(device="dev", op="unsafe"))
    assert (unknown.errno, unknown.key) == ("EUNKNOWN", f"foreign{pid}:0:u")
    assert bench.trap(pid, "i", Call(device="dev", op="idempotent")) is None
    assert [e.key for e in bench.effects(Invoke)[1:]] == [f"foreign{pid}:0:i"] * 2
    assert bench.trap(pid, "r", Recv(timeout=10)) is None
    bench.later(6)
    assert opened(Recv(), bench.replies("r")[-1]).errno == "ETIMEDOUT"
    again = bench.trap(pid, "t2", Think(prompt="more", max_tokens=3))
    assert again.prompt_tokens == done.prompt_tokens + 3 + 1 + 6 + 1
    bench.settle(Detach(pid))
    assert not bench.kernel.started


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Recv(timeout=10), Think(prompt="x")),
        (Think(prompt="x", max_tokens=900), Recv(timeout=10)),
        (Call(device="dev", op="unsafe"), Sleep(seconds=1)),
    ],
    ids=str,
)
def test_an_open_key_belongs_to_its_call_over_a_restart(first, then):
    bench = Bench(forever)
    pid = bench.attach()
    bench.step(Trap(pid, "a", first))
    bench.boot()
    refused = bench.trap(pid, "a", then)
    assert refused.errno == "EINVAL"
    assert first.name in refused.detail
    bench.settle(Detach(pid))
    assert not bench.kernel.started


def test_signals_to_a_foreign_process():
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, "kill", Kill(pid=pid)).errno == "EINTR"
    bench.trap(pid, "a", Call(device="dev", op="unsafe"))
    other = bench.attach()
    assert bench.trap(other, "k", Kill(pid=pid, signal=Signal.INT)) is None
    interrupted = opened(Recv(), bench.replies("a")[0])
    assert (interrupted.errno, interrupted.detail, interrupted.key) == ("EINTR", "INT", f"foreign{pid}:0:a")
    bench.trap(other, "k2", Kill(pid=pid))
    assert bench.trap(pid, "b", Count(text="x")).errno == "EINTR"
    assert bench.trap(pid, "c", Count(text="x")) == 1
    assert bench.trap(other, "stop", Kill(pid=pid, signal=Signal.STOP)).errno == "EINVAL"
    bench.trap(other, "k3", Kill(pid=pid, signal=Signal.KILL))
    assert bench.effects(Hangup) == [Hangup(pid, "KILL")]
    assert bench.trap(pid, "d", GetPid()).errno == "ESRCH"


def test_a_pending_signal_of_a_foreign_process_survives_a_restart_with_the_key():
    bench = Bench(forever)
    pid, other = bench.attach(), bench.attach()
    bench.step(Trap(pid, "a", Call(device="dev", op="unsafe")))
    bench.boot()
    bench.trap(other, "k", Kill(pid=pid))
    bench.boot()
    interrupted = bench.trap(pid, "a", Call(device="dev", op="unsafe"))
    assert (interrupted.errno, interrupted.key) == ("EINTR", f"foreign{pid}:0:a")
    bench.settle(Detach(pid), Detach(other))
    assert not bench.kernel.started


def test_exit_of_a_foreign_process():
    bench = Bench(forever)
    pid = bench.attach()
    assert bench.trap(pid, "a", Exit(value=3)) is None
    assert bench.effects(Hangup) == [Hangup(pid, "exit")]
    assert pid not in bench.kernel.procs


def test_one_conversation_thinks_one_thought_at_a_time():
    bench = Bench(forever)
    pid = bench.attach()
    bench.step(Trap(pid, "a", Think(prompt="x", max_tokens=50)), Trap(pid, "b", Think(prompt="y", max_tokens=50)))
    [refused] = bench.effects(Reply)
    assert (refused.key, decode_error(refused.text).errno) == ("b", "EAGAIN")
    bench.step(Trap(pid, "c", Append(text="z")), Trap(pid, "d", Think(messages=[ChatMessage(role="user", text="y")])))
    assert decode_error(bench.replies("c")[0].text).errno == "EAGAIN"
    bench.settle()
    assert bench.replies("a")[0].ok
    assert bench.replies("d")[0].ok


def test_a_trap_does_not_read_the_whole_log():
    """A gateway makes calls for weeks: the time of a call must not grow with those before it."""
    looked = 0

    class Log(list):
        def __iter__(self):
            nonlocal looked
            for entry in list.__iter__(self):
                looked += 1
                yield entry

    bench = Bench(forever)
    pid = bench.attach()
    process = bench.kernel.procs[pid]
    process.log = Log(process.log)
    for n in range(100):
        bench.trap(pid, f"key {n}", Send(to=pid))
    assert len(process.log) == 100
    assert looked <= 200


# ---- other interrupts


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
    assert bench.outcome.tick.serial == 1
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


# ---- probes


def test_a_probe_sees_what_happens():
    async def family():
        pid = await Spawn(program="sleeper")
        await Kill(pid=pid, signal=Signal.STOP)
        await Kill(pid=pid, signal=Signal.KILL)
        await Wait(pid=pid)

    seen = []
    bench = Bench(forever, family, sleeper)
    bench.kernel.probes.append(seen.append)
    pid = bench.attach()
    bench.trap(pid, "a", Spawn(program="family"))
    assert all(isinstance(event, Event) for event in seen)
    assert [(event.kind, event.pid, event.detail) for event in seen] == [
        ("create", 2, "person"),
        ("create", 3, "family"),
        ("reply", 2, 'spawn{"program":"family"} = 3'),
        ("create", 4, "sleeper"),
        ("reply", 3, 'spawn{"program":"sleeper"} = 4'),
        ("signal", 4, "STOP"),
        ("reply", 3, 'kill{"pid":4,"signal":"STOP"} = null'),
        ("signal", 4, "KILL"),
        ("end", 4, '{"pid":4,"program":"sleeper","reason":"killed","detail":"KILL"}'),
        ("reply", 3, 'kill{"pid":4,"signal":"KILL"} = null'),
        (
            "reply",
            3,
            'wait{"pid":4} = {"pid":4,"program":"sleeper","reason":"killed","value":null,"detail":"KILL"}',
        ),
        ("end", 3, '{"pid":3,"program":"family","reason":"exit"}'),
    ]


def test_a_probe_that_raises_is_removed_and_reported_and_nothing_else_changes():
    async def main():
        pids = [await Spawn(program="sleeper", args=[n]) for n in range(3)]
        thought = await Think(prompt="x", max_tokens=5)
        return [thought.text, [(await Wait(pid=pid)).value for pid in pids]]

    def run(probes):
        sim = boot(main, sleeper, store=Mortal())
        sim.kernel.probes.extend(probes)
        sim.run()
        reports, sim.world.reports = sim.world.reports, []
        clean(sim)
        return sim, reports

    def broken(event):
        if event.kind == "end":
            raise ZeroDivisionError("probe")

    plain, nothing = run([])
    seen = []
    sim, reports = run([broken, seen.append, broken])
    assert sim.store.store.tables == plain.store.store.tables
    assert sim.kernel.probes == [seen.append]
    assert not nothing
    assert len(reports) == 2
    assert "ZeroDivisionError: probe" in reports[0]
    assert "broken" in reports[0]
    assert len([event for event in seen if event.kind == "end"]) == 5


def test_a_probe_may_take_itself_away():
    bench = Bench(forever)

    def once(event):
        bench.kernel.probes.remove(once)
        raise ValueError("and raise")

    bench.kernel.probes.append(once)
    pid = bench.attach()
    assert bench.trap(pid, "a", GetPid()) == pid
    assert not bench.kernel.probes
    assert len(bench.effects(Report)) == 1


# ---- divergence, missing programs, suspects


def parked(bench, pid=1):
    process = bench.kernel.procs[pid]
    assert process.state is State.DIVERGED
    return process.parked


async def original():
    await Append(text="a page")
    await gather(Sleep(seconds=1), Recv(tag="x"))
    await Send(to=1, tag="y")
    await Sleep(seconds=50)


async def other_call():
    await Append(text="a page")
    await Sleep(seconds=1)


async def other_arguments():
    await Append(text="another page")


async def other_branch():
    await Append(text="a page")
    await gather(Sleep(seconds=2), Recv(tag="x"))


async def other_order():
    await Append(text="a page")
    await gather(Recv(tag="x"), Sleep(seconds=1))


async def shorter():
    await Append(text="a page")
    return 5


async def raising():
    raise LookupError("at once")


async def other_open_call():
    await Append(text="a page")
    await gather(Sleep(seconds=1), Recv(tag="x"))
    await Send(to=1, tag="y")
    await Sleep(seconds=51)


@pytest.mark.parametrize(
    ("program", "path", "recorded", "called"),
    [
        (other_call, "2.0.1", 'sleep{"seconds":1.0}', 'sleep{"seconds":1.0} at call 2'),
        (other_arguments, "1", 'append{"text":"a page"}', 'append{"text":"another page"} at call 1'),
        (other_branch, "2.0.1", 'sleep{"seconds":1.0}', 'sleep{"seconds":2.0} at call 2.0.1'),
        (other_order, "2.0.1", 'sleep{"seconds":1.0}', 'recv{"tag":"x"} at call 2.0.1'),
        (shorter, "2.0.1", 'sleep{"seconds":1.0}', "the program returned"),
        (raising, "1", 'append{"text":"a page"}', "the program ended (LookupError('at once'))"),
        (other_open_call, "4", 'sleep{"seconds":50.0}', 'sleep{"seconds":51.0} at call 4'),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_diff_of_a_changed_program_names_the_call_and_both_sides(program, path, recorded, called):
    bench = Bench(original)
    bench.later(1)
    pid = bench.attach()
    bench.trap(pid, "x", Send(to=1, tag="x"))
    bench.settle(Detach(pid))
    before = bench.store.load()
    assert [row[3] for row in before["journal"]] == ["1", "2.0.1", "2.1.1", "2", "3"]
    bench.programs["init"] = program
    bench.boot()
    text = parked(bench)
    assert text == "\n".join(
        [
            f"at call {path} the program differs from its journal",
            f"  journal: {recorded}",
            f"  program: {called}",
        ]
    )
    pid = bench.attach()
    [info] = bench.trap(pid, "s", Stat(pid=1))
    assert (info.state, info.on) == ("DIVERGED", text)
    bench.settle(Detach(pid))
    after = bench.store.load()
    assert {name: after[name] for name in ("journal", "message", "started")} == {
        name: before[name] for name in ("journal", "message", "started")
    }
    bench.programs["init"] = original
    bench.boot()
    assert bench.kernel.procs[1].state is State.BLOCKED
    bench.later(50)
    assert not bench.kernel.procs


@pytest.mark.parametrize("timeout", [None, 50])
def test_outcomes_of_branches_that_a_program_does_not_have_are_a_divergence(timeout):
    """A branch that was never there is no branch that was cancelled: what it did must not be forgotten."""

    async def before():
        await gather(Call(device="dev", op="unsafe"), Recv(timeout=timeout))

    async def after():
        await Recv()

    bench = Bench(before)
    [call] = bench.effects(Invoke)
    bench.settle(Answer(call.key, "paid"))
    bench.programs["init"] = after
    bench.boot()
    assert parked(bench).startswith("at call 1.0.1 the program differs from its journal\n  journal: call{")
    bench.programs["init"] = before
    bench.boot()
    assert not bench.kernel.procs[1].parked


@pytest.mark.parametrize(
    ("after", "called"),
    [
        (ends_with(5), "the program returned"),
        (forever, 'recv{"tag":"never"} at call 1'),
        (raising, "the program ended (LookupError('at once'))"),
    ],
    ids=["returns", "calls", "raises"],
)
def test_a_call_that_was_begun_and_is_not_made_any_more_is_a_divergence(after, called):
    async def before():
        await gather(Sleep(seconds=50), Sleep(seconds=60))

    bench = Bench(before)
    bench.programs["init"] = after
    bench.boot()
    assert parked(bench) == "\n".join(
        [
            "at call 1.0.1 the program differs from its journal",
            '  journal: sleep{"seconds":50.0}',
            f"  program: {called}",
        ]
    )
    bench.programs["init"] = before
    bench.boot()
    bench.later(60)
    assert not bench.kernel.procs


def test_a_parked_process_does_no_harm_and_can_be_killed():
    async def init():
        while True:
            await Recv()

    bench = Bench(init, sleeper)
    pid = bench.attach()
    child = bench.trap(pid, "s", Spawn(program="sleeper", limits=Limits(messages=1)))
    bench.programs["sleeper"] = None
    bench.boot()
    assert parked(bench, child) == "no program sleeper"
    assert bench.trap(pid, "m", Send(to=child, body="kept")) is None
    for n, signal in enumerate(("STOP", "CONT", "TERM", "INT")):
        assert bench.trap(pid, f"k{n}", Kill(pid=child, signal=Signal(signal))) is None
    assert bench.kernel.procs[child].state is State.DIVERGED
    assert bench.trap(pid, "w", Wait(timeout=1)) is None
    bench.boot()
    bench.later(2)
    bench.trap(pid, "k", Kill(pid=child, signal=Signal.KILL))
    assert bench.trap(pid, "w2", Wait(pid=child)).detail == "KILL"
    rows = bench.store.load()
    assert not [row for name in ("message", "signal", "started") for row in rows[name] if row[1] == child]


def test_a_parked_process_comes_back_with_its_mail_and_its_signals():
    bench = Bench(forever, receiver)
    pid = bench.attach()
    child = bench.trap(pid, "s", Spawn(program="receiver", args=[1, 5]))
    program, bench.programs["receiver"] = bench.programs["receiver"], None
    bench.boot()
    bench.trap(pid, "m", Send(to=child, body="kept"))
    bench.programs["receiver"] = program
    bench.boot()
    bench.later(6)
    assert bench.trap(pid, "w", Wait(pid=child)).value == ["kept"]


def test_a_suspect_is_parked_with_the_reason_and_the_others_go_on():
    async def init():
        pids = [await Spawn(program="sleeper", args=[2]), await Spawn(program="sleeper", args=[3])]
        await Sleep(seconds=4)
        return [(await Wait(pid=pids[1])).value, await errno(Wait(pid=pids[0], timeout=5))]

    bench = Bench(init, sleeper)
    bench.boot(suspects={2: "it was there three times", 77: "nobody"})
    assert parked(bench, 2) == "it was there three times"
    bench.later(4)
    bench.later(5)
    assert bench.end.value == [3, "ETIMEDOUT"]
    bench.boot()
    bench.later(1)
    assert not bench.kernel.procs


def test_on_run_names_the_program_that_has_the_control():
    seen = []

    async def init():
        seen.append("init")
        await Spawn(program="child")
        await Sleep(seconds=1)

    async def child():
        seen.append("child")

        async def branch():
            seen.append("branch")

        await gather(branch(), branch())

    Bench(init, child, on_run=seen.append)
    assert seen[:3] == [1, "init", 0]
    assert seen[seen.index("child") - 1] == seen[seen.index("branch") - 1] == 2
    running = 0
    for item in seen:
        running = item if isinstance(item, int) else running
        assert isinstance(item, int) or running == {"init": 1}.get(item, 2)
    assert running == 0


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
    assert outcome.tick
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
        assert (outcome.tick, outcome.rows, outcome.effects) == (None, {}, [])


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
    assert not bench.outcome.tick


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
    assert outcome.rows["journal"][pid, 0, 0][3:] == ("k", 'send{"to":1,"body":"x"}', 1, reply.text)


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


# ---- fairness and determinism


def test_a_budget_of_one_is_fair():
    """With one delivery a step, nobody gets ahead of the others by more than a turn."""

    async def main():
        for _ in range(5):
            await Spawn(program="busy")
        for _ in range(5):
            await Wait()

    async def busy():
        me = await GetPid()
        for n in range(20):
            turns.append((me, n))
            await Count(text="x")

    turns = []
    sim = boot(main, busy, budget=1).run()
    clean(sim)
    assert len(turns) == 100
    for at in range(20, 80):
        counts = dict(turns[:at]).values()
        assert max(counts) - min(counts) <= 5


def test_a_busy_process_does_not_hold_up_the_tick():
    async def main():
        await Spawn(program="busy")
        begin = await Now()
        await Think(prompt="x", max_tokens=10)
        return await Now() - begin

    async def busy():
        for _ in range(300):
            await Count(text="x")

    sim = boot(main, busy, budget=5).run()
    clean(sim)
    assert Ended(sim).value == 10.0
    assert sim.steps < 100


async def everything(depth=2):
    """A bit of everything, deep enough to be mixed by the scheduler."""
    me = await GetPid()
    child = await Spawn(program="everything", args=[depth - 1], nice=depth) if depth else None

    async def think(word):
        thought = await Think(prompt=word, max_tokens=7, temperature=1.0)
        await Send(to=me, body=thought.text)
        return await Random()

    numbers = await gather(think("a"), think("b"), Sleep(seconds=depth), Random())
    mail = sorted([(await Recv()).body for _ in range(2)])
    await Write(text=f"{depth} {mail}\n")
    below = (await Wait(pid=child)).value if child else None
    return [numbers, mail, below]


def test_two_runs_are_the_same_to_the_row():
    def run():
        sim = boot(everything, everything, policy=Priority(4), lanes=2, budget=3)
        log, commit = [], sim.store.commit

        def kept(rows):
            log.append({name: dict(changes) for name, changes in rows.items()})
            commit(rows)

        sim.store.commit = kept
        sim.run()
        clean(sim)
        return log, sim.world.screen, sim.steps

    assert run() == run()


def test_what_is_in_memory_does_not_decide_the_rows():
    """Objects at other addresses, sets in another order: no row depends on them."""
    ballast = [object() for _ in range(random.Random(1).randrange(10_000))]
    sims = []
    for _ in range(2):
        ballast.append([bytearray(n % 977) for n in range(len(ballast))])
        sims.append(boot(everything, everything, budget=2).run())
    assert sims[0].store.store.tables == sims[1].store.store.tables


@pytest.mark.parametrize("order", [[FCFS, RR, Priority], [Priority, FCFS], [lambda: RR(1), lambda: RR(50), FCFS]])
def test_the_policy_can_be_changed_at_any_time_and_no_result_changes(order):
    expected = Ended(boot(everything, everything).run()).value
    sim = boot(everything, everything, lanes=2)
    policies = itertools.cycle(order)
    for n in itertools.count():
        if n % 3 == 0:
            sim.due.append(SetPolicy(next(policies)()))
        sim.step()
        if not sim.wait() and n % 3:
            break
        if n > 500 and not sim.kernel.procs:
            break
    clean(sim)
    assert Ended(sim).value == expected


def test_a_new_policy_orders_those_who_wait():
    async def main():
        for nice in (15, 10, 5, 0):
            await Spawn(program="thinker", nice=nice)
        return [(await Wait()).value for _ in range(4)]

    async def thinker():
        await Think(prompt="x", max_tokens=8)
        return (await Stat(pid=await GetPid()))[0].nice

    def run(policy, then=None):
        sim = boot(main, thinker, lanes=1, policy=policy)
        sim.step()
        if then:
            sim.due.append(SetPolicy(then))
        sim.run()
        clean(sim)
        return Ended(sim).value

    assert run(FCFS()) == [15, 10, 5, 0]
    assert run(FCFS(), Priority(age=1000)) == [0, 5, 10, 15]


def test_renice_reaches_a_burst_wherever_it_is():
    async def main():
        pids = [await Spawn(program="thinker", args=[name], nice=10) for name in "abcd"]
        await Sleep(seconds=2.5)
        await Renice(pid=pids[3], nice=0)
        return [(await Wait()).value for _ in range(4)]

    async def thinker(name):
        await Think(prompt="x", max_tokens=12)
        return name

    sim = boot(main, thinker, lanes=1, policy=Priority(age=1000)).run()
    clean(sim)
    assert Ended(sim).value[0] == "d"


@pytest.mark.parametrize("quantum", [16, 100, 1000])
def test_time_in_a_lane_is_not_time_of_waiting(quantum):
    """Who ran alone for long has not aged: a better one takes the lane at once."""

    async def long():
        await Think(prompt="x", max_tokens=700)

    async def short():
        begin = await Now()
        await Think(prompt="y", max_tokens=3)
        return await Now() - begin

    async def main():
        await Spawn(program="long")
        await Sleep(seconds=310.5)
        return (await Wait(pid=await Spawn(program="short", nice=-5))).value

    sim = boot(main, long, short, lanes=1, policy=Priority(quantum, age=16)).run()
    clean(sim)
    assert Ended(sim).value == 3.5  # the tick in flight, and three


# ---- recovery from a store that makes no sense


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


# ---- random systems


NAMES = ("a", "b", "c")


def random_call(r):
    """Any call, most of them with arguments that can make sense."""
    some, pid = r.choice, r.randint(1, 7)
    wait = some([None, 0, 0.5, 1, 3])
    fd = some([0, 1, 1, 2, 5, "pipe:p", "pipe:q"])
    limits = some([None, None, Limits(tokens=40), Limits(seconds=2), Limits(messages=1), Limits(children=1)])
    fds = some([{}, {}, {0: "pipe:p"}, {1: "pipe:p"}, {0: "pipe:p", 1: "pipe:q"}, {0: "tty", 1: "null"}])
    own = {"prompt": some([None, "ab", "x" * 40, "y" * 900])}
    talk = {"messages": [ChatMessage(role="user", text="m" * r.randint(1, 30))]}
    taste = {"stream": some([True, False]), "stop": some([[], [], ["e"], ["th", "a"]]), "temperature": some([0, 1.0])}
    makers = [
        lambda: Spawn(program=some([*NAMES, "nobody"]), args=[r.random()], nice=some([None, 0, 5, -3]), limits=limits),
        lambda: Spawn(program=some(NAMES), args=[r.random()], fds=fds, caps=some([None, [], ["think", "spawn:*"]])),
        lambda: Wait(pid=some([None, pid]), timeout=wait),
        lambda: Kill(pid=pid, signal=some([*Signal])),
        lambda: Kill(pid=pid, signal=some([Signal.STOP, Signal.CONT, Signal.CONT])),
        lambda: Stat(pid=some([None, pid]), dead=some([True, False])),
        lambda: Sleep(seconds=wait or 0),
        lambda: Renice(pid=pid, nice=r.randint(-5, 5)),
        lambda: SetLimit(limit=some(["tokens", "children", "messages", "seconds"]), value=some([None, 0, 1, 1.5, 50])),
        lambda: Fork(),
        lambda: Exec(program=some(NAMES), args=[r.random()], fresh=some([True, False])),
        lambda: Think(**some([own, talk]), **taste, max_tokens=some([1, 5, 30])),
        lambda: Think(**talk, max_tokens=20),
        lambda: Append(text="y" * r.randint(0, 40)),
        lambda: Pages(),
        lambda: Pin(page=r.randint(0, 3)),
        lambda: Call(
            device="dev", op=some(["pure", "idempotent", "unsafe"]), args={"n": r.randint(0, 3)}, timeout=wait
        ),
        lambda: Read(fd=fd, limit=some([1, 99_999]), timeout=wait),
        lambda: Write(text="w" * some([0, 1, 40, 70_000]), fd=fd, close=r.random() < 0.2),
        lambda: Send(to=pid, body=some([1, [1, 2]]), tag=some(["", "t"]), block=some([True, True, False])),
        lambda: Recv(tag=some([None, "t"]), sender=some([None, None, pid]), timeout=wait),
        lambda: Grant(pid=pid, caps=some([["think"], ["*"]])),
        lambda: Drop(keep=some([["*"], ["think", "spawn:*"], []])),
        lambda: Now(),
        lambda: Random(),
    ]
    return r.choice(makers)()


async def random_program(r, depth=0):
    """Make random calls, also in branches that have their own dice, for their order is not known."""
    for _ in range(r.randint(0, 9 if depth == 0 else 3)):
        try:
            if depth < 2 and r.random() < 0.2:
                branches = [random_program(random.Random(r.random()), depth + 1) for _ in range(r.randint(1, 3))]
                await r.choice([gather, select])(*branches)
            elif r.random() < 0.02:
                raise LookupError("now and then")
            elif await random_call(r) == 0:
                r = random.Random(r.random())  # a child of Fork goes its own way
        except EINTR:
            if r.random() < 0.3:
                raise
        except SyscallError:
            pass


async def reaper(seed):
    """Start three, take everybody's status, and kill who does not come to an end."""
    for n, name in enumerate(NAMES):
        await Spawn(program=name, args=[seed + n / 10])
    for patience in itertools.count():
        others = [p.pid for p in await Stat() if p.pid != 1 and not p.status]
        if not others and len(await Stat()) == 1:
            return
        for pid in others if patience > 20 else ():
            with suppress(SyscallError):
                await Kill(pid=pid, signal=Signal.KILL)
        with suppress(SyscallError):
            await Wait(timeout=3)


class Street(Devices):
    """Devices that answer, late or early."""

    def latency(self, effect):
        return (0.5, 1.0, 2.5, 30.0)[effect.args["n"]]

    def invoke(self, effect):
        return effect.args


def test_random_systems():
    """Whatever programs do, and however often the kernel dies: no bug, no divergence, and nothing is left."""
    for seed in range(250):
        r = random.Random(seed)
        programs = {name: lambda dice: random_program(random.Random(dice)) for name in NAMES}
        programs["init"] = lambda seed=seed: reaper(seed)
        shape = {"lanes": r.choice([1, 2, 5]), "prefill": r.choice([1, 8, 64]), "budget": r.choice([1, 2, 5, 1000])}
        frames, store, world = r.choice([24, 40, 200]), Mortal(), Street()
        kills = itertools.accumulate(r.randint(1, 9) for _ in range(r.randint(0, 4)))
        for store.crash in [*((n, r.choice(["before", "after"])) for n in kills), (0, "")]:
            store.reopen()
            machine, policy = ToyMachine(frames, 300, ends=False), r.choice([FCFS, RR, Priority, lambda: RR(2)])()
            try:
                sim = Simulation(programs, store, world, machine, policy, **shape)
                parked = [p.parked for p in sim.kernel.procs.values() if p.parked]
                assert not parked, f"system {seed}: {parked[0]}"
                sim.run(5000)
            except Killed:
                world.now += r.choice([0, 0, 1, 10])
        clean(sim)


# ---- many


def test_ten_thousand_processes_leave_nothing():
    async def main():
        for _ in range(10):
            pids = [await Spawn(program="child", args=[n]) for n in range(1000)]
            await Send(to=pids[500], body="hi")
            for pid in pids:
                await Wait(pid=pid)
        return len(await Stat())

    async def child(n):
        if n % 100 == 0:
            await Recv(timeout=1)

    store = MemoryStore()
    sim = boot(main, child, store=store).run()
    clean(sim)
    assert Ended(sim).value == 2
    assert len(store.dead()) == 10_002
    kernel = sim.kernel
    assert not kernel.rows["process"]
    assert not kernel.inserted
    assert len(kernel.timers) < 500


def test_nobody_looks_at_the_pipes_of_all_others():
    """The end of a process, a timeout and a signal take the time of its own pipes."""

    class Streams(dict):
        looks = 0

        def look(self, found):
            for item in found:
                Streams.looks += 1
                yield item

        def __iter__(self):
            return self.look(dict.__iter__(self))

        def values(self):
            return self.look(dict.values(self))

    async def main():
        for n in range(100):
            await Spawn(program="reader", fds={0: f"pipe:{n}"})
        for _ in range(100):
            await Wait()

    async def reader():
        await errno(Read(timeout=1))

    sim = boot(main, reader)
    sim.kernel.streams = Streams()
    sim.run()
    clean(sim)
    assert Streams.looks < 1000


def test_pipes_that_are_gone_are_forgotten():
    """A shell makes pipes for weeks; each goes away with the processes at its ends."""

    async def main():
        for n in range(50):
            pids = [
                await Spawn(program="writer", fds={1: f"pipe:{n}"}),
                await Spawn(program="reader", fds={0: f"pipe:{n}"}),
            ]
            for pid in pids:
                await Wait(pid=pid)

    async def writer():
        await Write(text="x", close=True)

    async def reader():
        while await Read():
            pass

    sim = boot(main, writer, reader, budget=2)
    most = 0
    for _ in range(2000):
        sim.step()
        if process := sim.kernel.procs.get(2):
            most = max(most, len(process.made or ()), len(process.pipes or ()), len(sim.kernel.streams))
        if not sim.wait():
            break
    clean(sim)
    assert most < 5


def test_a_thousand_sleepers_wake_in_order():
    async def main():
        async def one(n):
            await Sleep(seconds=n * 7 % 1000)
            order.append(n * 7 % 1000)

        order = []
        await gather(*(one(n) for n in range(1000)))
        return order == sorted(order)

    sim = boot(main).run()
    clean(sim)
    assert Ended(sim).value is True


def test_a_thousand_bursts_wait_and_all_are_served():
    async def main():
        pids = [await Spawn(program="thinker", args=[n]) for n in range(300)]
        return len({(await Wait(pid=pid)).value for pid in pids})

    async def thinker(n):
        return (await Think(prompt=f"number {n}", max_tokens=3)).text

    sim = boot(main, thinker, lanes=16, prefill=256, machine=ToyMachine(frames=512, ends=False)).run()
    clean(sim)
    assert Ended(sim).value > 250


# ---- programs that misbehave


def test_a_program_that_is_interrupted_by_the_operator_stops_the_kernel():
    async def init():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bench(init)


def test_a_program_that_changes_what_it_was_given_changes_nobody_else():
    async def main():
        mail, device = {"a": [1]}, {"x": [1]}
        me = await GetPid()
        await Send(to=me, body=mail)
        mail["a"].append(2)
        got = (await Recv()).body
        got["a"].append(3)
        calls = await gather(told(Call(device="dev", op="pure", args=device)), change(device))
        return [mail, got, calls]

    async def change(args):
        args["x"].append(2)
        await Sleep(seconds=1)

    class Echo(Devices):
        def latency(self, effect):
            return 2

        def invoke(self, effect):
            return effect.args

    sim = boot(main, world=Echo()).run()
    clean(sim)
    assert Ended(sim).value == [{"a": [1, 2]}, {"a": [1, 3]}, [{"x": [1]}, None]]


def test_a_call_is_let_out_again_with_the_arguments_that_it_had():
    """A sibling branch changes the list after the call; the retry after a kill has to be the call of the journal."""

    async def main():
        shared = {"x": [1]}

        async def change():
            await Sleep(seconds=1)
            shared["x"].append(2)
            await Sleep(seconds=1)

        got, _ = await gather(Call(device="dev", op="idempotent", args=shared), change())
        return got

    class Echo(Devices):
        def latency(self, effect):
            return 9

        def invoke(self, effect):
            return effect.args

    store, world = Mortal(), Echo()
    store.crash = (3, "after")
    with pytest.raises(Killed):
        boot(main, store=store, world=world).run()
    sim = boot(main, store=store, world=world).run()
    clean(sim)
    assert Ended(sim).value == {"x": [1]}


def test_errors_say_who_and_what():
    """An errno without a detail helps nobody."""

    async def main():
        calls = [
            Kill(pid=99),
            Wait(pid=99),
            Spawn(program="nobody"),
            Read(fd=9),
            Write(text="x", fd="pipe:q"),
            Call(device="x", op="y"),
            Stat(pid=99),
            Send(to=99),
            Gather(branches=1),
            Recv(timeout=0),
            Append(text="x" * 9999, pinned=True),
        ]
        return [await told(call) for call in calls]

    sim = boot(main).run()
    clean(sim)
    for text in Ended(sim).value:
        errno, _, detail = text.partition(": ")
        assert errno.isupper()
        assert len(detail) > 3, text
