"""The command, as a person uses it: real processes, real signals, real kills.

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tokix import cli, doctor
from tokix.boot import boot
from tokix.shell.client import SOCKET
from tokix.shell.status import sentence
from tokix.shell.table import of_processes
from tokix.shell.usage import VERBS
from tokix.syscalls import ExitStatus, ProcessInfo, Spawn, Stat

#: Seconds after which a test that waits for something that does not come fails.
PATIENCE = 30

PROGRAMS = '''
import os
from tokix.syscalls import *

async def step(n):
    """Say a number and wait for a line, n times."""
    total = 0
    for i in range(n):
        await Write(text=f"step {i}\\n")
        total += len(await Read())
    return {"total": total}

async def mixture(n):
    """Everything that a kill could spoil, without a pause."""
    child = await Spawn(program=f"{__file__}:double", args=[n])
    seen = []
    for i in range(n):
        thought = await Think(prompt=f"number {i}", max_tokens=5, temperature=1.0)
        await Send(to=child, body=i)
        message = await Recv(sender=child)
        if i % 4 == 0:
            await Sleep(seconds=0.002)
        value = await Call(device="calc", op="eval", args={"expression": f"{message.body} + 1"})
        seen.append([thought.text, value, round(await Random(), 6)])
        await Write(text=f"line {i} {seen[-1]}\\n")
    await Write(text="an error\\n", fd=2)
    return {"last": seen[-1], "child": (await Wait(pid=child)).value}

async def double(n):
    for _ in range(n):
        message = await Recv()
        await Send(to=message.sender, body=2 * message.body)
    return n

async def crash():
    await Write(text="before\\n")
    raise ValueError("bad\\nluck")

async def value(what):
    return what

async def nap():
    await Sleep(seconds=60)
    raise ValueError("awake")

async def spin():
    await Sleep(seconds=0)
    while True:
        pass

async def poison():
    await Write(text="before\\n")
    await Sleep(seconds=0)
    os._exit(9)

async def listener():
    await Append(role="system", text="You listen.", pinned=True)
    await Write(text="listening\\n")
    while True:
        await Recv()

async def flood():
    for i in range(10_000):
        await Write(text=f"{i}\\n" * 10)
'''


class Command:
    """A `tokix` that runs, with its three streams."""

    def __init__(
        self,
        state: Path,
        *words: str,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
        **environment: str,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tokix", *words],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=state.parent,
            env={**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0", **environment},
            preexec_fn=preexec_fn,
        )
        self.out = ""

    def read(self, stream: Any, end: Callable[[str], bool]) -> str:
        """Read until the text is enough; fails when that takes too long."""
        text, deadline = b"", time.monotonic() + PATIENCE
        while not end(text.decode(errors="replace")):
            assert select.select([stream], [], [], max(0, deadline - time.monotonic()))[0], f"it only said {text!r}"
            piece = os.read(stream.fileno(), 65536)
            assert piece, f"it ended after {text!r}"
            text += piece
        return text.decode()

    def says(self, word: str, stream: str = "stdout") -> Command:
        """Wait until a word is in the output."""
        self.out += self.read(getattr(self.process, stream), lambda text: word in self.out + text)
        return self

    def types(self, text: str) -> Command:
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()
        return self

    def signal(self, signum: int) -> Command:
        self.process.send_signal(signum)
        return self

    def gone(self) -> Command:
        """Wait for the end, without ending its input."""
        self.process.wait(PATIENCE)
        return self

    def end(self, typed: str = "") -> tuple[int, str, str]:
        """End the input and wait for the end; gives the exit code and all that was said."""
        out, err = self.process.communicate(typed.encode(), timeout=PATIENCE)
        self.out += (out or b"").decode()
        return self.process.returncode, self.out, err.decode()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "programs.py").write_text(PROGRAMS)
    return tmp_path / "state"


@pytest.fixture
def tokix(state: Path) -> Iterator[Callable[..., Command]]:
    """Start commands on one state directory; none of them outlives the test."""
    started: list[Command] = []

    def start(*words: Any, **more: Any) -> Command:
        started.append(Command(state, *map(str, words), **more))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.communicate()


Start = Callable[..., Command]


# ---- run


@pytest.mark.parametrize(
    ("words", "shown", "told"),
    [
        (["echo", "hello", "3"], "hello 3\n", ""),
        (["pingpong", "2"], "ping 1, pong 1\nping 2, pong 2\n", 'exited with {"rounds":2}\n'),
        (["philosophers", "2", "1"], "philosopher 0 has meal 1 and thinks of ", 'exited with {"meals":2}\n'),
        (["mapreduce", "a b a"], "    2 a\n    1 b\n", '"words":{"a":2,"b":1}'),
    ],
)
def test_each_program_runs_twice_in_a_row(
    words: list[str], shown: str, told: str, tokix: Start, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = tokix("run", *words).end()
    assert (code, out.startswith(shown), told in err, len(err.splitlines())) == (0, True, True, told != "")
    assert cli.main(["run", "--state", str(state), *words]) == 0
    assert capfd.readouterr().out == out


def test_arguments_are_json_where_they_look_like_it(tokix: Start) -> None:
    words = ["1", "1.5", "[1]", '{"a": null}', "true", "null", '"quoted"', "a b", "--state", "-x", ""]
    code, out, err = tokix("run", "--lanes", 2, "programs.py:value", json.dumps(words)).end()
    assert (code, out) == (0, "")
    assert json.loads(err.partition(" exited with ")[2]) == words
    assert cli.argument("NaN") == "NaN", "which is no JSON"
    assert cli.argument("1e999") == "1e999", "which no float can hold"
    assert [cli.argument(word) for word in words] == [
        *(1, 1.5, [1], {"a": None}, True, None),
        *('"quoted"', "a b", "--state", "-x", ""),
    ]


def test_input_comes_from_where_it_comes_from(tokix: Start, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("from a file\n")
    assert tokix("run", "echo").end("from a pipe\n") == (0, "from a pipe\n", "")
    with (tmp_path / "text").open() as file:
        assert tokix("run", "echo", stdin=file).end() == (0, "from a file\n", "")
    assert tokix("run", "echo", stdin=subprocess.DEVNULL).end() == (0, "", "")


def test_closed_descriptors_are_not_taken_for_something_else(tokix: Start, state: Path) -> None:
    """The store must not be opened where the output goes."""

    def closed(*fds: int) -> Callable[[], None]:
        def close() -> None:
            for fd in fds:
                os.close(fd)

        return close

    code, _, err = tokix("run", "echo", "hi", preexec_fn=closed(0, 1)).end()
    assert (code, err) == (
        70,
        "tokix: no output any more (Bad file descriptor); the next kernel shows what is missing\n",
    )
    assert tokix("ps", preexec_fn=closed(1)).end()[0] == 0
    code, out, err = tokix("run", "echo", preexec_fn=closed(0, 2)).end()
    assert (code, out, err) == (0, "hi\n", ""), "what nobody had seen; and an input that is at its end"


@pytest.mark.parametrize(("word", "code"), [("7", 7), ("0", 0), ("null", 0), ("256", 0), ('{"a":1}', 0)])
def test_the_exit_code_is_that_of_the_program(
    word: str, code: int, state: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "--state", str(state), f"{state.parent}/programs.py:value", word]) == code
    told = "" if word == "null" else f"tokix: {state.parent}/programs.py:value (process 3) exited with {word}\n"
    assert capfd.readouterr() == ("", told)


def test_a_crashed_program(tokix: Start) -> None:
    code, out, err = tokix("run", "programs.py:crash").end()
    assert (code, out) == (1, "before\n")
    assert re.fullmatch(r"tokix: \S+/programs.py:crash \(process 3\) crashed: ValueError: bad luck \(\S+:\d+\)\n", err)


def test_a_long_value_is_shown_in_part(state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--state", str(state), f"{state.parent}/programs.py:value", "\x1b[31m" * 1000]
    assert cli.main(words) == 0
    err = capfd.readouterr().err
    assert len(err) < 1200
    assert err.endswith("… (10002 characters)\n")


def test_a_process_table_shows_the_beginning_of_long_arguments() -> None:
    process = ProcessInfo(pid=3, ppid=1, program="p", args=["x" * 10**6], state="BLOCKED", nice=0, tokens=0, on="read")
    [row] = of_processes([process]).rows
    assert row[-3:] == ["p", '"' + "x" * 199 + "…", "read"]
    assert len(of_processes([process]).data[0].args[0]) == 10**6


def test_nothing_that_steers_a_terminal_is_shown() -> None:
    status = ExitStatus(
        pid=3, program="p", reason="crashed", detail="ValueError: \x1b]0;title\x07\x9b1m a\nb é 👩\u200d🚀"
    )
    said = "p (process 3) crashed: ValueError: \\x1b]0;title\\x07\\x9b1m a b é 👩\u200d🚀"
    assert sentence(status) == said


def test_a_kernel_that_keeps_nothing(tokix: Start, state: Path) -> None:
    assert tokix("run", "--durable", "none", "echo", "hi").end() == (0, "hi\n", "")
    assert not (state / "tokix.db").exists()
    assert tokix("run").end() == (0, "", f"tokix: nothing to do: nothing is unfinished in {state}\n")


def test_files_are_there_for_who_is_given_a_root(tokix: Start, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a b a")
    code, out, _ = tokix("run", "--root", "texts", "mapreduce", "file:a.txt").end()
    assert (code, out.splitlines()[:2]) == (0, ["    2 a", "    1 b"])


# ---- looking on, and interfering


def test_ps_and_kill_from_another_terminal(tokix: Start, state: Path) -> None:
    host = tokix("run", "programs.py:step", 3).says("step 0\n")
    code, out, err = tokix("ps", "--json").end()
    table = [ProcessInfo.model_validate(line) for line in json.loads(out)]
    program = f"{state.parent}/programs.py:step"
    assert (code, err) == (0, "")
    assert [(p.pid, p.ppid, p.program, p.args, p.state, p.on) for p in table] == [
        (1, 0, "init", [], "BLOCKED", "wait"),
        (2, 0, "run", [], "BLOCKED", "wait"),
        (3, 2, program, [3], "BLOCKED", "read"),
    ]
    host.types("x\n").says("step 1\n")
    code, out, err = tokix("ps").end()
    assert out.splitlines()[0].split("\t") == ["PID", "PPID", "STATE", "NICE", "TOKENS", "PROGRAM", "ARGS", "ON"]
    assert out.splitlines()[3].split("\t") == ["3", "2", "BLOCKED", "0", "0", program, "3", "read"]
    assert tokix("kill", 1).end() == (1, "", "tokix: EPERM: init cannot be killed; stop the kernel instead\n")
    assert tokix("kill", "-KILL", 99, 3).end() == (1, "", "tokix: ESRCH: no process 99\n")
    assert host.gone().end() == (137, "step 0\nstep 1\n", f"tokix: {program} (process 3) killed: KILL\n")
    code, out, err = tokix("ps", "--all").end()
    assert err == f"tokix: no kernel runs on {state}; this is what is saved there\n"
    assert [line.split("\t")[2:6:3] for line in out.splitlines()[1:]] == [["SAVED", "init"], ["REAPED", program]]
    assert out.splitlines()[2].endswith("killed KILL")


@pytest.mark.parametrize(
    ("words", "code"), [(["-s", "TERM"], 143), (["-15"], 143), (["-sint"], 130), (["-INT"], 130), ([], 143)]
)
def test_every_way_to_name_a_signal(words: list[str], code: int) -> None:
    options = cli.command_line().parse_args(cli.dashed(["kill", *words, "3"]))
    assert (options.pids, 128 + signal.Signals[f"SIG{options.signal}"]) == ([3], code)


def test_a_second_run_joins_the_kernel_of_the_first(tokix: Start, state: Path) -> None:
    host = tokix("run", "programs.py:step", 2).says("step 0\n")
    assert tokix("run", "echo").end("through pipes\n") == (0, "through pipes\n", "")
    code, out, err = tokix("run", "--lanes", "3", "programs.py:value", 9).end()
    assert (code, out) == (9, "")
    assert f"tokix: a kernel runs on {state} already: --lanes has no effect\n" in err
    assert tokix("run").end()[::2] == (
        0,
        f"tokix: nothing to do: a kernel runs on {state} already, and what was unfinished goes on there\n",
    )
    guest = tokix("run", "programs.py:mixture", 6)
    assert guest.end()[0] == 0
    assert len(guest.out.splitlines()) == 6
    interrupted = tokix("run", "programs.py:step", 2).says("step 0\n").signal(signal.SIGINT)
    code, _, err = interrupted.gone().end()
    assert (code, err.endswith("killed: INT\n")) == (130, True)
    assert host.end("a\nb\n")[0] == 0


def test_a_kernel_stays_for_those_who_joined(tokix: Start) -> None:
    host = tokix("run", "programs.py:step", 1).says("step 0\n")
    guest = tokix("run", "programs.py:step", 2).says("step 0\n")
    host.types("x\n").says("others still use its kernel", "stderr")
    assert guest.end("a\nb\n")[:2] == (0, "step 0\nstep 1\n")
    assert host.end()[0] == 0


def test_who_joined_a_kernel_that_stops_is_told(tokix: Start) -> None:
    host = tokix("run", "programs.py:step", 1).says("step 0\n")
    guest = tokix("run", "programs.py:step", 2).says("step 0\n")
    assert host.signal(signal.SIGTERM).gone().end()[0] == 143
    code, _, err = guest.gone().end()
    assert code == 1
    assert re.fullmatch(
        r"tokix: the kernel is gone \([^\[]*\); a program that has joined one ends with it: run it again\n", err
    )


def rows(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_every_verb_works_from_another_terminal(tokix: Start, state: Path) -> None:
    tokix("run", "programs.py:listener").says("listening\n")
    assert tokix("nice", "5", 3).end() == (0, "", "")
    assert json.loads(tokix("nice", "--json", "-3", 3, 99).end()[1]) == [
        {"pid": 3, "ok": True},
        {"pid": 99, "ok": False, "error": "ESRCH: no process 99"},
    ]
    assert tokix("send", 3, "good", "morning").end() == (0, "", "")
    assert tokix("send", "--tag", "data", 3, '{"a": [1]}').end() == (0, "", "")
    code, out, err = tokix("logs", 3).end()
    assert (code, err, out.splitlines()[0]) == (0, "", "PATH\tCALL\tOUTCOME")
    assert rows(out)[1:3] == [
        ["1", 'append{"role":"system","text":"You listen.","pinned":true}', "0"],
        ["2", 'write{"text":"listening\\n"}', "null"],
    ]
    assert '"body":"good morning"' in rows(out)[3][2]
    assert json.loads(tokix("logs", "-n", 1, "--json", 3).end()[1])[0]["call"] == "recv{}"
    assert rows(tokix("pages", 3).end()[1])[1][1:4:2] == ["system", "window"]
    assert rows(tokix("recall", 3, "what", "was", "that").end()[1]) == [["PAGE", "ROLE", "TOKENS", "SCORE", "TEXT"]]
    assert rows(tokix("devices").end()[1])[1][:4] == ["calc.eval", "pure", "0", "expression: string"]
    assert json.loads(tokix("devices", "--json", "calc").end()[1])[0]["name"] == "calc"
    assert rows(tokix("sched", "rr", "--quantum", 4).end()[1])[1][:3] == ["RR", "4", "8"]
    assert json.loads(tokix("sched", "--json").end()[1])["quantum"] == 4
    assert ["kernel", "ok"] in [row[:2] for row in rows(tokix("doctor").end()[1])]
    assert tokix("kill", 3).end() == (0, "", "")
    assert tokix("logs", 3).end()[1].splitlines()[-1].endswith("\tEINTR: TERM")


def test_what_a_kernel_has_left_can_be_read(tokix: Start, state: Path) -> None:
    assert tokix("run", "programs.py:value", 1).end()[0] == 1
    assert tokix("run", "echo", "hi").end()[0] == 0
    code, out, err = tokix("logs", 5).end()
    assert (code, rows(out)[1:], err) == (0, [["1", 'write{"text":"hi\\n"}', "null"]], "")
    assert tokix("logs", 99).end()[::2] == (
        1,
        f"tokix: ESRCH: no process 99 in {state}; `tokix ps --all` shows them\n",
    )
    code, out, err = tokix("devices").end()
    assert (code, rows(out)[1][0]) == (0, "calc.eval")
    assert err == f"tokix: no kernel runs on {state}; this is what `tokix run` mounts without options\n"
    found = {row[0]: row for row in rows(tokix("doctor").end()[1])}
    assert found["store"][1:3] == ["ok", f"whole, {(state / 'tokix.db').stat().st_size >> 10} KiB"]


def test_run_tells_a_program_how_it_ended(tokix: Start) -> None:
    code, out, err = tokix("run", "--json", "programs.py:value", '{"a": 1}').end()
    assert (code, out, json.loads(err)["value"]) == (0, "", {"a": 1})


# ---- the doctor


def test_the_doctor_finds_what_is_wrong(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir()
    (state / "tokix.db").write_bytes(b"this is no database" * 100)
    assert cli.main(["doctor", "--json", "--state", str(state)]) == 1
    wrong = [finding for finding in json.loads(capsys.readouterr().out) if finding["state"] == "wrong"]
    assert [finding["what"] for finding in wrong] == ["store"]
    assert "move the file away" in wrong[0]["todo"]
    (tmp_path / "file").write_text("mine")
    assert cli.main(["doctor", "--json", "--state", str(tmp_path / "file" / "state")]) == 1
    wrong = [finding for finding in json.loads(capsys.readouterr().out) if finding["state"] == "wrong"]
    assert [(finding["what"], finding["todo"]) for finding in wrong] == [("state", "choose another with --state DIR")]


@pytest.mark.parametrize(
    ("name", "wanted", "extra", "finding"),
    [
        ("pydantic", ">=2", "", ("ok", "")),
        ("pydantic", ">=99", "", ("wrong", "pip install -U 'pydantic>=99'")),
        ("nosuchpackage", ">=1", "", ("wrong", "pip install 'nosuchpackage>=1'")),
        ("nosuchpackage", ">=1", "hf", ("note", "pip install 'tokix[hf]' to run models")),
    ],
)
def test_the_doctor_knows_packages(name: str, wanted: str, extra: str, finding: tuple[str, str]) -> None:
    found = doctor.package(name, wanted, extra)
    assert (found.state, found.todo) == finding


def test_versions_are_compared_as_numbers() -> None:
    assert doctor.numbers("2.10.1+cpu") == (2, 10, 1)
    assert doctor.numbers("3.0rc1") == (3, 0)
    assert doctor.numbers("2.9") < doctor.numbers("2.10")


# ---- ends that are none


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


# ---- what a person gets wrong


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "a command is missing"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["run", "--lanes", "many", "echo"], "--lanes: invalid number value: 'many'"),
        (["run", "--lanes", "0", "echo"], "--lanes: 0 is less than 1"),
        (["run", "--slots", "-3", "echo"], "--slots: -3 is less than 0"),
        (["run", "--nice", "20", "echo"], "--nice: 20 is more than 19"),
        (["run", "--policy", "LIFO", "echo"], "--policy: invalid choice: 'LIFO'"),
        (["run", "--policy", "fcfs", "--quantum", "3", "echo"], "--quantum has no meaning"),
        (["run", "--durable", "never"], "--durable: invalid choice: 'never'"),
        (["run", "--root", "/no/such", "echo"], "--root: /no/such is not a folder"),
        (["run", "--frob"], "unrecognized arguments: --frob"),
        (["run", "--root", "", "echo"], "--root: a folder needs a name"),
        (["run", "--state", "", "echo"], "--state: a folder needs a name"),
        (["ps", "--state", ""], "--state: a folder needs a name"),
        (["demo", "--out", ""], "--out: a folder needs a name"),
        (["run", ""], "no program ''"),
        (["run", "philosophers", "many"], "tokix: philosophers: seats should be a valid integer"),
        (["run", "react"], "QUESTION is missing; usage: react QUESTION"),
        (["run", "chat:answer", "hi"], "chat:answer: missing a required argument: 'tokens'"),
        (["run", "no_such_program"], "no program no_such_program"),
        (["run", "./no_such.py"], "no_such.py: there is no such Python file"),
        (["run", "echo", "\udcff"], "the argument '\\udcff' is not valid UTF-8"),
        (["ps", "extra"], "unrecognized arguments: extra; see `tokix ps --help`"),
        (["kill"], "the following arguments are required: PID"),
        (["kill", "init"], "PID: invalid number value: 'init'"),
        (["kill", "-HUP", "3"], "no signal HUP; there is TERM, KILL, STOP, CONT, INT"),
        (["nice", "20", "3"], "N: 20 is more than 19"),
        (["nice", "5"], "the following arguments are required: PID"),
        (["send", "3"], "the following arguments are required: TEXT"),
        (["logs"], "the following arguments are required: PID"),
        (["logs", "-n", "0", "3"], "-n: 0 is less than 1"),
        (["sched", "LIFO"], "POLICY: no policy LIFO; there is FCFS, RR, PRIORITY"),
        (["pages", "all"], "PID: invalid number value: 'all'"),
        (["recall", "3"], "the following arguments are required: QUERY"),
        (["recall", "-k", "0", "3", "x"], "-k: 0 is less than 1"),
        (["sh", "--frob"], "unrecognized arguments: --frob"),
        (["sh", "-c"], "-c: expected one argument"),
        (["sh", "script.txt"], "unrecognized arguments: script.txt"),
        (["doctor", "me"], "unrecognized arguments: me"),
        (["version", "--frob"], "unrecognized arguments: --frob"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line(
    words: list[str], complaint: str, state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKIX_STATE", str(state))
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("tokix: ")
    assert complaint in err
    assert not state.exists()


def test_a_folder_that_is_gone(tokix: Start, state: Path) -> None:
    (state.parent / "gone").mkdir()

    def enter() -> None:
        os.chdir("gone")
        os.rmdir("../gone")

    code, out, err = tokix("run", "echo", "hi", preexec_fn=enter).end()
    assert (code, out, err) == (1, "", "tokix: the current folder has been removed: go to another\n")


def test_the_real_thing_says_so_too(tokix: Start) -> None:
    code, out, err = tokix("run", "no_such_program").end()
    assert (code, out) == (2, "")
    assert err.startswith("tokix: no program no_such_program: there is no such module; tokix brings ")


def test_where_nothing_runs(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kill", "--state", str(state), "3"]) == 1
    assert cli.main(["ps", "--state", str(state)]) == 0
    assert cli.main(["ps", "--state", str(state), "--json"]) == 0
    out, err = capsys.readouterr()
    assert out == "PID\tPPID\tSTATE\tNICE\tTOKENS\tPROGRAM\tARGS\tON\n[]\n"
    assert (
        err
        == f"tokix: no kernel runs on {state}; `tokix sh` or `tokix run` starts one\n"
        + f"tokix: nothing is in {state}\n" * 2
    )
    assert not state.exists()


def test_a_state_that_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["run", "--state", str(tmp_path / "file"), "echo", "hi"]) == 1
    out, err = capsys.readouterr()
    path = tmp_path / "file"
    assert (out, err) == ("", f"tokix: cannot open {path}/tokix.db: {path}: that is no folder; choose another folder\n")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_store_that_is_damaged(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.mkdir()
    (state / "tokix.db").write_bytes(b"this is no database" * 100)
    assert cli.main(["run", "--state", str(state), "echo", "hi"]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines()), "file is not a database" in err) == ("", 1, True)


def test_a_bug_of_the_command_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: Any) -> int:
        """Print the version."""
        raise LookupError("no such thing")

    monkeypatch.setattr(cli, "version", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["--version"]) == 70
    [report] = tmp_path.glob("crash-*.txt")
    assert (
        capsys.readouterr().err == f"tokix: tokix itself is wrong: LookupError: no such thing; the report is {report}\n"
    )
    assert 'raise LookupError("no such thing")' in report.read_text()


def test_an_output_that_is_full(tokix: Start) -> None:
    with open("/dev/full", "w") as full:
        assert tokix("version", stdout=full).end()[::2] == (
            1,
            "tokix: cannot write the output: No space left on device\n",
        )
        code, _, err = tokix("run", "echo", "hi", stdout=full).end()
    assert (code, "no output any more (No space left on device)" in err) == (70, True)


def test_nobody_is_at_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("TOKIX_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert cli.main(["ps"]) == 2
    assert capsys.readouterr().err == "tokix: there is no home directory; say --state DIR, or set TOKIX_STATE\n"


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokix.state import default_state

    monkeypatch.setenv("HOME", "/home/ada")
    for name in ("TOKIX_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_state() == Path("/home/ada/.local/state/tokix")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_state() == Path("/home/ada/.local/state/tokix"), "as the XDG standard wants"
    monkeypatch.setenv("XDG_STATE_HOME", "/var/x")
    assert default_state() == Path("/var/x/tokix")
    monkeypatch.setenv("TOKIX_STATE", "/srv/agents")
    assert default_state() == Path("/srv/agents")


def test_help_is_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", "run", "sh", "models", "doctor", "version", *VERBS):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split(), "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: tokix {command}".rstrip())
        assert "--json" in out or command in ("", "sh", "models")


@pytest.mark.parametrize("name", sorted(set(VERBS) - {"ps", "logs", "devices"}))
def test_verbs_that_need_a_kernel_say_so(name: str, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"nice": ["5", "3"], "send": ["3", "x"], "recall": ["3", "x"], "save": ["3", "x"], "sched": []}.get(
        name, ["3"]
    )
    assert cli.main([name, "--state", str(state), *words]) == 1
    assert capsys.readouterr() == ("", f"tokix: no kernel runs on {state}; `tokix sh` or `tokix run` starts one\n")
    assert not state.exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert [cli.main(["version"]), cli.main(["--version"])] == [0, 0]
    assert re.fullmatch(r"(tokix \d+\.\d+\.\d+\n){2}", capsys.readouterr().out)
    assert cli.main(["version", "--json"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+", json.loads(capsys.readouterr().out)["tokix"])


def test_sets_have_the_same_order_in_every_life(tokix: Start, tmp_path: Path) -> None:
    (tmp_path / "seeded.py").write_text("async def main():\n    import os\n    return os.environ['PYTHONHASHSEED']\n")
    assert '"0"' in tokix("run", "seeded.py", PYTHONHASHSEED="7").end()[2]
