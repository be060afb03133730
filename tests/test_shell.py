"""The shell, as a person uses it: in a terminal, by its keys. Nothing here waits for time to pass."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from glass import Sit, last, send, table
from tokix import cli

# ---- in front and behind


def test_what_is_typed_goes_to_the_job_in_front(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    person.types("p.py:ask\r").sees("name?")
    person.types("Ada\r").sees("name? Ada\nhello Ada\ntokix>")
    person.types("p.py:step 2\r").sees("step 0")
    person.types("one\r").sees("step 1")
    person.types("two\r").sees('p.py:step (process 4) exited with ["one","two"]')
    person.asked()
    person.types("p.py:shout\r").sees("what?")
    person.types("\x04").asked()  # Ctrl-D ends its input, not the shell
    person.types("\x04")
    assert person.gone() == 0


def test_others_write_above_the_line_that_is_being_typed(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &", "[1] process 3")
    person.types("echo hal").until(lambda text: last(text) == "tokix> echo hal")
    send(state, 3, "one")
    send(state, 3, "two")
    text = person.until(lambda text: "[1] heard two" in text and last(text) == "tokix> echo hal")
    assert text.rstrip().endswith("[1] heard one\n[1] heard two\ntokix> echo hal")
    person.types("lo\r").sees("tokix> echo hallo\nhallo\ntokix>")


def test_others_never_write_into_a_line_of_the_job_in_front(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("p.py:ask\r").sees("name?")
    send(state, 3, "while it asks")
    send(state, 3, "and once more")
    assert "[1] heard" not in person.sees("name?")
    person.types("Ada\r")
    text = person.sees("hello Ada", "once more")
    assert "name? Ada\n" in text
    assert text.index("[1] heard while it asks\n[1] heard and once more\n") > text.index("name? Ada\n")


def test_a_job_that_ends_behind_says_so(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:step 1 &")
    person.sees("[1] step 0")
    person.types("fg\r").until(lambda text: text.count("p.py:step 1") == 2)
    person.types("x\r").sees('p.py:step (process 3) exited with ["x"]')
    person.does("p.py:value 7 &").count("[1] p.py:value (process 4) exited with 7")
    person.sees("[1] p.py:value (process 4) exited with 7")
    person.does("echo quiet &")
    person.sees("[1] quiet", "[1] done: echo quiet")
    assert person.does("jobs").split() == ["JOB", "STATE", "PID", "LINE", "tokix>"]


def test_what_nobody_read_is_for_the_shell(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in every shell: what is typed ahead of a program that does not want it is the next command."""
    host = sit()
    host.asked()
    for person in (host, sit()):
        person.asked()
        person.types("p.py:silent\r").sees("not listening")
        person.types("echo typed ahead\r").sees("echo typed ahead\n")
        [pid] = table(state, capsys)
        send(state, pid, "go on")
        person.sees("tokix> echo typed ahead\ntyped ahead\ntokix>")


# ---- keys


def test_ctrl_c_is_for_the_job_in_front_only(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("p.py:polite\r").sees("ready")
    person.types("\x03").sees("INT, and goodbye")
    person.asked()
    person.types("p.py:step 3\r").sees("step 0")
    person.types("\x03").sees("p.py:step (process 5) killed: INT")
    person.asked()
    assert [line["program"][-5:] for line in table(state, capsys).values()] == ["heard"]
    person.types("a line that is not wanted\x03").until(lambda text: text.rstrip().endswith("tokix>"))
    person.types("jobs; wait\r").sees("%1   running")
    person.types("\x03").until(lambda text: text.rstrip().endswith("tokix>"))
    assert "%1   running  3    p.py:heard" in person.does("jobs")


def test_who_ends_by_ctrl_c_takes_its_children_along(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = sit()
    person.asked()
    person.types("p.py:family\r").sees("a family")
    assert len(table(state, capsys)) == 2
    person.types("\x03").sees("p.py:family (process 3) killed: INT")
    person.asked()
    assert table(state, capsys) == {}


def test_ctrl_z_stops_a_job_and_all_that_it_started(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = sit()
    person.asked()
    person.types("p.py:family\r").sees("a family")
    person.types("\x1a").sees("[1] stopped: p.py:family")
    assert [line["state"] for line in table(state, capsys).values()] == ["STOPPED", "STOPPED"]
    person.does("jobs", "%1   stopped  3")
    person.does("bg", "[1] goes on: p.py:family")
    assert [line["state"] for line in table(state, capsys).values()] == ["BLOCKED", "BLOCKED"]
    send(state, 4, "news")
    person.sees("[1] heard news")
    person.does("bg", "job %1 is not stopped")
    assert cli.main(["kill", "--state", str(state), "-STOP", "3"]) == 0
    person.does("jobs", "%1   stopped  3")
    person.does("bg", "[1] goes on: p.py:family")
    person.types("fg\r").until(lambda text: text.rstrip().endswith("tokix> fg\np.py:family"))
    person.types("\x1a").until(lambda text: text.count("[1] stopped") == 2)
    person.asked()
    person.does("kill %1")
    person.sees("[1] p.py:family (process 3) killed: TERM")
    assert table(state, capsys) == {}


def test_a_stopped_reader_goes_on_where_it_was(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    person.types("p.py:step 2\r").sees("step 0")
    person.types("\x1a").sees("stopped")
    person.asked()
    person.types("fg\r").until(lambda text: text.count("p.py:step 2") == 3)
    person.types("one\r").sees("step 1")
    person.types("two\r").sees('exited with ["one","two"]')


def test_ctrl_backslash_kills_what_does_not_listen(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    person.types("p.py:silent\r").sees("not listening")
    person.types("\x1c").sees("p.py:silent (process 3) killed: KILL")
    person.asked()


def test_tab_completes(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    for typed, completed in [
        ("phil\t", "philosophers"),
        ("p.p\t", "p.py"),
        ("jo\t", "jobs"),
        ("ps --j\t", "ps --json"),
        ("sched P\t", "sched PRIORITY"),
        ("kill -K\t", "kill -KILL"),
        ("echo a | ping\t", "echo a | pingpong"),
    ]:
        person.types(typed).until(lambda text, want=completed: last(text).strip() == f"tokix> {want}")  # type: ignore[misc]
        person.types("\x03").until(lambda text: text.rstrip().endswith("tokix>"))
    person.does("p.py:heard &")
    person.types("fg \t").until(lambda text: last(text) == "tokix> fg %1")
    person.types("\x03").asked()
    person.types("logs \t").sees("p.py:heard")  # what each pid is
    person.types("\x03").asked()


def test_the_history_outlives_the_shell(sit: Sit, state: Path) -> None:
    first = sit()
    first.does("echo one")
    first.does("echo two")
    first.types("\x04")
    assert first.gone() == 0
    assert (state / "history").stat().st_mode & 0o777 == 0o600
    second = sit()
    second.asked()
    second.types("\x1b[A").until(lambda text: last(text) == "tokix> echo two")
    second.types("\x1b[A").until(lambda text: last(text) == "tokix> echo one")
    second.types("\x1b[B\r").sees("tokix> echo two\ntwo\ntokix>")
    second.types("\x12one").until(lambda text: "echo one" in last(text))  # Ctrl-R
    second.types("\r\r").sees("tokix> echo one\none\ntokix>")


# ---- words


def test_words_that_are_no_command_go_to_chat(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    person = sit()
    person.does("hello, who are you?")
    person.does("isn't it | a fine & sunny day?")
    [chat] = table(state, capsys).values()
    assert (chat["program"], chat["on"]) == ("chat", "read"), "one conversation"
    assert cli.main(["pages", "--state", str(state), "--json", str(chat["pid"])]) == 0
    said = [page["text"] for page in json.loads(capsys.readouterr().out) if page["role"] == "user"]
    assert said == ["hello, who are you?", "isn't it | a fine & sunny day?"]
    person.does("echo one; echo two", "one\ntwo\n")
    person.types("\x04")
    assert person.gone() == 0, "a conversation is nothing that has to be finished"


def test_a_message_to_the_shell_is_shown(sit: Sit, state: Path) -> None:
    person = sit()
    person.types("ec").until(lambda text: last(text) == "tokix> ec")
    send(state, 2, "good morning")
    person.until(lambda text: "] good morning\ntokix> ec" in text)


def test_a_device_may_ask_the_person(sit: Sit, state: Path) -> None:
    person = sit("sh", "--mount", "tty")
    person.asked()
    person.types("p.py:colour\r").sees("which colour?\n>")
    person.types("red\r").sees("it is red")
    person.does("p.py:colour &")
    person.sees("[tty] which colour?")
    person.asked()
    person.types("fg\r").until(lambda text: last(text) == ">")
    person.types("blue\r").sees("it is blue")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("p.py:nothing", "p.py has no function nothing"),
        ("nosuch.py", "there is no such Python file"),
        ("fg %7", "no job %7; `jobs` shows them"),
        ("fg", "no job is there"),
        ("fg 1 2", "2 is too much; see `help`"),
        ("kill", "the following arguments are required: PID; see `kill --help`"),
        ("kill -HUP 3", "no signal HUP; there is TERM, KILL, STOP, CONT, INT; see `kill --help`"),
        ("kill 99", "ESRCH: no process 99"),
        ("nice 20 3", "20 is more than 19; see `nice --help`"),
        ("logs 99", "ESRCH: no process 99"),
        ("sched LIFO", "no policy LIFO; there is FCFS, RR, PRIORITY, SJF, MLFQ, LAS, FAIR, MIXED; see `sched --help`"),
        ("sched fcfs --quantum 3", "--quantum needs a policy with turns, RR or PRIORITY"),
        ("devices nosuch", "no device nosuch; there is calc"),
        ("ps | echo", "ps is a command of the shell, and cannot be in a pipeline"),
        ("echo a | nosuchword", "nosuchword is neither a command nor a program; see `help`"),
        ("echo a |", "a command is missing at the end"),
        ("| echo", "a command is missing before |"),
        ("echo 'a", "has no partner"),
        ("exit 3 4", "4 is too much; see `help`"),
        ("exit soon", "exit takes a number from 0 to 255"),
        ("p.py:value '\udcff'", "is not valid UTF-8"),
    ],
)
def test_a_mistake_is_one_clear_line(line: str, complaint: str, state: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = os.getcwd()
    os.chdir(state.parent)
    try:
        code = cli.main(["sh", "--durable", "none", "--state", str(state), "-c", line])
    finally:
        os.chdir(folder)
    out, err = capfd.readouterr()
    assert (code in (1, 2), out, len(err.splitlines())) == (True, "", 1)
    assert err.startswith("tokix: ")
    assert complaint in err


def test_every_command_has_help_and_json(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("help", "Ctrl-Z stops it")
    for name in ("ps", "kill", "jobs", "doctor", "version"):
        person.does(f"{name} --help", f"usage: {name}")
    person.types("clear\r").until(lambda text: text.strip() == "tokix>")
    assert json.loads(person.does("jobs --json").rpartition("tokix>")[0]) == []
    assert json.loads(person.does("sched rr --json").rpartition("tokix>")[0])["policy"] == "RR"
