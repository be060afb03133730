"""The programs that come with tokix, in the simulated edge: what they say, and that a kill changes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import anyio
import pytest

from harness import finish
from simulated import Files, Tools, lines, named, run, with_grammars
from stage import TTY
from tokix.agents import mapreduce
from tokix.boot import boot
from tokix.drivers import Calc
from tokix.kernel.arch.toy import ToyMachine
from tokix.programs import Resolver, described, shipped
from tokix.sim import Person, Simulation, World
from tokix.storage import MemoryStore
from tokix.syscalls import EINVAL, ExitStatus, Kill, Signal, Sleep, Spawn, Wait, Write

# ---- what they do


def test_echo_says_its_words() -> None:
    status, world = run("echo", "hello", 3, {"a": [1]})
    assert (status.reason, status.value) == ("exit", None)
    assert world.output() == 'hello 3 {"a":[1]}\n'


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
    assert "ENOENT: no op files.read" in status.detail


# ---- agents, on a machine that says what it likes under a grammar


def test_chat_answers_a_question() -> None:
    status, world = run("chat", "how", "are", "you?", 42)
    assert status.reason == "exit"
    assert len(lines(world)) == 1


def test_chat_answers_every_line_and_keeps_its_context() -> None:
    status, world = run("chat", "--tokens", 5, world=World(lines=("hello\n", "\n", "hello\n")))
    assert status.reason == "exit"
    first, second = lines(world)
    assert first != second, "the second answer has the first in its context"


def test_ctrl_c_ends_an_answer_and_not_the_chat() -> None:
    async def main() -> Any:
        chat = await Spawn(program="chat", args=["--tokens", "100000"], fds={0: "pipe:in", 1: "pipe:out"})
        await Write(fd="pipe:in", text="a\n")
        await Sleep(ticks=30)
        await Kill(pid=chat, signal=Signal.INT)
        await Write(fd="pipe:in", text="b\n")
        await Sleep(ticks=30)
        await Kill(pid=chat, signal=Signal.INT)
        await Write(fd="pipe:in", text="", close=True)
        return (await Wait(pid=chat)).reason

    assert finish(main, named("chat"), machine=ToyMachine(ends=False, window=4000)).value == "exit"


def test_react_uses_tools_that_it_may_and_answers() -> None:
    with_grammars()
    status, world = run("react", "What is 1 + 2?", "--tools", "sums", world=Tools())
    *transcript, answer = lines(world)
    assert status.value == answer.rstrip("\n")
    calls, results = transcript[::2], transcript[1::2]
    assert calls
    for call, result in zip(calls, results, strict=True):
        args = json.loads(call.removeprefix("→ sums.add "))
        assert result == f"← {args['a'] + args['b']}\n"
    assert len(set(calls)) == len(calls) <= 6


def test_react_tells_the_model_what_went_wrong() -> None:
    with_grammars()
    status, world = run("react", "Use it.", "--tools=broken", "--rounds", 1, "--thought", 20, world=Tools())
    thought, call, result, answer = lines(world)
    assert thought.startswith("… ")
    assert (call, result) == ("→ broken.use {}\n", "← error: EINVAL: use: it is broken\n")
    assert status.value + "\n" == answer


def test_react_without_tools_just_answers() -> None:
    status, world = run("react", "What?")
    assert lines(world) == [f"{status.value}\n"]


@pytest.mark.parametrize("steps", [1, 4])
def test_plan_has_every_step_done_by_a_worker(steps: int) -> None:
    with_grammars()
    status, world = run("plan", "be well", "--steps", steps)
    assert status.reason == "exit", status.detail
    said, plan = lines(world), status.value["steps"]
    assert 1 <= len(plan) <= steps
    assert said[0] == f"1. {plan[0]}\n"
    assert sorted(line.split(":")[0].strip() for line in said if line.startswith("   ")) == [
        str(number + 1) for number in range(len(plan))
    ]
    assert said[-1] == status.value["summary"] + "\n"


def test_plan_goes_on_without_what_a_worker_could_not_read() -> None:
    with_grammars()
    status, world = run("plan", "be well", "missing.txt")
    assert status.reason == "exit"
    assert all("nothing: ENOENT" in line for line in lines(world) if line.startswith("   "))


def test_mapreduce_counts_every_word_of_long_texts_once() -> None:
    text = " ".join(f"word{n % 7}" for n in range(700))
    status, _ = run("mapreduce", text, "--size", 200, "--width", 3)
    assert status.value["words"] == {f"word{n}": 100 for n in range(7)}


def test_debate_has_a_winner() -> None:
    with_grammars()
    status, world = run("debate", "cats", 2)
    assert status.value["winner"] in ("for", "against")
    assert [line.split(":")[0] for line in lines(world)] == ["for", "against", "for", "against", "judge"]


def test_the_sides_of_a_debate_may_write_to_each_other_and_to_nobody_else() -> None:
    with_grammars()
    caps: dict[str, set[str]] = {}
    world = World()
    world.person = Person([Spawn(program="debate", args=["cats", 1], fds=TTY), Wait(pid=-1)])
    simulation = Simulation(Resolver(), MemoryStore(), world)
    for _ in range(300):
        simulation.step()
        simulation.wait()
        for process in simulation.kernel.procs.values():
            if process.program == "debate:debater":
                caps.setdefault(process.lineage, set()).update(process.caps)
    assert sorted(map(sorted, caps.values())) == [["send:4", "think"], ["send:5", "think"]]


def test_watch_puts_a_label_before_every_line() -> None:
    with_grammars()
    status, world = run("watch", "good,bad", world=World(lines=("one\ntwo", " three\n", "\n", "four")))
    labelled = [line.rstrip("\n").split("\t") for line in lines(world)]
    assert [line for _, line in labelled] == ["one", "two three", "four"]
    assert Counter(label for label, _ in labelled) == Counter({k: n for k, n in status.value.items() if n})
    assert list(status.value) == ["good", "bad"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["react"], "react: QUESTION is missing; usage: react QUESTION [--tools TOOLS]"),
        (["react", "a", "b"], 'react: there are arguments too many: ["b"]'),
        (["react", "a", "--toolz", "b"], "react: there is no option --toolz"),
        (["react", "a", "--tools"], "react: the option --tools needs a value"),
        (["react", "a", "--rounds", 0], "react: rounds should be greater than or equal to 1, not 0"),
        (["react", "a", "--tools", "nothing"], "EINVAL: no tool nothing; there is sums.add, sums.burn, broken.use"),
        (
            ["chat", "--tokens", "many"],
            'chat: tokens should be a valid integer, unable to parse string as an integer, not "many"',
        ),
        (["plan"], "plan: GOAL is missing"),
        (["plan", "a", "--steps", 21], "plan: steps should be less than or equal to 20"),
        (["mapreduce", "--size", 1], "mapreduce: size should be greater than or equal to 100"),
        (["debate"], "debate: TOPIC is missing; usage: debate TOPIC [ROUNDS]"),
        (["debate", "a", "b"], "debate: rounds should be a valid integer"),
        (["watch"], "EINVAL: watch needs two labels or more"),
        (["watch", "one,one"], "EINVAL: watch needs two labels or more"),
        (["pingpong", "x"], "pingpong: rounds should be a valid integer"),
        (["philosophers", 1], "philosophers: seats should be greater than or equal to 2, not 1"),
        (["scenario"], "scenario: SCENARIO is missing"),
        (["scenario", {"processes": {}}], "scenario: scenario.processes "),
    ],
)
def test_wrong_arguments_are_one_clear_line(words: list[Any], complaint: str) -> None:
    async def main() -> str:
        pid = await Spawn(program=words[0], args=words[1:])
        return (await Wait(pid=pid)).detail

    async def safely() -> str:
        try:
            return await main()
        except EINVAL as error:
            return error.detail

    said = finish(safely, named(words[0]), world=Tools).value
    assert complaint in said
    assert "\n" not in said


def test_every_program_says_what_it_does() -> None:
    for name in shipped():
        line = described(name)
        assert line.startswith(name) or name == "init"
        assert "\n" not in line
    assert described("debate") == "debate TOPIC [ROUNDS]: Let two processes argue about a topic, and judge."


def test_an_agent_answers_in_the_real_edge() -> None:
    with_grammars()

    async def main() -> ExitStatus:
        async with boot(drivers={"calc": Calc()}) as system, system.attach("test") as client:
            with anyio.fail_after(60):
                call = Spawn(program="react", args=["2 + 2?", "--rounds", 2], fds=dict.fromkeys(range(3), "null"))
                pid = await client.call(call)
                return await client.call(Wait(pid=pid))

    status = anyio.run(main)
    assert status.reason == "exit", status.detail


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
    store, world, deaths = Mortal(), Tools(lines=("one\n", "two\n")), 0
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
@pytest.mark.parametrize(
    ("program", "args"),
    [
        *(("pingpong", [4]), ("philosophers", [3, 2]), ("mapreduce", []), ("chat", ["hello", "--tokens", 9])),
        *(("react", ["why?", "--rounds", 2]), ("plan", ["be well"]), ("debate", ["cats", 1]), ("watch", ["a", "b"])),
    ],
)
def test_a_program_ends_the_same_however_often_the_kernel_dies(program: str, args: list[Any], every: int) -> None:
    with_grammars()
    value, shown, _ = survive(program, args, 1_000_000)
    again, shown_again, deaths = survive(program, args, every)
    assert deaths
    assert (again, shown_again) == (value, shown)
