"""What a trace says of a run, and what becomes of it: text, a picture, a file for Perfetto."""

import io
import json
from xml.etree import ElementTree

import anyio
import pytest
from rich.console import Console

from tokix import timeline
from tokix.boot import boot
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.policy import Priority
from tokix.live import LiveView
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Sleep, Spawn, Think, Wait, Write, gather
from tokix.trace import Trace


def traced(main, *programs, **shape):
    """Run under a simulation whose kernel is watched."""
    named = {program.__name__: program for program in programs} | {"init": main}
    machine = ToyMachine(ends=False)
    sim = Simulation(named, MemoryStore(), machine=machine, **shape)
    trace, step = Trace(), sim.kernel.step

    def watched(interrupts, now):
        outcome = step(interrupts, now)
        trace(sim.kernel)
        return outcome

    sim.kernel.step = watched
    sim.run()
    return trace


def test_ticks_tokens_and_waiting_add_up():
    async def main():
        await gather(*[Think(prompt=letter * 20, max_tokens=5) for letter in "xyz"])

    trace = traced(main, lanes=2, prefill=64)
    [life] = trace.lives.values()
    assert trace.sampled == life.sampled == 15
    assert [beat.number for beat in trace.beats] == list(range(1, len(trace.beats) + 1))
    assert life.fed == trace.fed == 3 * (20 + 2 + 1) + 3 * 4
    assert all(1 <= len(beat.runs) <= 2 for beat in trace.beats)
    assert life.ran == len(trace.beats)
    first, second, third = life.waits
    assert (first.arrived, first.first, first.ended) == (0, 1, 5)
    assert third.first > second.ended or third.first > first.ended
    assert [wait.prefill for wait in life.waits] == [23] * 3


def test_a_question_waits_for_two_ticks_and_its_own_prefill():
    async def main():
        for _ in range(6):
            await Spawn(program="batch", nice=10)
        await Sleep(seconds=20)
        await Spawn(program="person", nice=-10)

    async def batch():
        for _ in range(5):
            await Think(prompt="work " * 8, max_tokens=40)

    async def person():
        await Think(prompt="q" * 100, max_tokens=3)

    trace = traced(main, batch, person, lanes=4, prefill=32, policy=Priority(8))
    [asked] = [life for life in trace.lives.values() if life.program == "person"]
    assert asked.waits[0].prefill == 103
    assert asked.response <= 2 + -(-103 // 32)
    late = [life for life in trace.lives.values() if life.waited]
    assert late
    assert trace.counters.switches >= 1


def test_a_process_that_never_thinks_has_no_response():
    async def main():
        await Sleep(seconds=1)

    trace = traced(main)
    assert [life.response for life in trace.lives.values()] == [None]
    assert trace.beats == []
    assert next(timeline.draw(trace, 80)).plain.startswith("lane 0")
    ElementTree.fromstring(timeline.picture(trace))


@pytest.fixture(name="run", scope="module")
def a_run():
    async def main():
        await gather(*[Think(prompt="<&>" * n, max_tokens=30) for n in range(1, 6)])

    return traced(main, lanes=3)


def test_every_lane_is_a_line_and_every_tick_is_in_a_column(run):
    *lanes, scale, legend = [line.plain for line in timeline.draw(run, 20)]
    assert [line[:7] for line in lanes] == ["lane 0 ", "lane 1 ", "lane 2 "]
    assert {len(line) for line in lanes} == {7 + -(-len(run.beats) // -(-len(run.beats) // 20))}
    assert f"{len(run.beats)} ticks" in scale
    assert legend.strip() == "A init (1)"
    whole = next(timeline.draw(run, 10_000)).plain
    assert len(whole) == 7 + len(run.beats)
    assert next(timeline.tail(run, 5)).plain == "lane 0 " + whole[-5:]


def test_perfetto_gets_every_tick_of_every_lane(run):
    events = json.loads(timeline.perfetto(run))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    assert len(spans) == sum(len(beat.runs) for beat in run.beats)
    assert all(span["dur"] >= 0 and span["args"]["tick"] >= 1 for span in spans)


def test_the_picture_has_a_box_for_every_row(run):
    svg = ElementTree.fromstring(timeline.picture(run))
    titles = [node for node in svg.iter() if node.tag.endswith("title")]
    assert len(titles) == sum(len(beat.runs) for beat in run.beats)


# ---- live


async def talker():
    await Write(text="half ")
    await Think(prompt="x", max_tokens=20)
    await Write(text="a line\nand a rest")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_live_view_shows_whole_lines_and_loses_none(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)

    async def main():
        trace = Trace()
        view = LiveView(console, trace)
        async with boot(programs={"talker": talker}, terminal=view) as system:
            system.observers.append(trace)
            view.watch(system)
            async with system.attach("test") as client:
                pid = await client.call(Spawn(program="talker", fds={1: "tty"}))
                await client.call(Wait(pid=pid))
                await view.drained()
        return pid

    pid = anyio.run(main)
    shown = out.getvalue()
    assert f"{pid:>4} half a line\n" in shown
    assert f"{pid:>4} and a rest\n" in shown
    assert ("ticks/s" in shown) == terminal
