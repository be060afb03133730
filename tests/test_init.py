"""Init: it takes every orphan, and starts again what is marked so, within bounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tokix.agents import init
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import ExitStatus, Now, Sleep, Spawn


async def ends(how: str) -> None:
    """Exit, or crash."""
    await Sleep(seconds=1)
    if how == "crash":
        raise ValueError("as asked")


async def parent() -> None:
    """Leave two children behind, and die."""
    for how in ("exit", "crash"):
        await Spawn(program="ends", args=[how])


async def late() -> None:
    """Go on for longer than all others."""
    await Sleep(seconds=500)
    await Now()


PROGRAMS = {"ends": ends, "parent": parent, "late": late, "init": init.main}


def under_init(*table: init.Line) -> tuple[Simulation, MemoryStore]:
    store = MemoryStore()
    return Simulation(PROGRAMS, store, init=("init", [list(table)])).run(), store


def statuses(store: MemoryStore) -> Counter[tuple[str, str]]:
    """Count the ends by program and reason."""
    rows = [ExitStatus.model_validate_json(row[15]) for row in store.dead()]
    return Counter((status.program, status.reason) for status in rows)


def test_init_takes_every_orphan() -> None:
    simulation, store = under_init({"program": "parent"})
    assert statuses(store) == {("parent", "exit"): 1, ("ends", "exit"): 1, ("ends", "crashed"): 1}
    assert list(simulation.kernel.procs) == [1]


@pytest.mark.parametrize(
    ("restart", "how", "starts"),
    [
        ("no", "crash", 1),
        ("on-failure", "exit", 1),
        ("on-failure", "crash", init.STARTS),
        ("always", "exit", init.STARTS),
        ("always", "crash", init.STARTS),
    ],
)
def test_init_starts_again_what_is_marked_so(restart: Any, how: str, starts: int) -> None:
    simulation, store = under_init({"program": "ends", "args": [how], "restart": restart})
    assert statuses(store) == {("ends", "exit" if how == "exit" else "crashed"): starts}
    given_up = "init: ends ended 5 times in 60 s and is given up\n" if starts > 1 else ""
    assert simulation.world.output(pid=1, fd=2) == given_up


def test_init_goes_on_starting_what_ends_rarely() -> None:
    async def rarely() -> None:
        await Sleep(seconds=init.WINDOW / 2)

    store = MemoryStore()
    simulation = Simulation(
        PROGRAMS | {"rarely": rarely}, store, init=("init", [[{"program": "rarely", "restart": "always"}]])
    )
    with pytest.raises(RuntimeError, match="goes on"):
        simulation.run(steps=200)
    assert statuses(store)["rarely", "exit"] > 2 * init.STARTS


def test_init_reports_what_it_cannot_start_and_starts_the_rest() -> None:
    simulation, store = under_init({"program": "nothing"}, {"program": "ends", "args": ["exit"]})
    assert simulation.world.output(pid=1) == "init: cannot start nothing: ENOENT: no program nothing\n"
    assert statuses(store) == {("ends", "exit"): 1}


def test_the_log_of_init_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "CHILDREN", 3)
    table: list[init.Line] = [{"program": "ends", "args": ["exit"], "restart": "always"} for _ in range(3)]
    store = MemoryStore()
    simulation = Simulation(PROGRAMS, store, init=("init", [[*table, {"program": "late", "restart": "always"}]]))
    while simulation.world.now < 100:
        simulation.step()
        simulation.wait()
    kernel = simulation.kernel
    assert kernel.procs[1].epoch == 5
    assert len(kernel.procs[1].log) < 20
    assert statuses(store) == {("ends", "exit"): 15}, "it remembers over an Exec how often it has started what"
    assert sorted(p.program for p in kernel.procs.values()) == ["init", "late"]
