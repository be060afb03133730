"""Programs that are not what they were: divergence, missing programs, suspects."""

import pytest

from bench import Bench, forever, parked
from harness import ends_with, errno, receiver, sleeper
from tokix.kernel.events import Answer, Detach, Invoke
from tokix.kernel.process import State
from tokix.syscalls import Append, Call, Kill, Limits, Recv, Send, Signal, Sleep, Spawn, Stat, Wait, gather


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
