"""Who has the kernel: the watchdog, and the note that survives a death."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from stage import PATIENCE, Screen, launch, play
from tokix.boot import boot
from tokix.syscalls import Sleep
from tokix.watchdog import DEATHS, Running, Watchdog, suspects


def test_the_watchdog_names_the_program_and_the_line(screen: Screen) -> None:
    async def hog() -> None:
        await Sleep(seconds=0)
        end, told = time.monotonic() + PATIENCE, screen.fds[2]
        while not os.fstat(told).st_size and time.monotonic() < end:
            pass  # this is the line, or the one above

    async def main() -> None:
        async with boot(terminal=screen, programs={"hog": hog}) as system:
            await launch(system, "hog")

    play(main)
    line = hog.__code__.co_firstlineno + 3
    assert screen.told in [
        f"tokix: process 3 (hog) has had the kernel for more than 50 ms, at {__file__}:{n}\n" for n in (line, line + 1)
    ]


def test_the_watchdog_is_quiet_about_the_kernel_and_about_short_turns(tmp_path: Path) -> None:
    barked: list[int] = []
    running = Running(tmp_path / "running")
    watchdog = Watchdog(running, lambda pid, line: barked.append(pid))
    end = time.monotonic() + 0.15
    while time.monotonic() < end:
        running(7)
        running(0)
    while time.monotonic() < end + 0.1:
        pass  # the kernel works
    running(8)
    while 8 not in barked and time.monotonic() < end + PATIENCE:
        pass
    watchdog.end()
    assert barked == [8]


def test_who_was_running_survives_the_kernel(tmp_path: Path) -> None:
    first = Running(tmp_path / "running")
    first(5)
    assert Running(tmp_path / "running").left == 5
    first(0)
    assert Running(tmp_path / "running").left == 0


def test_three_deaths_at_the_same_point_make_a_suspect(tmp_path: Path) -> None:
    deaths = tmp_path / "deaths.json"

    def die(pid: int, entries: int) -> dict[int, str]:
        """Boot after a death; gives the suspects."""
        Running(tmp_path / "running")(pid)
        rows: dict[str, list[tuple[Any, ...]]] = {
            "process": [(4,), (5,)],
            "journal": [(5, 0, seq) for seq in range(entries)],
        }
        return suspects(Running(tmp_path / "running"), deaths, rows)

    assert [die(5, 2), die(5, 2), die(5, 3), die(5, 3), die(0, 3)] == [{}] * 5, "progress, or a death without blame"
    assert list(die(5, 3)) == [5]
    assert die(0, 3)[5].startswith("it was running when the kernel died, 3 times at call 4; KILL it, or remove")
    assert die(4, 4) == {}, "progress is forgiven"
    assert die(9, 4) == {}, "of a process that is no more"
    assert DEATHS == 3
