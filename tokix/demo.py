"""`tokix demo`: a scenario on the real model, seen tick by tick; then once more, killed in the middle.

The proof at the end compares what every process of the two runs has come to, by lineage: pids depend on the schedule,
results do not. The second run is another OS process, killed with SIGKILL when half of its calls are in the journal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokix import machines, mounts, scenario, timeline
from tokix.agents.script import Scenario
from tokix.agents.words import clip
from tokix.boot import boot
from tokix.cli import planned
from tokix.failure import Interrupted, Stopped
from tokix.kernel.life import INIT
from tokix.kernel.policy import Priority
from tokix.kernel.ports import TABLES
from tokix.live import LiveView
from tokix.shell.status import one_line
from tokix.shell.usage import BROKEN, FAILED, SIGNALLED, Failure
from tokix.state import TRUTH, opened
from tokix.storage import glance
from tokix.syscalls import ExitStatus, Wait
from tokix.syscalls.base import to_json
from tokix.trace import Life, Trace

#: The shape of the demonstration: a small window, so that its agents have to remember more than they can see.
SCENARIO, WINDOW, LANES, QUANTUM, PREFILL = "library.yaml", 512, 4, 8, 64
#: What is shown of each process, and what of that where there is little room.
COLUMNS = ("pid", "program", "nice", "end", "response", "waiting", "running", "turnaround", "fed", "sampled")
NARROW = ("pid", "program", "end", "waiting")
#: Characters of a result that are shown.
RESULT = 600
#: Columns of an output that is no terminal.
WIDTH = 120
#: Seconds between two looks at the run that is going to be killed; how that is started.
LOOK = 0.1
TOKIX = (sys.executable, "-m", "tokix")
QUIET: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


class End(NamedTuple):
    """What a process has come to."""

    pid: int
    program: str
    reason: str
    value: Any
    detail: str


def demo(options: Namespace) -> int:
    """Run a scenario with a live view, and show what came of it; then kill and restart it, and compare."""
    plan = planned(options.scenario)
    options.out.mkdir(parents=True, exist_ok=True)  # if that cannot be, it is said before all the work
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console.width = WIDTH
    with tempfile.TemporaryDirectory(prefix="tokix-") as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        trace, status = play(plan, options, first, console)
        found = ends(first, options.key)
        report(console, trace, found, options.out)
        good = status.reason == "exit" and not status.value
        if not good:
            console.print(f"the scenario has failed: {failure(status)}", style="red", markup=False)
        same = survives(options, first, second, console) if good and options.crash else None
    if options.json:
        print(to_json(summary(trace, found) | {"held": good, "survived": same}))
    return 0 if good and same is not False else FAILED


def failure(status: ExitStatus) -> str:
    """Say why a scenario is none that holds."""
    if status.reason == "exit":
        return "what does not hold is said above"
    return f"{status.reason}: {status.detail}"


# ---- the first run


def play(plan: Scenario, options: Namespace, state: Path, console: Console) -> tuple[Trace, ExitStatus]:
    """Run a scenario to its end; gives its trace and how it ended."""
    machine, encoder = machines.wanted(options.model, window=WINDOW, slots=None if options.key is None else 0)
    trace = Trace()
    view = LiveView(console, trace)

    async def main() -> ExitStatus:
        async with boot(
            state,
            key=options.key,
            machine=machine,
            encoder=encoder,
            policy=Priority(QUANTUM),
            drivers=mounts.mounted(scenario.mounts(plan)),
            lanes=LANES,
            terminal=view,
            signalled=True,
        ) as system:
            view.watch(system)
            system.observers.append(trace)
            async with system.attach("demo") as client:
                call = scenario.spawn(plan).model_copy(update={"fds": dict.fromkeys(range(3), "tty")})
                pid = await client.call(call)
                status = await client.call(Wait(pid=pid))
                await view.drained()
                return status

    console.print(
        Text.assemble(
            (plan.name, "bold"),
            f": {plan.about}, " if plan.about else " ",
            f"on {machine.name}, {LANES} lanes, a window of {WINDOW} tokens\n",
        )
    )
    try:
        return trace, anyio.run(main)
    except Interrupted as cut:
        raise Failure(str(cut), SIGNALLED + cut.signum) from None
    except Stopped as error:
        raise Failure(str(error), BROKEN) from None


# ---- what came of it


def report(console: Console, trace: Trace, found: Mapping[str, End], out: Path) -> None:
    """Print results, processes, times and the timeline; write the picture and the trace."""
    for end in sorted(found.values()):
        if end.value is not None and end.pid in trace.order:
            console.print(
                f"\n{end.program} ({end.pid}) came to {clip(to_json(end.value), RESULT)}", markup=False, soft_wrap=True
            )
    console.print()
    console.print(processes(trace, found, NARROW if console.width < sum(map(len, COLUMNS)) else COLUMNS))
    console.print()
    for line in timeline.draw(trace, max(20, console.width - 10)):
        console.print(line)
    seconds, counts = trace.seconds or 1.0, trace.counters
    console.print(
        f"\n{len(trace.beats)} ticks in {trace.seconds:.1f} s; {trace.sampled} tokens sampled, "
        f"{trace.sampled / seconds:.0f} a second; {trace.fed} fed, {trace.fed / seconds:.0f} a second, and "
        f"{counts.hits} found in frames; {counts.switches} switches, "
        f"{counts.swaps} contexts swapped, {counts.drops} dropped"
    )
    for life in trace.lives.values():
        if life.nice < 0 and life.response is not None:
            console.print(question(life))
    picture, events = out / "timeline.svg", out / "trace.json"
    picture.write_text(timeline.picture(trace))
    events.write_text(timeline.perfetto(trace))
    console.print(f"the timeline as a picture: {picture}; for ui.perfetto.dev: {events}")


def summary(trace: Trace, found: Mapping[str, End]) -> dict[str, Any]:
    """Give the figures of a run as data; times in ticks, but for seconds."""
    lives = [(end, trace.lives[end.pid]) for end in sorted(found.values()) if end.pid in trace.lives]
    return {
        "ticks": len(trace.beats),
        "seconds": trace.seconds,
        "sampled": trace.sampled,
        "fed": trace.fed,
        "switches": trace.counters.switches,
        "processes": [
            {**end._asdict(), "nice": life.nice, "response": life.response, "waiting": life.waited, "running": life.ran}
            for end, life in lives
        ],
    }


def question(life: Life) -> str:
    """Say how long an urgent process waited for its first token."""
    wait, prefill = life.waits[0], -(-life.waits[0].prefill // PREFILL)
    seconds = (wait.responded or wait.began) - wait.began
    verdict = "within" if (life.response or 0) <= 2 + prefill else "MORE than"
    return (
        f"{life.program} ({life.pid}), nice {life.nice}: first token {life.response} ticks after it asked "
        f"({seconds:.2f} s), {verdict} two ticks and the {prefill} of its prompt of {wait.prefill} tokens"
    )


def processes(trace: Trace, found: Mapping[str, End], columns: Sequence[str] = COLUMNS) -> Table:
    """Describe all processes that were: times in ticks of the machine, but for the turnaround."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("program", "end") else "right")
    for end in sorted(found.values()):
        life = trace.lives.get(end.pid)
        if life and end.pid != INIT:
            seconds = (life.ended or trace.beats[-1].ended) - life.born
            response = "" if life.response is None else str(life.response)
            name, how = end.program.rpartition("/")[2], f"{end.reason} {end.detail}".strip()
            counts = (life.waited, life.ran, f"{seconds:.1f} s", life.fed, life.sampled)
            cells = dict(zip(COLUMNS, (end.pid, name, life.nice, one_line(how), response, *counts), strict=True))
            table.add_row(*(Text(str(cells[column])) for column in columns))
    return table


def ends(state: Path, key: str | None) -> dict[str, End]:
    """Read how everything in a state directory has ended, by lineage."""
    columns = list(TABLES["process"].columns)
    found = {}
    with opened(state, "process", key) as store:
        for values in store.dead():
            row = dict(zip(columns, values, strict=True))
            status = ExitStatus.model_validate_json(row["status"])
            found[row["lineage"]] = End(status.pid, status.program, status.reason, status.value, status.detail)
    return found


# ---- the proof


def survives(options: Namespace, first: Path, second: Path, console: Console) -> bool:
    """Run the same in another OS process, kill it in the middle, start it again; says whether the results are equal."""
    key = options.key
    expected, half = ends(first, key), glance.outcomes(first / TRUTH, key) // 2
    words = ["--state", str(second), "--model", machines.chosen(options.model), "--window", str(WINDOW)]
    words += ["--lanes", str(LANES), "--policy", "PRIORITY", "--quantum", str(QUANTUM)]
    with console.status("the same again, in a process that is going to be killed") as shown:
        with handed(key) as (option, descriptor):
            begun = subprocess.Popen([*TOKIX, "run", *option, *words, options.scenario], **QUIET, **descriptor)
        try:
            while begun.poll() is None and (done := glance.outcomes(second / TRUTH, key)) < half:
                shown.update(f"the same again, in a process that is going to be killed: {done} of {half} calls")
                time.sleep(LOOK)
        finally:
            begun.send_signal(signal.SIGKILL)
        died = begun.wait() == -signal.SIGKILL
        shown.update("killed, and started again on what it has left")
        with handed(key) as (option, descriptor):
            code = subprocess.run([*TOKIX, "run", *option, *words], check=False, **QUIET, **descriptor).returncode
    found = ends(second, key)
    same = {key: end[1:] for key, end in found.items()} == {key: end[1:] for key, end in expected.items()}
    if died and not code and same:
        console.print(
            f"killed with SIGKILL after {half} of {glance.outcomes(second / TRUTH, key)} calls and started again: "
            f"the results of all {len(found)} processes are the same",
            style="bold green",
        )
        return True
    console.print(f"killed ({died}) and started again (exit code {code}): the results DIFFER", style="bold red")
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            console.print(f"  {key}: {expected.get(key)}\n  {' ' * len(key)}  {found.get(key)}", markup=False)
    return False


@contextmanager
def handed(key: str | None) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Give the words and the descriptor from which another process has a key that is in no file and no list."""
    if key is None:
        yield [], {}
        return
    reader, writer = os.pipe()
    try:
        os.write(writer, key.encode())
        os.close(writer)
        yield ["--key-file", f"/dev/fd/{reader}"], {"pass_fds": (reader,)}
    finally:
        os.close(reader)
