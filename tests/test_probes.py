"""Probes: what they see, and that they change nothing."""

from bench import Bench, forever
from harness import boot, clean, sleeper
from tokix.kernel.events import Event, Report
from tokix.syscalls import GetPid, Kill, Signal, Spawn, Think, Wait
from torture import Mortal


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
