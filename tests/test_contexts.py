"""Context files in a system that runs: the edge, the command line, the shell, and the program `warm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from stage import TTY, Screen, launch, play
from tokix import cli
from tokix.boot import boot
from tokix.kernel.arch.toy import ToyMachine
from tokix.programs import settled
from tokix.shell.usage import VERBS, Failure, verb_parser
from tokix.syscalls import EIO, Append, Kill, Recv, Restore, Save, Saved, Signal, Spawn, Think, Wait, Write

STORY = "Once upon a time there was a kernel that lost nothing. " * 4


async def teller() -> None:
    await Append(role="system", text=STORY)
    await Think(prompt="go on", max_tokens=40)
    while True:
        await Recv()
        await Write(text=(await Think(prompt="and then?", max_tokens=30)).text + "\n")


async def listener(path: str) -> list[int]:
    restored = await Restore(path=path)
    await Write(text=(await Think(prompt="and then?", max_tokens=30)).text + "\n")
    return [restored.tokens, restored.computed]


PROGRAMS: dict[str, Any] = {"teller": teller, "listener": listener}


async def saved(system: Any, path: Path) -> Saved:
    """Start a teller, and save its context when it has its answer."""
    async with system.attach("test") as client:
        pid = await client.call(Spawn(program="teller", fds=TTY))
        while (process := system.kernel.procs[pid]) and len(process.log) < 2:
            await anyio.sleep(0.001)
        told: Saved = await client.call(Save(path=str(path), pid=pid))
        await client.call(Kill(pid=pid, signal=Signal.KILL))
        await client.call(Wait(pid=pid))
        return told


def test_from_one_kernel_into_another(tmp_path: Path, screen: Screen) -> None:
    path = tmp_path / "a.context"

    async def first() -> Saved:
        async with boot(programs=PROGRAMS, terminal=screen, machine=ToyMachine(ends=False)) as system:
            return await saved(system, path)

    async def second() -> Any:
        machine = ToyMachine(ends=False)
        async with boot(programs=PROGRAMS, terminal=screen, machine=machine) as system:
            status = await launch(system, "listener", str(path))
            system.kernel.check()
            return status.value, system.kernel.scheduler.mmu.counters.fed

    told = play(first)
    (tokens, computed), fed = play(second)
    assert (tokens, computed) == (told.tokens, told.computed)
    assert path.stat().st_size == told.bytes
    assert path.stat().st_mode & 0o777 == 0o600, "what was said is nobody else's"
    assert fed == tokens - computed + len("and then?") + 2 + 1 + 29


def test_a_kernel_that_stops_while_it_saves_leaves_nothing_half_done(tmp_path: Path, screen: Screen) -> None:
    reading: list[int] = []

    class Slow(ToyMachine):
        def read(self, places: Any, tokens: int) -> bytes:
            reading.append(tokens)
            return super().read(places, tokens)

    async def main() -> None:
        machine = Slow(ends=False)
        async with (
            boot(programs=PROGRAMS, terminal=screen, machine=machine) as system,
            anyio.create_task_group() as group,
        ):
            group.start_soon(saved, system, tmp_path / "a.context")
            while not reading:
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()

    play(main)
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("typed", "shown", "told")] in (
        [],
        ["a.context"],
    )


def test_warm_begins_with_a_context_and_becomes_a_program(tmp_path: Path, screen: Screen) -> None:
    path = tmp_path / "a.context"

    async def main() -> Any:
        async with boot(programs=PROGRAMS, terminal=screen, machine=ToyMachine(ends=False)) as system:
            told = await saved(system, path)
            status = await launch(system, "warm", str(path), "chat", "hello")
            lost = await launch(system, "warm", str(tmp_path / "none"), "chat", "hello")
            return told, status, lost, system.kernel.scheduler.mmu.counters

    told, status, lost, _ = play(main)
    assert (status.program, status.reason) == ("chat", "exit")
    assert lost.reason == "crashed"
    assert lost.detail.startswith(f"ENOENT: {tmp_path}/none: No such file or directory")
    assert told.computed > 100


def test_names_are_absolute_where_they_are_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("async def main(): pass\n")
    program = str(tmp_path / "own.py")
    assert settled("warm", ["a/../b", "./own.py", "x.py", 3]) == [str(tmp_path / "b"), program, "x.py", 3]
    assert settled("warm", ["/a", "chat"]) == ["/a", "chat"]
    assert settled("echo", ["a", "./own.py"]) == ["a", "./own.py"]
    assert settled("warm", [3]) == [3]
    assert settled("warm", ["a", "chat"], Path("/srv")) == ["/srv/a", "chat"]
    assert verb_parser("save", VERBS["save"]).parse_args(["3", "x"]).file == str(tmp_path / "x")
    with pytest.raises(Failure, match="a file needs a name"):
        verb_parser("save", VERBS["save"]).parse_args(["3", ""])


def test_warm_says_what_it_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["run", "--state", str(tmp_path / "state"), "warm", "x"]) == 2
    assert capsys.readouterr().err == "tokix: warm: PROGRAM is missing; usage: warm FILE PROGRAM [ARGS…]\n"


def test_what_a_program_is_told_of_a_full_disk(tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        async with boot(programs=PROGRAMS, terminal=screen) as system:
            monkeypatch.setattr("tokix.contexts.os.fsync", full)
            with pytest.raises(EIO, match="No space left on device"):
                await saved(system, tmp_path / "a.context")
            monkeypatch.undo()

    play(main)
