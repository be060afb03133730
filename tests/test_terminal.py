"""The terminal and the clock."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
import pytest

from stage import Screen, play, until
from tokix.host import WallClock
from tokix.kernel.events import Input, Prompt, Show, Shown
from tokix.terminal import Source, put


def test_the_terminal_acknowledges_after_it_has_written(tmp_path: Path) -> None:
    screen = Screen(tmp_path)
    seen: list[tuple[Shown, str, str]] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(screen.write, lambda shown: seen.append((shown, screen.shown, screen.told)))
            for offset, (fd, text) in enumerate([(1, "a"), (1, "b"), (2, "c"), (1, "d")]):
                screen.show(Show("tty:out", offset, 3, fd, text))
            await screen.drained()
            group.cancel_scope.cancel()

    play(main)
    assert seen == [(Shown("tty:out", 3), "abd", "c")]


def test_much_output_goes_through_a_slow_pipe() -> None:
    reader, writer = os.pipe()
    text = "".join(f"{n}\n" for n in range(100_000))
    got: list[str] = []

    async def read() -> None:
        source = Source(reader)
        while piece := await source.read():
            got.append(piece)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await put(writer, text)
            os.close(writer)

    play(main)
    os.close(reader)
    assert "".join(got) == text


def test_input_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    screen = Screen(tmp_path, typed="héllo")
    given: list[Input] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(screen.read, given.append)
            await anyio.wait_all_tasks_blocked()
            assert not given
            for _ in range(2):
                screen.prompt(Prompt("tty:in"))
            await until(lambda: len(given) == 2)
            group.cancel_scope.cancel()

    play(main)
    assert given == [Input("tty:in", "héllo"), Input("tty:in", None)]


def test_characters_that_come_in_pieces_are_put_together() -> None:
    reader, writer = os.pipe()

    os.write(writer, "é".encode()[:1])

    async def in_pieces() -> list[str]:
        source = Source(reader)
        async with anyio.create_task_group() as group:
            got: list[str] = []

            async def read() -> None:
                got.append(await source.read())

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            os.write(writer, "é".encode()[1:] + b"\xff\xe2\x82")
        os.close(writer)
        return [*got, await source.read(), await source.read()]

    assert play(in_pieces) == ["é\ufffd", "\ufffd", ""]
    os.close(reader)


def test_a_closed_input_is_at_its_end() -> None:
    async def main() -> str:
        return await Source(-1).read() + await Source(1_000_000).read()

    assert play(main) == ""


def test_the_clock_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, wall = WallClock(), iter([101.0, 102.0, 50.0, 51.0, 300.0])
    monkeypatch.setattr(time, "time", lambda: next(wall))
    clock.follow(150.0)
    assert [clock.now() for _ in range(5)] == [150.0, 151.0, 151.0, 152.0, 401.0]
