"""Programs: how they are found, and why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stage import Screen, play, resume
from tokix.boot import boot
from tokix.programs import ProgramError, Resolver, absolute, shipped
from tokix.storage import MemoryStore
from tokix.syscalls import Recv, Send, Spawn


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_programs_that_come_with_tokix() -> None:
    assert {"chat", "echo", "init", "mapreduce", "philosophers", "pingpong"} <= set(shipped())
    assert all(Resolver().get(name) for name in shipped())
    assert Resolver().get("pingpong:pong") is Resolver().get("tokix.agents.pingpong:pong")


def test_a_file_is_a_program_and_can_import_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_a_program.py", "async def second(): return 2")
    path = write(
        tmp_path / "main.py",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour_of_a_program import second\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "async def main(): return Point(1).x\n",
    )
    resolver = Resolver()
    assert resolver.find(str(path)) is resolver.find(f"{path}:main")
    assert resolver.find(f"{path}:second").__name__ == "second"


def test_a_name_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("agent.py:go") == f"{tmp_path}/agent.py:go"
    assert absolute("./agent.py") == f"{tmp_path}/agent.py"
    assert [absolute(name) for name in ("echo", "a.b:c", "/x/y.py")] == ["echo", "a.b:c", "/x/y.py"]


def test_an_entry_point_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "plugin_with_a_crawler.py", "async def crawl(): ...")
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    write(info / "METADATA", "Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    write(info / "entry_points.txt", "[tokix.programs]\ncrawler = plugin_with_a_crawler:crawl\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert Resolver().find("crawler").__name__ == "crawl"


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("{}/missing.py", "", "no program {}/missing.py: there is no such Python file"),
        ("missing.py", "", "no program missing.py: the name of a file has to be absolute"),
        ("{}/p.py:other", "async def main(): ...", "no program {}/p.py:other: {}/p.py has no function other"),
        ("{}/p.py", "def main(): ...", "no program {}/p.py: main is not an async function"),
        ("{}/p.py", "main = 3", "no program {}/p.py: 3 is not an async function"),
        ("{}/p.py", "import nothing_of_that_name", "cannot import {}/p.py: ModuleNotFoundError: No module named 'noth"),
        ("{}/p.py", "def main(:", "cannot import {}/p.py: SyntaxError: "),
        ("{}/p.py", "raise SystemExit(3)", "cannot import {}/p.py: SystemExit: 3"),
        ("{}/p.py", "raise ValueError('a\\nb')", "cannot import {}/p.py: ValueError: a"),
        (
            "nothing_of_that_name",
            "",
            "no program nothing_of_that_name: there is no such module; tokix brings chat, debate",
        ),
        ("tokix.nothing:main", "", "no program tokix.nothing: there is no such module"),
        ("json", "", "no program json: "),
        ("a b", "", "no program 'a b': that is neither a file nor a module"),
        ("", "", "no program '': that is neither a file nor a module"),
        (":", "", "no program ':': that is neither a file nor a module"),
    ],
)
def test_why_there_is_no_program(name: str, source: str, complaint: str, tmp_path: Path) -> None:
    write(tmp_path / "p.py", source)
    told: list[str] = []
    resolver = Resolver(report=told.append)
    full = name.replace("{}", str(tmp_path))
    with pytest.raises(ProgramError) as error:
        resolver.find(full)
    assert str(error.value).startswith(complaint.replace("{}", str(tmp_path)))
    assert "\n" not in str(error.value)
    assert [resolver.get(full), resolver.get(full), told] == [None, None, [str(error.value)]]


def test_a_program_that_is_missing_at_a_boot_is_parked_and_goes_on_later(screen: Screen) -> None:
    store = MemoryStore()

    async def patient() -> str:
        await Recv()
        return "well"

    def known() -> Any:
        return boot(store=store, terminal=screen, programs={"patient": patient})

    async def begin() -> None:
        async with known() as system, system.attach("test") as client:
            await client.call(Spawn(program="patient"))

    async def without() -> None:
        async with boot(store=store, terminal=screen) as system:
            assert [p.parked for p in system.unfinished()] == ["no program patient"]

    async def repaired() -> None:
        async with known() as system, system.attach("test") as client:
            await client.call(Send(to=3))
            await resume(system)

    for life in (begin, without, repaired):
        play(life)
    assert "tokix: process 3 (patient) is parked: no program patient\n" in screen.told
    assert '"well"' in store.dead()[0][15]
