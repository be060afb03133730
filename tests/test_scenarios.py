"""Scenarios: what a file may say, what is wrong with it and where, and what is played; also over kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from harness import Ended, always, finish
from simulated import named
from tokix import scenario
from tokix.agents.script import Moment, Scenario, has
from tokix.boot import boot
from tokix.drivers import Calc
from tokix.sim import World
from tokix.syscalls import Kill, Read, Recv, Sleep, Spawn, Think, Wait, Write


async def told(pid: int = 0) -> Any:
    """Give what one message says."""
    return (await Recv()).body


async def thinker(tokens: int = 30) -> str:
    said = await Think(prompt="think", max_tokens=tokens)
    await Write(text="thought\n")
    return said.text


async def sleeper(seconds: float = 1e6) -> None:
    await Sleep(seconds=seconds)


async def fails() -> None:
    raise ValueError("as asked")


async def shout() -> int:
    count = 0
    while text := await Read():
        await Write(text=text.upper())
        count += text.count("\n")
    return count


def stage(said: dict[str, Any], world: Any = World, **options: Any) -> Ended:
    return finish(player(said), *PROGRAMS, world=world, **options)


def player(said: dict[str, Any]) -> Any:
    """Make a `main` that plays a scenario, and gives how it ended."""

    async def main() -> Any:
        status = await Wait(pid=await Spawn(program="scenario", args=[said], fds={0: "null"}))
        return status.value if status.reason == "exit" else f"{status.reason}: {status.detail}"

    return main


SHIPPED = ("echo", "pingpong", "pingpong:pong", "scenario", "scenario:alarm", "scenario:feed", "scenario:keep")
PROGRAMS = [told, thinker, sleeper, fails, shout, *map(named, SHIPPED)]


def heard(ended: Ended) -> list[str]:
    return ended.world.output(fd=2).splitlines()


# ---- what is played


def test_processes_run_with_their_arguments() -> None:
    ended = stage(
        {"processes": {"one": {"program": "echo", "args": ["a", 2]}, "two": {"program": "pingpong", "args": [1]}}}
    )
    assert ended.value is None
    assert sorted(ended.world.output(fd=1).splitlines()) == ["a 2", "ping 1, pong 1"]
    assert heard(ended) == ["scenario: 2 processes have ended as expected"]


def test_output_flows_into_the_next() -> None:
    ended = stage(
        {
            "processes": {
                "last": {"program": "shout", "in": "first"},
                "first": {"program": "echo", "in": {"text": "a\nb\n"}},
            },
            "expect": {
                "last": {"value": 2, "output": {"lines": 2, "matches": "^B$"}},
                "first": {"output": {"lines": 2}},
            },
        }
    )
    assert ended.value is None, heard(ended)
    assert ended.world.output(fd=1) == "A\nB\n"


def test_a_reader_hears_all_its_writers_also_one_that_begins_late() -> None:
    ended = stage(
        {
            "processes": {
                "early": {"program": "echo", "args": ["early"]},
                "late": {"program": "echo", "args": ["late"], "after": "early", "at": "3 s"},
                "reader": {"program": "shout", "in": ["early", "late"]},
            },
            "expect": {"reader": {"value": 2}},
        }
    )
    assert ended.value is None, heard(ended)
    assert ended.world.output(fd=1) == "EARLY\nLATE\n"


def test_who_comes_after_another_waits_for_its_end() -> None:
    said = {"processes": {"b": {"program": "echo", "args": ["b"], "after": "a"}, "a": {"program": "thinker"}}}
    assert stage(said).world.output(fd=1) == "thought\nb\n"


@pytest.mark.parametrize(
    ("at", "first"), [("5 ticks", "b"), ("4 s", "b"), (4, "b"), ("60 ticks", "thought"), ("60 s", "thought")]
)
def test_who_begins_at_a_moment_comes_in_the_middle(at: Any, first: str) -> None:
    said = {"processes": {"a": {"program": "thinker", "args": [30]}, "b": {"program": "echo", "args": ["b"], "at": at}}}
    assert stage(said).world.output(fd=1).splitlines()[0] == first


def test_messages_are_sent_when_their_time_has_come() -> None:
    ended = stage(
        {
            "processes": {"one": {"program": "told"}, "two": {"program": "told", "after": "one"}},
            "messages": [{"to": "two", "body": {"n": [2]}}, {"to": "one", "body": "x", "at": "7 ticks", "tag": "t"}],
            "expect": {"two": {"has": {"n": [2]}}, "one": {"value": "x"}},
        }
    )
    assert ended.value is None, heard(ended)


def test_a_message_that_cannot_be_sent_is_a_failure() -> None:
    ended = stage(
        {
            "processes": {"a": {"program": "echo", "args": [1]}, "b": {"program": "sleeper"}},
            "messages": [{"to": "a", "after": "a"}],
        }
    )
    assert ended.value == 1
    assert heard(ended) == ["scenario: message 1 to a: ESRCH: no process 4"]


def test_who_is_not_awaited_is_ended() -> None:
    said = {"processes": {"server": {"program": "sleeper"}, "a": {"program": "echo", "args": ["a"]}}, "wait": ["a"]}
    ended = stage(said)
    assert ended.value is None
    assert [status.reason for status in ended.statuses if status.program == "sleeper"] == ["killed"]


def test_rights_and_limits_are_those_that_are_said() -> None:
    ended = stage(
        {
            "processes": {
                "mute": {"program": "thinker", "caps": []},
                "poor": {"program": "thinker", "limits": {"tokens": 3}},
                "slow": {"program": "sleeper", "limits": {"seconds": 2}},
            },
            "expect": {
                "mute": {"reason": "crashed", "contains": "EPERM"},
                "poor": {"reason": "crashed", "matches": "^EDQUOT"},
                "slow": {"reason": "killed", "contains": ["limit", "2 seconds"]},
            },
        }
    )
    assert ended.value is None, heard(ended)


def test_the_end_of_a_scenario_is_the_end_of_its_processes() -> None:
    async def main() -> Any:
        pid = await Spawn(program="scenario", args=[{"processes": {"a": {"program": "sleeper"}}}])
        await Sleep(seconds=5)
        await Kill(pid=pid)
        return (await Wait(pid=pid)).reason

    ended = finish(main, *PROGRAMS)
    assert ended.value == "killed"
    assert [status.reason for status in ended.statuses if status.program == "sleeper"] == ["killed"]


# ---- what must hold


@pytest.mark.parametrize(
    ("actor", "expected", "line"),
    [
        ({"program": "fails"}, {}, "it has crashed (ValueError: as asked (test_scenarios.py:41)), and not exited"),
        ({"program": "thinker"}, {"reason": "crashed"}, "it has exited, and not crashed"),
        (
            {"program": "pingpong", "args": [1]},
            {"value": {"rounds": 2}},
            'its value is {"rounds":1}, and not {"rounds":2}',
        ),
        ({"program": "echo", "args": [1]}, {"value": 0}, "its value is null, and not 0"),
        ({"program": "pingpong", "args": [1]}, {"has": {"x": 1}}, 'its value is {"rounds":1}, and has not {"x":1}'),
        ({"program": "pingpong", "args": [1]}, {"contains": "x"}, 'its value does not contain "x": "{\\"rounds\\":1}"'),
        ({"program": "pingpong", "args": [1]}, {"matches": "^x"}, 'its value does not match "^x": "{\\"rounds\\":1}"'),
        ({"program": "pingpong", "args": [1]}, {"count": {"min": 2}}, "its value has 1 items, and not 2 or more"),
        ({"program": "thinker", "args": [5]}, {"tokens": {"max": 3}}, "it has used 12 tokens, and not 0 to 3"),
        ({"program": "echo", "args": ["a"]}, {"output": {"lines": 2}}, "its output has 1 lines, and not 2"),
        ({"program": "echo", "args": ["a"]}, {"output": {"contains": "b"}}, 'its output does not contain "b": "a\\n"'),
    ],
)
def test_what_does_not_hold_is_a_line_and_exit_code_1(actor: Any, expected: Any, line: str) -> None:
    ended = stage({"name": "test", "processes": {"it": actor}, "expect": {"it": expected}})
    assert ended.value == 1
    assert heard(ended) == [f"test: it: {line}"]


def test_what_cannot_be_started_is_a_failure() -> None:
    ended = stage({"processes": {"a": {"program": "nothing"}, "b": {"program": "sleeper"}}})
    assert ended.value == 1
    assert heard(ended) == ["scenario: a: ENOENT: no program nothing"]


@pytest.mark.parametrize(
    ("value", "part", "found"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [{"c": 2}]}}, True),
        ({"a": 1}, {"a": 2}, False),
        ([1, 2], [2], True),
        ([1, 2], [3], False),
        ("abc", "abc", True),
        ("abc", "b", False),
        (1, {"a": 1}, False),
    ],
)
def test_has(value: Any, part: Any, found: bool) -> None:
    assert has(value, part) is found


# ---- over kills


BUSY = {
    "processes": {
        "a": {"program": "thinker", "args": [4]},
        "b": {"program": "shout", "in": "c", "nice": 3},
        "c": {"program": "echo", "in": {"text": "x\ny\n"}, "after": "a"},
        "d": {"program": "told", "at": "2 ticks"},
        "e": {"program": "sleeper"},
    },
    "messages": [{"to": "d", "body": 5, "at": "1 s"}],
    "wait": ["a", "b", "c", "d"],
    "expect": {"b": {"value": 2, "output": {"lines": 2}}, "d": {"value": 5}, "a": {"tokens": {"min": 1}}},
}


def test_no_kill_changes_how_a_scenario_ends() -> None:
    assert always(player(BUSY), *PROGRAMS, budget=1) is None


def test_a_scenario_goes_on_after_the_death_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "from tokix import Call, Read, Write\n\n\n"
        "async def main():\n"
        "    await Write(text='begun\\n')\n"
        "    line = await Read()\n"
        "    four = await Call(device='sums', op='eval', args={'expression': '2+2'})\n"
        "    return f'{line.strip()} {four}'\n"
    )
    (tmp_path / "s.yaml").write_text(
        "devices: {sums: calc}\nprocesses: {a: {program: ./slow.py, in: tty}}\nexpect: {a: {value: go 4}}\n"
    )
    command = [sys.executable, "-m", "tokix", "run", "--state", str(tmp_path / "state")]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": "/", "text": True}
    with subprocess.Popen([*command, str(tmp_path / "s.yaml")], **pipe) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "begun\n"
        first.send_signal(signal.SIGKILL)
    again = subprocess.run(command, input="go\n", capture_output=True, text=True, cwd="/", timeout=60)
    assert again.returncode == 0, again.stderr
    assert "scenario: 1 process has ended as expected" in again.stderr


# ---- files


def wrong(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(scenario.ScenarioError) as caught:
        scenario.load(path)
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.lines]


def test_all_that_is_wrong_in_a_file_has_its_line(tmp_path: Path) -> None:
    text = """\
name: bad
processes:
  a: {program: echo, nice: 40, caps: [thnk]}
  b:
    program: react
    at: 5 apples
    limits: {tokens: -1, tokns: 4}
    foo: 1
  tty: {program: echo}
  c: echo
messages:
  - {to: a, boddy: 1}
expect:
  a:
    reason: dead
    matches: "("
    count: {min: x}
  a: {}
"""
    assert wrong(tmp_path, text) == [
        "f.yaml:3: processes.a.nice: should be less than or equal to 19, not 40",
        "f.yaml:3: processes.a.caps.0: is no capability; there is think, spawn:PROGRAM, call:DEVICE.OP, send:PID, …, "
        'not "thnk"',
        'f.yaml:6: processes.b.at: should be a moment, such as `5 s` or `40 ticks`, not "5 apples"',
        "f.yaml:7: processes.b.limits.tokens: should be greater than or equal to 0, not -1",
        "f.yaml:7: processes.b.limits.tokns: there is no such field; "
        "there is tokens, children, messages, cost, seconds",
        "f.yaml:8: processes.b.foo: there is no such field; "
        "there is program, args, nice, limits, caps, in, out, after, at",
        'f.yaml:9: processes.tty: should be a name of letters, digits, _ and -, and neither tty nor null, not "tty"',
        'f.yaml:10: processes.c: should be fields, such as program, args, nice, not "echo"',
        "f.yaml:12: messages.0.boddy: there is no such field; there is to, body, tag, after, at",
        "f.yaml:15: expect.a.reason: should be 'exit', 'crashed' or 'killed', not \"dead\"",
        "f.yaml:16: expect.a.matches: is no regular expression: missing ), unterminated subpattern at position 0, "
        'not "("',
        'f.yaml:17: expect.a.count.min: should be a valid integer, unable to parse string as an integer, not "x"',
        "f.yaml:18: expect.a: is there already in line 14",
    ]


def test_names_that_mean_nothing_have_their_line_too(tmp_path: Path) -> None:
    text = """\
devices:
  x: nothing
processes:
  a: {program: nonsense, in: zz, after: b}
  b:
    program: react
    after: a
    in:
      file: nope.txt
  c: {program: ./x.py, in: c}
  d: {program: pingpong, args: [-1], in: c}
  e: {program: echo, out: null}
  f: {program: echo, in: e}
  g: {program: ":beside"}
messages:
  - to: q
wait: [a]
expect:
  c: {}
  nobody: {}
"""
    found = wrong(tmp_path, text)
    assert [line.partition(": ")[0] + ": " + line.split(": ")[1] for line in found] == [
        "f.yaml:2: devices.x",
        "f.yaml:4: processes.a.in",
        "f.yaml:4: processes.a.after",
        "f.yaml:4: processes.a.program",
        "f.yaml:5: processes.b.args",
        "f.yaml:7: processes.b.after",
        "f.yaml:9: processes.b.in.file",
        "f.yaml:10: processes.c.program",
        "f.yaml:11: processes.d.in",
        "f.yaml:11: processes.d.args",
        "f.yaml:13: processes.f.in",
        "f.yaml:14: processes.g.program",
        "f.yaml:14: processes.g.program",
        "f.yaml:16: messages.0.to",
        "f.yaml:19: expect.c",
        "f.yaml:20: expect.nobody",
    ]
    assert "a begins after itself: a after b after a" in found[2]
    assert "react: QUESTION is missing; usage: react QUESTION" in found[4]
    assert "the output of c goes to c already" in found[8]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1,\n b: }", "f.yaml:2: this is not YAML: while parsing a flow node, expected the node content"),
        ("processes: &a {x: *a}", "f.yaml:1: processes.x: it holds itself"),
        ("---\na: 1\n---\nb: 1\n", "f.yaml:3: this is not YAML: expected a single document"),
        (
            "processes:\n  a: !!python/name:os.system x",
            "f.yaml:2: processes.a: tag:yaml.org,2002:python/name:os.system",
        ),
        ('name: "\\ud800"\nprocesses: {}', "f.yaml:1: name: '\\ud800' is no text"),
        ("", "f.yaml:1: processes: is missing"),
        ("- 1", "f.yaml:1: should be fields, such as name, about, devices, not [1]"),
        ("? [a]\n: 1", "f.yaml:1: a name has to be a word"),
        ("a: " + "[" * 5000, "f.yaml:1: "),
        ("\x07", "f.yaml:1: this is not YAML: unacceptable character"),
    ],
)
def test_what_is_no_scenario_at_all(tmp_path: Path, text: str, line: str) -> None:
    assert wrong(tmp_path, text)[0].startswith(line)


def test_a_laughing_file_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    found = wrong(tmp_path, "\n".join(lines))
    assert any(line.endswith("there are more than 20000 values") for line in found)


def test_words_are_texts_but_for_those_of_json(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "processes: {a: {program: echo, args: [yes, no, 1, -2.5, 1e3, '3', true, null, 0x1, 1:30, 2026-01-01, on]}}"
    )
    assert scenario.load(path).processes["a"].args == [
        *("yes", "no", 1, -2.5, 1000.0, "3", True, None, "0x1", "1:30", "2026-01-01", "on")
    ]


def test_what_a_file_names_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "in.txt").write_text("hello\n")
    (tmp_path / "own.py").write_text("async def main(a): pass\n\n\nasync def other(): pass\n")
    (tmp_path / "f.yaml").write_text(
        "devices: {files: 'files:./data,write', calc: calc}\n"
        "processes:\n"
        "  a: {program: ./own.py, args: [1], in: {file: data/in.txt}}\n"
        "  b: {program: './own.py:other'}\n"
    )
    plan = scenario.load(tmp_path / "f.yaml")
    assert plan.processes["a"].program == str(tmp_path / "own.py")
    assert plan.processes["b"].program == f"{tmp_path / 'own.py'}:other"
    assert plan.processes["a"].stdin.text == "hello\n"
    assert plan.devices == {"files": f"files:{tmp_path / 'data'},write", "calc": "calc"}
    assert [(mount.name, mount.driver) for mount in scenario.mounts(plan)] == [("files", "files"), ("calc", "calc")]


def test_a_scenario_is_the_same_after_its_way_through_the_journal(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(
        "processes: {a: {program: echo, in: tty, at: 3 ticks}, b: {program: echo, in: a, out: null}}\n"
        "expect: {a: {value: null, count: 3}}\n"
    )
    plan = scenario.load(tmp_path / "f.yaml")
    [said] = scenario.spawn(plan).args
    again = Scenario.model_validate(json.loads(json.dumps(said)))
    assert again == plan
    assert "value" in again.expect["a"].model_fields_set
    assert plan.processes["a"].at == Moment(ticks=3)


@pytest.mark.parametrize("name", ["debate.yaml", "philosophers.yaml", "pipeline.yaml"])
def test_the_shipped_scenarios_are_played(name: str) -> None:
    pytest.importorskip("llguidance")
    assert name in scenario.shipped()
    plan = scenario.load(scenario.locate(name))

    async def main() -> Any:
        async with boot(drivers={"calc": Calc()}) as system, system.attach("test") as client:
            with anyio.fail_after(60):
                pid = await client.call(
                    scenario.spawn(plan).model_copy(update={"fds": dict.fromkeys(range(3), "null")})
                )
                return await client.call(Wait(pid=pid))

    status = anyio.run(main)
    assert (status.reason, status.value) == ("exit", None), status


def test_the_program_refuses_what_makes_no_sense() -> None:
    said = {"processes": {"a": {"program": "echo", "after": "b"}}}
    ended = stage(said)
    assert "EINVAL: processes.a.after: there is no process b" in ended.value
    assert (
        "the device x is not mounted"
        in stage({"devices": {"x": "calc"}, "processes": {"a": {"program": "echo"}}}).value
    )


def test_the_example_of_the_documentation_is_right(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "scenarios.md").read_text()
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "today.txt").write_text("a\nb\nc\n")
    (tmp_path / "inbox.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    plan = scenario.load(tmp_path / "inbox.yaml")
    assert list(plan.processes) == ["lines", "labels", "person", "last"]
    assert plan.processes["last"].out == "null"
    assert plan.processes["person"].at == Moment(ticks=40)
