"""What a program says about itself: what it wants to be allowed, and which arguments it takes."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from harness import always, told
from simulated import run
from tokix.programs import Resolver
from tokix.sim import Simulation
from tokix.storage import MemoryStore
from tokix.syscalls import Spawn, Think, Wait, program
from tokix.syscalls.program import declaration
from tokix.syscalls.rights import common, is_capability


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
