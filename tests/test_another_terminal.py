"""What runs is looked at, interfered with and joined from another terminal."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime
from pathlib import Path
from time import time

import pytest

from command import Start
from tokix import cli
from tokix.syscalls import ProcessInfo


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
    timed = rows(tokix("logs", "--times", 3).end()[1])
    assert timed[0] == ["TIME", "PATH", "CALL", "OUTCOME"]
    assert abs(datetime.fromisoformat(timed[1][0]).timestamp() - time()) < 600
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
