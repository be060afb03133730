"""The shell, as a person uses it: in a terminal, by its keys. Nothing here waits for time to pass."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from glass import Person

from tokix import cli
from tokix.shell.line import Pipeline, parse
from tokix.shell.screen import Output, Screen
from tokix.shell.usage import Failure

PROGRAMS = '''
from tokix.syscalls import *

async def step(n):
    """Say a number and wait for a line, n times."""
    lines = []
    for i in range(n):
        await Write(text=f"step {i}\\n")
        lines.append((await Read()).strip())
    return lines

async def ask():
    await Write(text="name? ")
    await Write(text=f"hello {(await Read()).strip()}\\n")

async def heard():
    """Say what the mail says."""
    while True:
        await Write(text=f"heard {(await Recv()).body}\\n")

async def family():
    """A parent and a child that both wait."""
    await Spawn(program=":heard")
    await Write(text="a family\\n")
    await Recv()

async def polite():
    await Write(text="ready\\n")
    try:
        await Recv()
    except EINTR as error:
        await Write(text=f"{error.detail}, and goodbye\\n")

async def value(what):
    return what

async def shout():
    await Write(text="what?\\n", fd=2)
    while text := await Read():
        await Write(text=text.upper())

async def silent():
    """Never read what is typed."""
    await Write(text="not listening\\n")
    await Recv()

async def colour():
    answer = await Call(device="tty", op="ask", args={"question": "which colour?"})
    await Write(text=f"it is {answer}\\n")

async def spin():
    await Write(text="spinning\\n")
    await Sleep(seconds=0)
    while True:
        pass

async def mutter(code):
    await Write(text="no end of the line")
    return code

async def count(n):
    for i in range(n):
        await Write(text=f"number {i}\\n")
'''


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "p.py").write_text(PROGRAMS)
    return tmp_path / "state"


@pytest.fixture
def sit(state: Path) -> Iterator[Callable[..., Person]]:
    """Put people in front of shells on one state directory; none of them outlives the test."""
    people: list[Person] = []

    def person(*words: str, **environment: str) -> Person:
        people.append(Person(state, *(words or ("sh",)), **environment))
        return people[-1]

    yield person
    for one in people:
        one.leave()


Sit = Callable[..., Person]


def send(state: Path, pid: int, text: str) -> None:
    assert cli.main(["send", "--state", str(state), str(pid), text]) == 0


def table(state: Path, capsys: pytest.CaptureFixture[str]) -> dict[int, dict[str, Any]]:
    """Give the process table, but for the shells and this command."""
    capsys.readouterr()
    assert cli.main(["ps", "--state", str(state), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return {line["pid"]: line for line in found if line["program"] not in ("init", "sh")}


def last(text: str) -> str:
    return text.rstrip().rsplit("\n", 1)[-1]


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


# ---- leaving, and coming back


def test_ctrl_d_asks_once_when_something_is_unfinished(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:step 2 &")
    person.sees("[1] step 0")
    person.types("\x04").sees("a job is unfinished and will go on at the next `tokix sh` or `tokix run`; leave again")
    person.does("echo stay")
    person.types("\x04").until(lambda text: text.count("a job is unfinished") == 2)
    person.asked()
    person.types("\x04")
    assert person.gone() == 0

    again = sit()
    again.sees("[1] goes on: p.py:step 2")
    again.asked()
    again.types("fg\r").until(lambda text: text.count("p.py:step 2") == 2)
    again.types("one\r").sees("step 1")
    again.types("two\r").sees('exited with ["one","two"]')
    assert "step 0" not in again.glass.text(), "what was seen is not shown again"


def test_a_kill_of_the_shell_loses_nothing(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("p.py:step 3\r").sees("step 0")
    person.types("one\r").sees("step 1")
    person.process.send_signal(signal.SIGKILL)
    person.process.wait()
    again = sit()
    again.sees("[1] goes on: p.py:heard", "[2] goes on: p.py:step 3")
    send(state, 3, "you too?")
    again.sees("[1] heard you too?")
    again.types("fg %2\r").until(lambda text: text.count("p.py:step 3") == 2)
    again.types("two\r").sees("step 2")
    again.types("three\r").sees('exited with ["one","two","three"]')


def test_what_a_run_has_left_is_a_job_of_the_shell(sit: Sit, state: Path) -> None:
    first = sit("run", "p.py:step", "2")
    first.sees("step 0")
    first.types("\x03")
    assert first.gone() == 130
    person = sit()
    person.sees("[1] goes on: p.py:step 2")
    person.asked()
    person.types("fg\r").until(lambda text: text.count("p.py:step 2") == 2)
    person.types("one\r").sees("step 1")
    person.types("two\r").sees('exited with ["one","two"]')
    person.asked()
    person.types("exit 5\r")
    assert person.gone() == 5


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_shell_and_loses_nothing(signum: signal.Signals, sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.process.send_signal(signum)
    assert person.gone() == 128 + signum
    assert person.glass.text().rstrip().endswith(f"tokix: stopped by {signum.name}; `tokix run` goes on from here")


def test_a_program_that_holds_the_kernel_does_not_hold_the_person(sit: Sit, state: Path) -> None:
    person = sit()
    person.asked()
    person.types("p.py:spin\r").sees("has had the kernel for more than 50 ms")
    while person.process.poll() is None:  # two of them at once are one
        person.types("\x03")
        select.select([], [], [], 0.01)
    assert person.process.returncode == 130


# ---- joining


def test_a_shell_joins_the_kernel_that_runs(sit: Sit, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = sit()
    host.does("p.py:heard &")
    guest = sit("sh", "--lanes", "3")
    guest.sees(f"a kernel runs on {state} already: --lanes has no effect", "with the kernel that runs on")
    guest.does("echo through | p.py:shout", "THROUGH")
    guest.types("p.py:ask\r").sees("name?")
    guest.types("Ada\r").sees("hello Ada\ntokix>")
    guest.types("p.py:step 2\r").sees("step 0")
    guest.types("\x1a").sees("[1] stopped: p.py:step 2")
    guest.asked()
    guest.types("fg\r").until(lambda text: text.count("p.py:step 2") == 3)
    guest.types("one\r").sees("step 1")
    guest.types("\x03").sees("killed: INT")
    guest.does("hello there")
    guest.does("p.py:family &")
    assert [line["program"].rpartition(":")[2] for line in table(state, capsys).values()] == [
        *("heard", "chat", "family", "heard")
    ]
    guest.types("\x04").sees("a job is unfinished and will end with this shell; leave again to leave")
    guest.asked()
    guest.types("\x04")
    assert guest.gone() == 0
    assert [line["program"].rpartition(":")[2] for line in table(state, capsys).values()] == ["heard"]
    assert "family" not in host.asked()


def test_the_death_of_the_kernel_is_one_clear_line(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    guest.types("half a li").until(lambda text: last(text) == "tokix> half a li")
    host.process.send_signal(signal.SIGKILL)
    assert guest.gone() == 1
    assert (
        guest.glass.text()
        .rstrip()
        .replace("\n", "")
        .endswith(
            "tokix> half a litokix: the kernel is gone (it has closed the connection); "
            "what is unfinished goes on when it runs again"
        )
    )


def test_the_death_of_the_kernel_while_a_job_is_in_front(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    guest.types("p.py:step 1\r").sees("step 0")
    host.process.send_signal(signal.SIGKILL)
    assert guest.gone() == 1
    assert guest.glass.text().count("the kernel is gone") == 1
    assert "Traceback" not in guest.glass.text()


def test_a_kernel_stays_for_those_who_joined(sit: Sit, state: Path) -> None:
    host = sit()
    host.asked()
    guest = sit()
    guest.asked()
    host.types("\x04").sees("the shell has ended; others still use its kernel, and Ctrl-C stops it")
    guest.does("echo still here", "still here")
    guest.types("\x04")
    assert (guest.gone(), host.gone()) == (0, 0)


# ---- without a terminal


def sh(state: Path, *words: str, typed: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tokix", "sh", "--durable", "none", *words],
        input=typed,
        capture_output=True,
        text=True,
        cwd=state.parent,
        env={**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0"},
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_line_from_the_command_line(state: Path) -> None:
    assert sh(state, "-c", "echo a b") == (0, "a b\n", "")
    assert sh(state, "-c", "p.py:shout | p.py:shout", typed="from the input\n") == (
        0,
        "FROM THE INPUT\n",
        "what?\nwhat?\n",
    )
    code, out, err = sh(state, "-c", 'p.py:value 3 || echo "it failed"; p.py:value 0 && echo fine; p.py:value 4')
    assert (code, out) == (4, "it failed\nfine\n")
    assert err.splitlines()[-1].endswith("p.py:value (process 7) exited with 4")
    assert sh(state, "-c", "exit 9; echo never")[:2] == (9, "")


def test_a_script(state: Path) -> None:
    text = "# a remark\np.py:count 2 &\nwait\n\nps --json\necho 'last'\np.py:value 7"
    code, out, err = sh(state, typed=text)
    assert (code, out.startswith("number 0\nnumber 1\n["), out.endswith("]\nlast\n")) == (7, True, True)
    assert err == "tokix: p.py:value (process 5) exited with 7\n"
    code, out, err = sh(state, typed="p.py:shout\necho after")
    assert (code, out, err) == (0, "after\n", "what?\n"), "the lines are not for the programs"
    code, out, err = sh(state, typed="p.py:count 300 &")
    assert (code, out) == (0, "".join(f"number {n}\n" for n in range(300))), "what was started is waited for"


def test_a_script_adds_nothing_to_the_output(state: Path) -> None:
    assert sh(state, "-c", "p.py:mutter 3")[:2] == (3, "no end of the line")
    code, out, err = sh(state, typed="p.py:mutter 0\np.py:mutter 0 &\nps --frob")
    assert (code, out) == (2, "no end of the line" * 2)
    assert err.splitlines()[-1] == "tokix: unrecognized arguments: --frob; see `ps --help`"


def test_a_script_does_not_wait_for_what_others_have_left(sit: Sit, state: Path) -> None:
    person = sit()
    person.does("p.py:heard &")
    person.types("\x04\x04")
    assert person.gone() == 0
    assert cli.main(["sh", "--state", str(state), "-c", "jobs"]) == 0


def test_a_scenario_is_a_program_too(state: Path) -> None:
    (state.parent / "two.yaml").write_text("processes:\n  one: {program: echo, args: [one]}\n")
    (state.parent / "bad.yaml").write_text("processes: 3\n")
    code, out, err = sh(state, "-c", "two.yaml")
    assert (code, out) == (0, "one\n"), err
    assert sh(state, "-c", "two.yaml 3")[::2] == (2, "tokix: a scenario takes no arguments, such as 3\n")
    assert sh(state, "-c", "none.yaml") == (2, "", "tokix: none.yaml: No such file or directory\n")
    code, out, err = sh(state, "-c", "bad.yaml")
    assert (code, len(err.splitlines()), "bad.yaml:1" in err) == (2, 1, True)


def test_a_closed_output_ends_a_script(state: Path) -> None:
    words = [sys.executable, "-m", "tokix", "sh", "--durable", "none", "-c", "p.py:count 100000"]
    environment = {**os.environ, "TOKIX_STATE": str(state), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=state.parent, env=environment
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"number 0\n"
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


# ---- lines

QUOTED = """a '|&;' "it's" c\\ d '' "\\"\\n" x"y"z"""


@pytest.mark.parametrize(
    ("line", "pipelines"),
    [
        ("", []),
        ("  # nothing", []),
        ("a b", [Pipeline([["a", "b"]], "", False, "a b")]),
        ("a|b &", [Pipeline([["a"], ["b"]], "", True, "a|b")]),
        ("a;b&&c||d", [Pipeline([[x]], j, False, x) for x, j in zip("abcd", ("", "", "&&", "||"), strict=True)]),  # type: ignore[arg-type]
        ("a & b;", [Pipeline([["a"]], "", True, "a"), Pipeline([["b"]], "", False, "b")]),
        (QUOTED, [Pipeline([["a", "|&;", "it's", "c d", "", '"\\n', "xyz"]], "", False, QUOTED)]),
    ],
)  # fmt: skip
def test_lines_are_read_as_every_shell_does(line: str, pipelines: list[Pipeline]) -> None:
    assert parse(line) == pipelines


@pytest.mark.parametrize("line", ["a |", "| a", "a | | b", "a &&", "&& a", "; a", "a ;; b", "'a", 'a "b', "a \\"])
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(Failure, match=r"a command is missing|has no partner"):
        parse(line)


# ---- the screen


class Wall:
    """Somewhere to write."""

    def __init__(self) -> None:
        self.text = ""

    async def put(self, fd: int, text: str) -> None:
        self.text += text


def written(work: Callable[[Screen], None]) -> str:
    async def main() -> str:
        wall = Wall()
        screen = Screen(wall.put, tidy=True)
        async with anyio.create_task_group() as group:
            group.start_soon(screen.write)
            work(screen)
            await screen.drained()
            group.cancel_scope.cancel()
        return wall.text

    return anyio.run(main)


def test_nothing_is_called_shown_before_it_is() -> None:
    shown: list[str] = []

    def work(screen: Screen) -> None:
        output = Output(screen, "[1]")
        output.show(1, "a", lambda: shown.append("a"))
        output.show(1, "b\nc", lambda: shown.append("bc"))
        output.show(2, "x\n", lambda: shown.append("x"))

    assert written(work) == "[1] ab\n[1] x\n"
    assert shown == ["a", "x"]


def test_a_job_that_comes_to_the_front_shows_what_it_had_begun() -> None:
    def work(screen: Screen) -> None:
        front, behind = Output(screen, "[1]"), Output(screen, "[2]")
        front.show(1, "name")
        front.front(True)
        behind.show(1, "one\ntwo\nthr")
        front.show(1, "? ")
        front.front(False)
        screen.begin()
        behind.close()

    assert written(work) == "name? \n[2] one\n[2] two\n[2] thr\n"


def test_a_line_without_an_end_is_shown_at_last() -> None:
    def work(screen: Screen) -> None:
        output = Output(screen, "[1]")
        output.show(1, "x" * 5000)
        output.close()

    assert written(work) == f"[1] {'x' * 5000}\n"


def test_lines_do_not_wait_for_ever_for_the_job_in_front() -> None:
    def work(screen: Screen) -> None:
        screen.show("name? ")
        Output(screen, "[1]").show(1, "line\n" * 5000)

    assert written(work) == "name? \n" + "[1] line\n" * 5000
