"""Foreign processes, at the kernel: traps and their keys, signals, restarts."""

import pytest

from bench import Bench, forever, opened
from harness import ends_with, sleeper
from tokix.kernel.events import Detach, Hangup, Invoke, Reply, Revoke, Trap
from tokix.syscalls import (
    Append,
    Call,
    ChatMessage,
    Count,
    Exec,
    Exit,
    Fork,
    Gather,
    GetPid,
    Kill,
    Pages,
    Read,
    Recv,
    Select,
    Send,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
)
from tokix.syscalls.errors import decode_error


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
