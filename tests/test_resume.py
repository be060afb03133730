"""Ends that are none: after real signals and real kills the next run goes on, as if nothing had been.

Nothing here waits for time to pass: a test reads the output until the program is where it has to be.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from command import PATIENCE, Command, Start
from tokix import cli
from tokix.boot import boot
from tokix.shell.client import SOCKET
from tokix.syscalls import Spawn, Stat


def resumed(tokix: Start, typed: str = "") -> tuple[int, str, Any]:
    """Go on until all has ended; gives the exit code, the output and the exit value."""
    code, out, err = tokix("run").end(typed)
    value = err.rpartition(" exited with ")[2]
    return code, out, json.loads(value) if value.startswith("{") else None


def test_what_a_signal_cut_short_goes_on_as_if_nothing_had_been(tokix: Start) -> None:
    life, shown = tokix("run", "programs.py:step", 5).says("step 0\n").types("a\n"), ""
    for number, signum in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], start=1):
        code, out, err = life.says(f"step {number}\n").signal(signum).gone().end()
        begun = "tokix: going on with 1 unfinished process\n" if number > 1 else ""
        assert code == 128 + signum
        assert err == f"{begun}tokix: stopped by {signum.name}; `tokix run` goes on from here\n"
        shown += out
        life = tokix("run").types("b\n")
    code, out, err = life.says("step 4\n").end("c\n")
    assert (code, shown + out) == (0, "".join(f"step {n}\n" for n in range(5))), "each once"
    assert err.endswith(' exited with {"total":10}\n')


def whole_lines(out: str) -> list[str]:
    """Give the lines of a life that was cut off, of which the last may not be whole."""
    return out[: out.rfind("\n") + 1].splitlines()


def test_who_ends_in_the_first_step_of_the_next_kernel_is_told_too(
    state: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fall_asleep() -> None:
        async with boot(state) as system, system.attach("run") as client:
            pid = await client.call(Spawn(program=f"{state.parent}/programs.py:nap"))
            while (await client.call(Stat(pid=pid)))[0].on != "sleep":
                pass

    anyio.run(fall_asleep)
    now = time.time()
    monkeypatch.setattr("tokix.host.time.time", lambda: now + 3600)
    assert cli.main(["run", "--state", str(state)]) == 1
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert (out, first) == ("", "tokix: going on with 1 unfinished process")
    assert re.fullmatch(r"tokix: \S+:nap \(process 3\) crashed: ValueError: awake \(programs.py:\d+\)", second)


def test_real_kills_change_nothing(tokix: Start, tmp_path: Path, state: Path) -> None:
    fresh = Command(tmp_path / "fresh", "run", "programs.py:mixture", "40")
    code, out, err = fresh.end()
    expected, value = out.splitlines(), json.loads(err.rpartition(" exited with ")[2])
    assert (code, len(expected)) == (0, 40)

    shown: list[str] = []
    for number in (0, 14, 37):
        life = tokix("run", "programs.py:mixture", 40) if not shown else tokix("run")
        life.says(f"line {number} ").signal(signal.SIGKILL)
        assert life.gone().end()[0] == -signal.SIGKILL
        assert (state / SOCKET).exists(), "a stale socket is no obstacle"
        new = whole_lines(life.out)
        assert [line for line in new if line not in shown] == expected[
            len(shown) : len(shown) + len(set(new) - {*shown})
        ]
        shown += [line for line in new if line not in shown]
    code, out, last = resumed(tokix)
    again = [line for line in out.splitlines() if line in shown]
    shown += [line for line in out.splitlines() if line not in shown]
    assert (code, shown, last) == (0, expected, value)
    assert len(again) <= 2, "only what was not acknowledged is shown again"


def test_output_that_is_cut_off_is_shown_by_the_next_run(tokix: Start) -> None:
    life = tokix("run", "programs.py:flood").says("99\n")
    assert life.process.stdout
    life.process.stdout.close()
    assert life.process.wait(PATIENCE) == 128 + signal.SIGPIPE
    assert life.process.stderr
    assert life.process.stderr.read() == b""
    code, out, _ = resumed(tokix)
    lines = out.splitlines()
    assert (code, lines[-1]) == (0, "9999")
    first = int(lines[9])
    assert lines[-10 * (9999 - first) :] == [str(n) for n in range(first + 1, 10_000) for _ in range(10)]


def test_a_program_that_kills_the_kernel_is_parked(tokix: Start) -> None:
    lives = [tokix("run", "programs.py:poison").end(), tokix("run").end(), tokix("run").end()]
    assert [code for code, _, _ in lives] == [9, 9, 9]
    host = tokix("run", "programs.py:step", 1).says("step 0\n")
    parked = [line for line in json.loads(tokix("ps", "--json").end()[1]) if line["state"] == "DIVERGED"]
    assert [line["pid"] for line in parked] == [3]
    assert tokix("kill", "-9", 3).end() == (0, "", "")
    code, _, err = host.end("x\n")
    assert code == 0
    assert "is parked: it was running when the kernel died, 3 times at call 2; KILL it, or remove" in err


def test_a_program_that_never_ends_is_named_and_a_second_signal_always_works(tokix: Start) -> None:
    life = tokix("run", "programs.py:spin").says("\n", "stderr")
    assert re.fullmatch(
        r"tokix: process 3 \(\S+/programs.py:spin\) has had the kernel for more than 50 ms, at \S+/programs.py:\d+\n",
        life.out,
    )
    life.signal(signal.SIGINT)
    while life.process.poll() is None:  # two signals of one kind at once are one
        life.signal(signal.SIGINT)
        select.select([], [], [], 0.001)
    assert life.end()[0] == 130


def test_a_terminal_gets_a_table_and_ctrl_c(tokix: Start, state: Path) -> None:
    """On a pseudoterminal: a person types, presses Ctrl-C, and looks at what is left."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0", "TERM": "dumb"}
    said = ""

    def until(word: str) -> None:
        nonlocal said
        deadline = time.monotonic() + PATIENCE
        while word not in said:
            assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], said
            said += os.read(master, 65536).decode()

    def person(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tokix", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=state.parent,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),  # it controls the new session
        )

    process = person("run", "programs.py:step", "3")
    try:
        until("step 0")
        os.write(master, b"typed\n")
        until("step 1")
        os.write(master, b"\x03")
        assert process.wait(PATIENCE) == 130
        until("goes on from here")
        assert "Traceback" not in said
        process = person("ps")
        until("programs.py:step")
        assert process.wait(PATIENCE) == 0
        assert "STATE  NICE" in said
    finally:
        process.kill()
        os.close(master)
        os.close(slave)
