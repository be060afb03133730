"""`tokix demo`: what it shows, and the proof at its end, here on the toy machine."""

import json
import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from tokix import demo
from tokix.trace import Trace

PLAY = """\
name: small
about: two readers and a person
devices: {files: "files:./books"}
processes:
  planner:
    program: library
    args: [{one.txt: Who is it?, two.txt: Where is it?}]
  person:
    program: chat
    args: [hello]
    nice: -10
    at: 20 ticks
expect:
  planner: {count: 2}
"""


@pytest.fixture(name="scene")
def a_scenario(tmp_path):
    (tmp_path / "books").mkdir()
    for name in ("one", "two"):
        paragraphs = [f"{name} {n}. It was a day like any other in the house." for n in range(6)]
        (tmp_path / "books" / f"{name}.txt").write_text("Title\n\n" + "\n\n".join(paragraphs))
    (tmp_path / "play.yaml").write_text(PLAY)
    return tmp_path


def tokix(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "tokix", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_killed_run_comes_to_the_same(scene):
    code, out, err = tokix(scene, "demo", "play.yaml", "--out", "pictures")
    assert (code, err) == (0, "")
    words = " ".join(out.split())
    assert "killed with SIGKILL after" in words
    assert "the results of all" in words
    assert "within two ticks and the" in words
    assert "lane 3" in out
    assert 'came to {"answers":' in out
    assert (scene / "pictures" / "timeline.svg").read_text().startswith("<svg")
    assert json.loads((scene / "pictures" / "trace.json").read_text())["traceEvents"]


def test_without_the_kill_nothing_is_said_of_it(scene):
    code, out, err = tokix(scene, "demo", "play.yaml", "--no-crash", "--json")
    assert code == 0
    assert "SIGKILL" not in out + err
    said = json.loads(out)
    assert (said["held"], said["survived"]) == (True, None)
    [person] = [process for process in said["processes"] if process["nice"] < 0]
    assert person["program"] == "chat"
    assert person["response"] <= 4
    assert said["ticks"] > 20


def test_a_scenario_that_fails_is_a_failure(scene):
    (scene / "play.yaml").write_text(PLAY.replace("count: 2", "count: 3"))
    code, out, _ = tokix(scene, "demo", "play.yaml", "--no-crash")
    assert code == 1
    assert "its value has 2 items, and not 3" in out
    assert out.endswith("the scenario has failed: what does not hold is said above\n")


def test_who_reads_finds_the_end_of_the_input_and_no_text_is_markup(scene):
    (scene / "play.yaml").write_text("about: '[/x] [red]'\nprocesses: {copy: {program: echo, in: tty}}\n")
    code, out, err = tokix(scene, "demo", "play.yaml", "--no-crash")
    assert (code, err) == (0, "")
    assert "scenario: [/x] [red], on toy" in out
    assert "scenario: 1 process has ended as expected" in out


def test_a_narrow_terminal_has_columns_that_can_be_read(scene):
    console = Console(file=StringIO(), width=40)
    console.print(demo.processes(Trace(), {}, demo.NARROW))
    assert console.file.getvalue().split() == ["pid", "program", "end", "waiting"]


def test_all_that_is_wrong_in_a_scenario_has_a_line(scene):
    (scene / "play.yaml").write_text(PLAY.replace("name:", "nome:").replace("nice: -10", "nice: -40"))
    code, out, err = tokix(scene, "demo", "play.yaml")
    assert (code, out) == (2, "")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["play.yaml:1", "play.yaml:11"]


def test_a_folder_for_the_pictures_that_cannot_be_is_said_at_once(scene):
    code, out, err = tokix(scene, "demo", "play.yaml", "--out", "play.yaml/x")
    assert (code, out, err) == (1, "", "tokix: play.yaml/x: Not a directory\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demo", "nothing.yaml"], "nothing.yaml: No such file or directory"),
        (["demo", "--model", "nonsense", "play.yaml"], "there is no model 'nonsense'"),
        (["demo", "a", "b"], "b"),
    ],
)
def test_what_is_wrong_is_one_line(scene, words, said):
    code, _, err = tokix(scene, *words)
    assert code in (1, 2)
    assert said in err
    assert err.startswith("tokix: ")


def test_a_difference_is_seen(scene, monkeypatch, capsys):
    """Let the second run be another one: its results are not those of the first."""
    real = demo.ends
    monkeypatch.setattr(
        demo, "ends", lambda state, key: {k: e._replace(value=str(state)) for k, e in real(state, key).items()}
    )
    monkeypatch.chdir(scene)
    assert demo.demo(command(scene)) == 1
    assert "the results DIFFER" in capsys.readouterr().out


def command(scene):
    from tokix.cli import command_line

    return command_line().parse_args(["demo", "play.yaml", "--out", str(scene / "out")])
