"""What a person gets wrong is one clear line; and help is everywhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from command import Start
from tokix import cli
from tokix.shell.usage import VERBS


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
        (["recall", "--since", "yesterday", "3", "x"], "--since: 'yesterday' is no time: say 90s, 5m, 2h, 3d"),
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
    words = {"nice": ["5", "3"], "send": ["3", "x"], "recall": ["3", "x"], "save": ["3", "x"]}
    words |= {other: [] for other in ("sched", "free", "top", "regions")}
    assert cli.main([name, "--state", str(state), *words.get(name, ["3"])]) == 1
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
