"""The programs that come with tokix, run in the simulated edge as a person would; with files and tools."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest

from stage import TTY
from tokix.kernel.events import Invoke
from tokix.programs import Resolver
from tokix.sim import Person, Simulation, World
from tokix.storage import MemoryStore
from tokix.syscalls import EINVAL, DeviceInfo, ExitStatus, OpInfo, Spawn, Wait


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
