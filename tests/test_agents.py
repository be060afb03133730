"""The programs that come with tokix, in the simulated edge: what they say, and that a kill changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from tokix.agents import init, mapreduce
from tokix.kernel.events import Invoke
from tokix.programs import Resolver
from tokix.sim import Person, Simulation, World
from tokix.storage import MemoryStore
from tokix.syscalls import (
    DeviceInfo,
    ExitStatus,
    Now,
    OpInfo,
    Sleep,
    Spawn,
    Wait,
)

TTY = {0: "tty", 1: "tty", 2: "tty"}


class Files(World):
    """A device with two texts, which it gives in pieces of ten characters."""

    devices = (DeviceInfo(name="files", ops=[OpInfo(name="read", doc="Read.", effect="pure", parameters={})]),)
    texts = {"a.txt": "one two two", "b.txt": "Three, three; THREE!"}

    def invoke(self, effect: Invoke) -> Any:
        at = effect.args["offset"]
        return self.texts[effect.args["path"]][at : at + 10]


def run(program: str, *args: Any, world: World | None = None) -> tuple[ExitStatus, World]:
    """Run a program to its end, as a person would; gives its status and the world."""
    world = world or World()
    world.person = Person([Spawn(program=program, args=list(args), fds=TTY), Wait(pid=-1)])
    Simulation(Resolver(), MemoryStore(), world).run()
    _, status = world.person.outcomes
    assert isinstance(status, ExitStatus)
    return status, world


def lines(world: World) -> list[str]:
    return world.output().splitlines(keepends=True)


# ---- what they do


def test_echo_says_its_words() -> None:
    status, world = run("echo", "hello", 3, {"a": [1]})
    assert (status.reason, status.value) == ("exit", None)
    assert world.output() == "hello 3 {'a': [1]}\n"


def test_echo_without_words_copies_its_input() -> None:
    _, world = run("echo", world=World(lines=("first\n", "second\n")))
    assert world.output() == "first\nsecond\n"


@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_pingpong(rounds: int) -> None:
    status, world = run("pingpong", rounds)
    assert status.value == {"rounds": rounds}
    assert lines(world) == [f"ping {n}, pong {n}\n" for n in range(1, rounds + 1)]


@pytest.mark.parametrize(("seats", "meals"), [(2, 1), (2, 4), (3, 3), (5, 3), (8, 2)])
def test_all_philosophers_have_all_their_meals(seats: int, meals: int) -> None:
    status, world = run("philosophers", seats, meals)
    assert status.value == {"meals": seats * meals}
    eaten = [re.match(r"philosopher (\d+) has meal (\d+) and thinks of '.{0,8}'\n$", line) for line in lines(world)]
    assert Counter(match.groups() for match in eaten if match) == Counter(
        (str(seat), str(meal)) for seat in range(seats) for meal in range(1, meals + 1)
    )


def test_no_two_neighbours_eat_at_the_same_time() -> None:
    world = World()
    world.person = Person([Spawn(program="philosophers", args=[5, 4], fds=TTY), Wait(pid=-1)])
    simulation = Simulation(Resolver(), MemoryStore(), world)
    eating: set[int] = set()
    meals = 0

    def look(event: Any) -> None:
        nonlocal meals
        if event.kind != "reply":
            return
        if found := re.search(r'^recv.*"tag":"forks"', event.detail):
            assert found
            seat = event.pid - 4
            assert not eating & {(seat - 1) % 5, (seat + 1) % 5}
            eating.add(seat)
            meals += 1
        elif re.search(r'"tag":"sated"', event.detail) and event.detail.startswith("send"):
            eating.discard(event.pid - 4)

    simulation.kernel.probes.append(look)
    simulation.run()
    assert (len(eating), meals) == (0, 20)


def test_mapreduce_counts_the_words() -> None:
    status, world = run("mapreduce")
    words = Counter(" ".join(mapreduce.SAMPLE).split())
    assert status.value["words"] == words
    assert list(status.value["words"].values()) == sorted(words.values(), reverse=True)
    assert lines(world)[0] == "    5 the\n"
    assert lines(world)[-1] == status.value["summary"] + "\n"


def test_mapreduce_reads_files_piece_by_piece() -> None:
    status, _ = run("mapreduce", "file:a.txt", "file:b.txt", world=Files())
    assert status.value["words"] == {"three": 3, "two": 2, "one": 1}


def test_mapreduce_fails_with_a_worker() -> None:
    status, _ = run("mapreduce", "file:a.txt")  # there is no such device
    assert status.reason == "crashed"
    assert "a worker has crashed: ENOENT" in status.detail


# ---- killed at every commit


class Killed(Exception):
    pass


class Mortal(MemoryStore):
    """A store that kills its kernel at a commit."""

    left = 0

    def commit(self, rows: Any) -> None:
        self.left -= 1
        if not self.left:
            raise Killed
        super().commit(rows)


def survive(program: str, args: list[Any], every: int) -> tuple[Any, Counter[str], int]:
    """Run a program under kernels that die at every n-th commit; gives its value, its lines, and the deaths."""
    store, world, deaths = Mortal(), World(), 0
    world.person = Person([Spawn(program=program, args=args, fds=TTY), Wait(pid=-1)])
    while True:
        store.left = every
        try:
            Simulation(Resolver(), store, world, budget=1).run()  # every delivery is a step of its own
            return world.person.outcomes[-1].value, Counter(lines(world)), deaths
        except Killed:
            deaths += 1
            world.now += 1


@pytest.mark.parametrize("every", [3, 5, 7])
@pytest.mark.parametrize(("program", "args"), [("pingpong", [4]), ("philosophers", [3, 2]), ("mapreduce", [])])
def test_a_program_ends_the_same_however_often_the_kernel_dies(program: str, args: list[Any], every: int) -> None:
    value, shown, _ = survive(program, args, 1_000_000)
    again, shown_again, deaths = survive(program, args, every)
    assert deaths
    assert (again, shown_again) == (value, shown)


# ---- init


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
