"""The programs that come with tokix, in the simulated edge: what they say, and that a kill changes nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import wraps
from typing import Annotated, Any

import anyio
import pytest
from pydantic import Field

from harness import always, finish, told
from tokix.agents import init, mapreduce
from tokix.agents.tools import bounded, choice, offered
from tokix.agents.words import packed, pieces
from tokix.boot import boot
from tokix.drivers import Calc
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.events import Invoke
from tokix.programs import Resolver, described, shipped
from tokix.sim import Person, Simulation, World
from tokix.storage import MemoryStore
from tokix.syscalls import (
    EINVAL,
    Call,
    DeviceInfo,
    ExitStatus,
    Kill,
    Now,
    OpInfo,
    Signal,
    Sleep,
    Spawn,
    Think,
    Wait,
    Write,
    program,
    select,
)
from tokix.syscalls.program import declaration
from tokix.syscalls.rights import common, is_capability

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


def named(name: str) -> Any:
    """Give a program that comes with tokix, under the name by which a harness finds it."""
    found = Resolver().find(name)

    @wraps(found)
    async def program(*args: Any) -> Any:
        return await found(*args)

    program.__name__ = name
    return program


def lines(world: World) -> list[str]:
    return world.output().splitlines(keepends=True)


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


class Tools(World):
    """Two devices: one adds up, one only fails."""

    devices = (
        DeviceInfo(
            name="sums",
            ops=[
                OpInfo(
                    name="add",
                    doc="Add.",
                    effect="pure",
                    parameters={
                        "type": "object",
                        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": [1, 2]}},
                        "required": ["a", "b"],
                    },
                ),
                OpInfo(name="burn", doc="Burn all.", effect="unsafe", parameters={}),
            ],
        ),
        DeviceInfo(name="broken", ops=[OpInfo(name="use", doc="Use.", effect="pure", parameters={})]),
    )

    def invoke(self, effect: Invoke) -> Any:
        if effect.device == "broken":
            raise EINVAL("use: it is broken")
        assert effect.op == "add", "nobody was allowed to use another"
        return effect.args["a"] + effect.args["b"]


def with_grammars() -> None:
    pytest.importorskip("llguidance")


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


# ---- texts and tools


def test_pieces_have_all_words_in_their_order_and_fit() -> None:
    text = "First paragraph, which is short.\n\nSecond one. It has two sentences.\n" + "word " * 100 + "x" * 150
    parts = pieces(text, 60)
    assert all(len(part) <= 60 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert parts[0] == "First paragraph, which is short."
    assert pieces("  \n ", 60) == []


def test_packing_makes_fewer() -> None:
    assert packed(["a" * 50, "b" * 50, "c", "d" * 90], 100) == ["a" * 50 + "\n" + "b" * 50, "c\n" + "d" * 90]
    texts = ["x" * 1000] * 9
    while len(texts) > 1:
        assert len(packed(texts, 10)) < len(texts)
        texts = packed(texts, 10)


def test_tools_are_the_pure_ones_unless_others_are_named() -> None:
    def names(named: str = "") -> list[str]:
        return [tool.name for tool in offered(Tools.devices, named)]

    assert names() == names("sums, broken") == ["sums.add", "broken.use"]
    assert names("sums.burn") == ["sums.burn"]
    assert names("sums.*,sums") == ["sums.add", "sums.burn"]


def test_a_schema_has_a_bound_for_all_that_could_go_on() -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "x"},
            "long": {"type": "string", "minLength": 300},
            "kind": {"enum": ["a", "b"], "title": "Kind"},
            "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 99},
            "big": {"type": "number", "minimum": 10**9},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "either": {"type": ["integer", "null"]},
            "left_out": {"type": "integer"},
            "hint": {"type": "string"},
        },
        "required": ["text", "long", "kind", "items", "big", "maybe", "either"],
        "$defs": {"Item": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Item"}}, "required": ["in"]}},
    }
    found = bounded(schema)
    assert found["properties"] | {"items": None} == {
        "text": {"type": "string", "maxLength": 200},
        "long": {"type": "string", "minLength": 300, "maxLength": 300},
        "kind": {"enum": ["a", "b"]},
        "items": None,
        "big": {"type": "number", "minimum": 10**9, "maximum": 2 * 10**9},
        "maybe": {"anyOf": [{"type": "string", "maxLength": 200}, {"type": "null"}]},
        "either": {"anyOf": [{"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000}, {"type": "null"}]},
        "hint": {"type": "string", "maxLength": 200},
    }
    assert "$" not in json.dumps(found)
    with_grammars()
    assert ToyMachine().refuse(json.dumps(found)) == ""


def test_the_machine_takes_the_form_of_every_device_that_comes_with_tokix() -> None:
    with_grammars()
    devices = [Calc().describe("calc"), *Tools.devices]
    assert ToyMachine().refuse(json.dumps(choice(offered(devices), 50))) == ""


# ---- what a program says about itself


def test_a_child_gets_what_it_wants_and_its_parent_has() -> None:
    @program(caps=["think", "call:files.*", "spawn::*", "nice"])
    async def child() -> list[str]:
        """Do nothing."""
        return []

    seen: list[tuple[str, ...]] = []

    async def parent() -> None:
        pid = await Spawn(program="child")
        await Wait(pid=pid)

    def look(held: list[str]) -> tuple[str, ...]:
        async def main() -> None:
            await Wait(pid=await Spawn(program="parent", caps=held))

        simulation = Simulation(
            {"main": main, "parent": parent, "child": child, "init": Resolver().get("init")},
            MemoryStore(),
            init=("init", [[{"program": "main"}]]),
        )
        simulation.kernel.probes.append(
            lambda event: seen.append(simulation.kernel.procs[event.pid].caps) if event.detail == "child" else None
        )
        simulation.run()
        return seen.pop()

    assert look(["*"]) == ("call:files.*", "nice", "spawn:child:*", "think")
    assert look(["spawn:*", "call:files.read", "call:calc.*"]) == ("call:files.read", "spawn:child:*")
    assert look(["spawn:child", "spawn:child:a", "think"]) == ("spawn:child:a", "think")


def test_a_parent_that_names_capabilities_gives_those() -> None:
    @program(caps=[])
    async def child() -> str:
        """Think, if it may."""
        return await told(Think(prompt="x", max_tokens=1))

    child.__name__ = "child"

    async def main() -> Any:
        without = await Wait(pid=await Spawn(program="child"))
        given = await Wait(pid=await Spawn(program="child", caps=["think"]))
        return without.value, given.value["reason"]

    without, given = always(main, child)
    assert "no capability 'think'" in without
    assert given == "length"


def test_arguments_are_bound_by_the_hints() -> None:
    @program()
    async def main(
        text: str, size: float = 2, *rest: int, option: Annotated[int, Field(ge=1)] = 6, long_name: str = ""
    ) -> Any:
        return None

    said = declaration(main)
    assert said
    assert said.usage("x") == "x TEXT [SIZE] [REST…] [--option OPTION] [--long-name LONG_NAME]"
    assert said.bind([42]) == (["42", 2.0], {"option": 6, "long_name": ""})
    assert said.bind([None, "--long-name", True]) == (["null", 2.0], {"option": 6, "long_name": "true"})
    assert said.bind(["a", 1, "2", 3, "--option=4"]) == (["a", 1.0, 2, 3], {"option": 4, "long_name": ""})
    assert said.bind(["--", "--option"]) == (["--option", 2.0], {"option": 6, "long_name": ""})
    assert said.wants("x") is None


def test_words_with_dashes_are_words_where_there_are_no_options() -> None:
    _, world = run("echo", "--a", "--", "b")
    assert world.output() == "--a -- b\n"


def test_a_declaration_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="'thnk' is no capability"):
        program(caps=["thnk"])
    with pytest.raises(TypeError, match="an option needs a name"):

        @program()
        async def main(**options: int) -> None: ...

    with pytest.raises(TypeError, match="plain is no async function"):

        @program()
        def plain() -> Any: ...


@pytest.mark.parametrize("cap", ["*", "think", "spawn:*", "spawn::*", "call:files.read", "send:3", "nice", "sched"])
def test_capabilities(cap: str) -> None:
    assert is_capability(cap)


@pytest.mark.parametrize("cap", ["", "thnk", "think:", "call:", "call: x", "call:a*b", "foo:bar", "nice "])
def test_no_capabilities(cap: str) -> None:
    assert not is_capability(cap)


def test_what_two_capabilities_have_in_common() -> None:
    assert common("*", "think") == common("think", "*") == "think"
    assert common("call:*", "call:files.*") == "call:files.*"
    assert common("call:files.*", "call:calc.*") is None


# ---- sleeping by ticks


def test_ticks_of_a_busy_machine_are_waited_for() -> None:
    async def main() -> list[float]:
        async def clock() -> float:
            await Sleep(ticks=5)
            return await Now()

        index, then = await select(clock(), Think(prompt="x", max_tokens=50))
        return [index, then]

    assert finish(main).value == [0, 5.0]


def test_ticks_of_an_idle_machine_pass_at_once() -> None:
    async def main() -> Any:
        await Sleep(ticks=1000)
        return await Now()

    assert finish(main).value == 0.0


def test_ticks_do_not_pass_while_somebody_waits_for_a_device() -> None:
    """A machine that has nothing to do for a moment, because files are read, is not idle."""

    class Desk(World):
        devices = (DeviceInfo(name="desk", ops=[OpInfo(name="read", doc="", effect="pure", parameters={})]),)

        def invoke(self, effect: Any) -> str:
            return "text"

    async def main() -> Any:
        async def reader() -> str:
            await Call(device="desk", op="read")
            await Think(prompt="x", max_tokens=20)
            return "reader"

        async def late() -> str:
            await Sleep(ticks=25)
            return "late"

        return (await select(late(), reader()))[1]

    assert finish(main, world=Desk).value == "reader"


def test_a_sleep_of_ticks_survives_a_kill() -> None:
    async def main() -> Any:
        index, _ = await select(Sleep(ticks=3), Think(prompt="x", max_tokens=60))
        await Sleep(ticks=3)
        return index

    assert always(main) == 0


def test_one_sleeps_for_seconds_or_for_ticks() -> None:
    async def main() -> Any:
        return await told(Sleep(seconds=1, ticks=1))

    assert finish(main).value == "EINVAL: sleep takes seconds or ticks, not both"


def test_who_was_killed_asleep_is_not_woken() -> None:
    async def main() -> Any:
        index, _ = await select(Sleep(ticks=30), Sleep(seconds=2), Think(prompt="x", max_tokens=20))
        await Sleep(ticks=40)
        return index

    assert finish(main).value == 1


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
