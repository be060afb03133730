"""Judge the scheduling policies: `python benchmarks/schedule.py [--programs N] [--load X] [--real] [--json FILE]`.

The same trace of programs that behave like agents (see `load`) runs under every policy: on the real kernel in virtual
time, where a tick takes what the real machine was measured to take, so that 10,000 programs take minutes and the same
seed gives the same table, but for the time of the CPU that a tick takes; or, with --real, on the real model and the
clock on the wall.

Seconds are the machine's. A program's turnaround is from its arrival to its end, its response to its first token; an
answer's TTFT is from the call to the first token, and it waits while it has no lane. Slowdown is turnaround against
that of the same program alone, which follows from the cost of a tick. Jain's index is 1 if all slowdowns are equal:
of programs, and of the means of the four tenants.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from array import array
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import anyio
from load import Cost, Play, Script, Still, Trace, alone, spawn
from rich.console import Console
from rich.table import Table

from tokix.kernel.events import Attach, Attached, Trap
from tokix.kernel.policy import POLICIES, named
from tokix.sim import Simulation, World
from tokix.storage import MemoryStore
from tokix.timeline import COLOURS


class Meter:
    """Looks at the kernel after every step: which answer got a token in which tick."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.open: list[tuple[int, bool]] = []
        self.serial = 0
        self.began = self.busy = 0.0
        self.ticks = self.rows = self.sampled = 0
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}
        self.ran: defaultdict[int, float] = defaultdict(float)
        self.gaps = array("f")
        #: Of each tick: rows of one token, their context, tokens of prompts, seconds.
        self.costs: list[tuple[int, int, int, float]] = []
        self.shape = (0, 0, 0)

    def __call__(self, kernel: Any) -> None:
        now, flights = self.play.clock(), kernel.scheduler.flights
        serial = flights[0].tick.serial if flights else 0
        if serial == self.serial:
            return
        if self.open:
            self.close(now)
        self.serial = serial
        for tick, bursts in flights:  # one, for this kernel makes none ahead
            self.shape, self.began = shape(tick), now
            pairs = zip(bursts, tick.rows, strict=True)
            self.open = [(int(burst.sampling.stream[1:]), row.sampling is not None) for burst, row in pairs]

    def close(self, now: float) -> None:
        took = now - self.began
        self.busy += took
        self.ticks += 1
        self.rows += len(self.open)
        self.costs.append((*self.shape, took))
        for number, sampled in self.open:
            self.ran[number] += took
            if sampled:
                self.sampled += 1
                if number in self.last:
                    self.gaps.append(now - self.last[number])
                else:
                    self.first[number] = now
                self.last[number] = now
        self.open = []


def shape(tick: Any) -> tuple[int, int, int]:
    """Give rows of one token, the context behind all rows, tokens of prompts."""
    prompts = sum(len(row.feed) for row in tick.rows if len(row.feed) > 1)
    return sum(len(row.feed) == 1 for row in tick.rows), sum(row.start for row in tick.rows), prompts


# ---- in virtual time


class Machine(World):
    """The outside: ticks take what they cost."""

    def __init__(self, cost: Cost, frames: int) -> None:
        super().__init__()
        self.cost, self.frames = cost, frames

    def duration(self, tick: Any) -> float:
        return self.cost.of(*shape(tick), sum(max(move) >= self.frames for move in tick.copies))


class Nowhere(MemoryStore):
    """Nothing dies here, so nothing is kept."""

    def commit(self, rows: Any) -> None:
        pass


class Simulated(Simulation):
    """A run of a trace. Every tenant is a foreign process, which spawns its programs when they come."""

    def __init__(self, trace: Trace, policy: str, options: argparse.Namespace) -> None:
        world = Machine(options.cost, options.frames)
        self.trace, self.play = trace, Play(trace, lambda: self.world.now)
        self.meter, self.spent = Meter(self.play), 0.0
        machine = Script(Still(options.frames, options.slots, 8192, options.cost), trace)
        shape = {"lanes": options.lanes, "prefill": options.prefill, "budget": 1 << 30}
        programs = {**self.play.programs, "init": init}
        super().__init__(programs, Nowhere(), world, machine, named(policy), checked=False, **shape)
        self.due += [Attach(tenant, f"tenant {tenant}") for tenant in {agent.tenant for agent in trace.roots}]

    def step(self) -> None:
        began = time.process_time()
        super().step()
        self.spent += time.process_time() - began
        self.meter(self.kernel)

    def start(self, effect: Any) -> None:
        if isinstance(effect, Attached):
            for agent in self.trace.roots:
                if agent.tenant == effect.ticket:
                    self.later(agent.arrival, Trap(effect.pid, f"agent {agent.number}", spawn(agent)))
        else:
            super().start(effect)


async def init() -> None:
    """Do nothing, and be there."""
    from tokix.syscalls import Recv

    await Recv()


def simulated(trace: Trace, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    run = Simulated(trace, policy, options)
    run.run(1 << 62)
    return figures(trace, run.play, run.meter, run.kernel, options, run.spent)


# ---- on the real machine


def real(trace: Trace, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    return anyio.run(played, trace, policy, options)


async def played(trace: Trace, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    from tokix.boot import boot
    from tokix.syscalls import Wait
    from tokix.terminal import Terminal

    zero = time.monotonic()
    play = Play(trace, lambda: time.monotonic() - zero)
    meter = Meter(play)
    machine = Script(options.machine, trace)
    shape: dict[str, Any] = {"lanes": options.lanes, "policy": named(policy), "programs": play.programs, "drivers": {}}
    async with boot(machine=machine, store=MemoryStore(), terminal=Terminal(), **shape) as system:
        system.observers.append(meter)

        async def tenant(number: int) -> None:
            async with system.attach(f"tenant {number}") as client:
                pids = []
                for agent in trace.roots:
                    if agent.tenant == number:
                        await anyio.sleep(max(0.0, agent.arrival - play.clock()))
                        pids.append(await client.call(spawn(agent)))
                for pid in pids:
                    await client.call(Wait(pid=pid))

        async with anyio.create_task_group() as group:
            for number in {agent.tenant for agent in trace.roots}:
                group.start_soon(tenant, number)
        return figures(trace, play, meter, system.kernel, options, None)


def fitted(runs: dict[str, dict[str, Any]]) -> Cost:
    """Give the cost of a tick of the real machine, by least squares over all ticks."""
    import numpy

    rows = [row for run in runs.values() for row in run["ticks' costs"]]
    known = numpy.array([(1, *row[:3]) for row in rows], float)
    found = numpy.linalg.lstsq(known, numpy.array([row[3] for row in rows]), rcond=None)[0]
    return Cost(*(max(0.0, float(part)) for part in found))


# ---- figures


def figures(
    trace: Trace, play: Play, meter: Meter, kernel: Any, options: argparse.Namespace, spent: float | None
) -> dict[str, Any]:
    """Give all figures of a run. They are checked: everything that came has ended, with every token of the trace."""
    assert len(play.ended) == len(trace.agents)
    assert meter.sampled == sum(step.answer + 1 for step in trace.rounds)  # the last is the one that ends it
    ttft = {number: meter.first[number] - asked for number, asked in play.asked.items()}
    waited = {number: play.answered[number] - asked - meter.ran[number] for number, asked in play.asked.items()}
    turnaround = [play.ended[agent.number] - agent.arrival for agent in trace.roots]
    response = [meter.first[agent.rounds[0].number] - agent.arrival for agent in trace.roots]
    persons = [ttft[step.number] for agent in trace.roots if agent.kind == "person" for step in agent.rounds]
    counters = kernel.scheduler.mmu.counters
    found: dict[str, Any] = {
        "turnaround, mean": fmean(turnaround),
        "turnaround, p95": quantile(turnaround, 0.95),
        "response, p50": quantile(response, 0.5),
        "response, p95": quantile(response, 0.95),
        "waiting of an answer, mean": fmean(waited.values()),
        "TTFT, p50": quantile(ttft.values(), 0.5),
        "TTFT, p95": quantile(ttft.values(), 0.95),
        "TTFT of persons, p50": quantile(persons, 0.5),
        "TTFT of persons, p95": quantile(persons, 0.95),
        "inter-token, p50": quantile(meter.gaps, 0.5),
        "inter-token, p95": quantile(meter.gaps, 0.95),
        "inter-token, longest": max(meter.gaps),
        "occupancy": meter.rows / meter.ticks / options.lanes,
        "deschedules": counters.switches,
        "drops": counters.drops,
        "swaps": counters.swaps,
        "frames out": counters.outs,
        "frames in": counters.ins,
        "tokens/s": meter.sampled / meter.busy,
        "makespan": max(play.ended.values()) - trace.roots[0].arrival,
        "ticks": meter.ticks,
        "tokens fed": counters.fed,
    }
    if spent is not None:
        found["kernel and programs, µs per tick"] = spent / meter.ticks * 1e6
    return {**found, "turnarounds": turnaround, "ticks' costs": meter.costs}


def slowed(trace: Trace, run: dict[str, Any], cost: Cost, prefill: int) -> None:
    """Add what depends on how long a program takes alone."""
    slowdown = [took / alone(agent, cost, prefill) for agent, took in zip(trace.roots, run["turnarounds"], strict=True)]
    tenants = defaultdict[int, list[float]](list)
    kinds = defaultdict[str, list[float]](list)
    for agent, value in zip(trace.roots, slowdown, strict=True):
        tenants[agent.tenant].append(value)
        kinds[agent.kind].append(value)
    run["slowdown, mean"] = fmean(slowdown)
    run["slowdown, p50"] = quantile(slowdown, 0.5)
    run["slowdown, p95"] = quantile(slowdown, 0.95)
    run["slowdown, largest"] = max(slowdown)
    for kind, values in sorted(kinds.items()):
        run[f"slowdown of {kind}, mean"] = fmean(values)
    for tenant, values in sorted(tenants.items()):
        run[f"slowdown of tenant {tenant}, mean"] = fmean(values)
    run["Jain, programs"] = jain(slowdown)
    run["Jain, tenants"] = jain([fmean(values) for values in tenants.values()])
    run["slowdowns"] = slowdown


def quantile(values: Any, share: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]) if ordered else 0.0


def jain(values: list[float]) -> float:
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


# ---- the report


def show(console: Console, runs: dict[str, dict[str, Any]], title: str) -> None:
    table = Table("", *runs, title=title)
    first = next(iter(runs.values()))
    for name in [name for name, value in first.items() if not isinstance(value, list)]:
        table.add_row(name, *(number(run[name]) for run in runs.values()))
    console.print(table)


def number(value: float) -> str:
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


#: What the picture has bars of.
BARS = ("slowdown, mean", "slowdown, p95", "TTFT of persons, p95", "response, p95", "inter-token, p95", "drops")
_WIDE, _HIGH, _LEFT = 460, 190, 90


def picture(runs: dict[str, dict[str, Any]], title: str) -> str:
    """Give an SVG: for every figure a bar for each policy, and which share of the programs is slowed down how much."""
    lines = [f'<text x="20" y="24" font-size="15">{title}</text>']
    for place, name in enumerate(BARS):
        x, y = 20 + place % 2 * (_WIDE + 20), 40 + place // 2 * (_HIGH + 20)
        lines += bars(x, y, name, {policy: run[name] for policy, run in runs.items()})
    lines += curves(20, 60 + 3 * (_HIGH + 20), {policy: sorted(run["slowdowns"]) for policy, run in runs.items()})
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDE + 60} {3 * (_HIGH + 20) + 400}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, *lines, "</svg>"])


def bars(x: float, y: float, name: str, values: dict[str, float]) -> list[str]:
    most, step = max(*values.values(), 1e-9), (_HIGH - 20) / len(values)
    lines = [f'<text x="{x}" y="{y + 12}" font-weight="bold">{name}</text>']
    for place, (policy, value) in enumerate(values.items()):
        top, wide = y + 18 + place * step, value / most * (_WIDE - _LEFT - 60)
        lines += [
            f'<text x="{x}" y="{top + step - 6:.1f}">{policy}</text>',
            f'<rect x="{x + _LEFT}" y="{top:.1f}" width="{wide:.1f}" height="{step - 4:.1f}" fill="{COLOURS[place]}"/>',
            f'<text x="{x + _LEFT + wide + 4:.1f}" y="{top + step - 6:.1f}">{number(value)}</text>',
        ]
    return lines


def curves(x: float, y: float, values: dict[str, list[float]]) -> list[str]:
    """Give the share of programs (up) that are slowed down no more than so much (across, every line twice as much)."""
    wide, high = 2 * _WIDE - 120, 280
    doublings = max(1, max(int(ordered[-1]).bit_length() for ordered in values.values()))
    lines = [f'<text x="{x}" y="{y}" font-weight="bold">share of programs by slowdown</text>']
    for doubling in range(doublings + 1):
        at = x + doubling / doublings * wide
        lines.append(f'<path d="M{at:.1f} {y + 10} v{high}" stroke="#ddd"/>')
        lines.append(f'<text x="{at:.1f}" y="{y + high + 26}" fill="#666">{1 << doubling}</text>')
    for place, (policy, ordered) in enumerate(values.items()):
        points, index = [], 0
        for step in range(201):
            limit = 2 ** (step / 200 * doublings)
            while index < len(ordered) and ordered[index] <= limit:
                index += 1
            points.append(f"{x + step / 200 * wide:.1f},{y + 10 + high * (1 - index / len(ordered)):.1f}")
        colour = COLOURS[place]
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        lines.append(f'<text x="{x + wide + 20}" y="{y + 24 + 16 * place}" fill="{colour}">{policy}</text>')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--programs", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--load", type=float, default=0.9, help="share of the capacity asked for; 0: all come at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policies", default=",".join(POLICIES), help="names with commas (default: all)")
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--prefill", type=int, default=64)
    parser.add_argument("--frames", type=int, default=1 << 14, help="of 16 tokens (default: 16,384)")
    parser.add_argument("--slots", type=int, default=1 << 14, help="frames in the swap file (default: 16,384)")
    parser.add_argument("--real", action="store_true", help="on the real model, in seconds of the wall")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--svg", type=Path, help="draw them into this file")
    options = parser.parse_args()
    options.cost, console = Cost(), Console(width=160)
    policies = options.policies.upper().split(",")
    if unknown := [name for name in policies if name not in POLICIES]:
        sys.exit(f"no policy {', '.join(unknown)}; there is {', '.join(POLICIES)}")
    if options.real:
        from tokix.machines import load as load_model

        options.machine, _ = load_model(options.model)
        options.prefill = 64  # what a booted kernel has
    trace = Trace(options.programs, options.seed, options.load, options.cost, options.lanes)
    runs: dict[str, dict[str, Any]] = {}
    for name in policies:
        console.print(f"{name} …", style="dim")
        runs[name] = (real if options.real else simulated)(trace, name, options)
    cost = fitted(runs) if options.real else options.cost
    for run in runs.values():
        slowed(trace, run, cost, options.prefill)
        del run["ticks' costs"]
    load = f"load {options.load:g}" if options.load else "all at once"
    where = f"{options.model}, a tick costs {cost}" if options.real else "virtual time"
    title = f"{options.programs} programs, seed {options.seed}, {load}, {options.lanes} lanes; {where}"
    show(console, runs, title)
    if options.json:
        report = {"title": title, "platform": platform.platform(), "cost": cost._asdict(), "runs": runs}
        options.json.write_text(json.dumps(report))
    if options.svg:
        options.svg.write_text(picture(runs, title))


if __name__ == "__main__":
    main()
