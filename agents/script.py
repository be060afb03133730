"""What a scenario says: its cast, what flows between them, and what must hold at the end.

These are the words of a scenario file, and of the argument of the program `scenario`. A model checks each word by
itself; `problems` finds the names that mean nothing and the circles; `unlike` holds what was expected against what
came.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from tokix.agents.words import clip
from tokix.syscalls import ExitStatus, Limits, Value
from tokix.syscalls.base import to_json
from tokix.syscalls.rights import is_capability


class Moment(Value):
    """So many seconds, or ticks of the machine, after the beginning or after what `after` names."""

    seconds: float = Field(default=0, ge=0, allow_inf_nan=False)
    ticks: int = Field(default=0, ge=0)


def _moment(said: object) -> object:
    if isinstance(said, (dict, Moment)):
        return said
    if found := re.fullmatch(r"(\d+) ?ticks?", str(said)):
        return {"ticks": int(found[1])}
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)(?: ?s)?", str(said)):
        return {"seconds": float(found[1])}
    raise ValueError("should be a moment, such as `5 s` or `40 ticks`")


class Source(Value):
    """What a process reads: the terminal, the output of others, a text, a file; nothing if none is said."""

    tty: bool = False
    of: list[str] = []
    text: str | None = None
    file: str | None = None


def _source(said: object) -> object:
    match said:
        case None | "null":
            return {}
        case "tty":
            return {"tty": True}
        case str():
            return {"of": [said]}
        case list():
            return {"of": said}
    return said


def _listed(said: object) -> object:
    return [said] if isinstance(said, str) else said


def _capability(text: str) -> str:
    if not is_capability(text):
        raise ValueError("is no capability; there is think, spawn:PROGRAM, call:DEVICE.OP, send:PID, …")
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", text) or text in ("tty", "null"):
        raise ValueError("should be a name of letters, digits, _ and -, and neither tty nor null")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


def _range(said: object) -> object:
    return {"min": said, "max": said} if isinstance(said, int) and not isinstance(said, bool) else said


class Range(Value):
    """A number, or from where to where."""

    min: int = 0
    max: int | None = None

    def holds(self, number: int) -> bool:
        return self.min <= number and (self.max is None or number <= self.max)

    def __str__(self) -> str:
        if self.max is None:
            return f"{self.min} or more"
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max}"


At = Annotated[Moment, BeforeValidator(_moment)]
Texts = Annotated[list[str], BeforeValidator(_listed)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Number = Annotated[Range, BeforeValidator(_range)]
#: A name that is no word of this language.
Name = Annotated[str, AfterValidator(_name)]


class Actor(Value):
    """A process: what it runs, with what rights, and when it begins."""

    program: str = Field(min_length=1)
    args: list[Any] = []
    nice: int | None = Field(default=None, ge=-20, le=19)
    limits: Limits | None = None
    caps: list[Annotated[str, AfterValidator(_capability)]] | None = None
    stdin: Annotated[Source, BeforeValidator(_source)] = Field(default=Source(), alias="in")
    #: Where its output goes that no other process reads.
    out: Annotated[Literal["tty", "null"], BeforeValidator(lambda said: "null" if said is None else said)] = "tty"
    #: It begins when this process has ended.
    after: str | None = None
    at: At = Moment()


class Letter(Value):
    """A message to a process, as soon as that is there."""

    to: str
    body: Any = None
    tag: str = ""
    after: str | None = None
    at: At = Moment()


class Output(Value):
    """What has to be so of an output."""

    contains: Texts = []
    matches: Pattern | None = None
    lines: Number | None = None


class Expected(Value):
    """What has to be so of a process at its end. Its text is its value, as JSON if it is none, or why it failed."""

    reason: Literal["exit", "crashed", "killed"] = "exit"
    #: The value is this.
    value: Any = None
    #: The value has this in it: of a record all its fields, of a list all its items.
    has: Any = None
    contains: Texts = []
    matches: Pattern | None = None
    #: How many items or fields the value has.
    count: Number | None = None
    #: How many tokens it has used.
    tokens: Number | None = None
    output: Output | None = None


class Scenario(Value):
    """All of it. `devices` are mounts, by name: `DRIVER[:ARGUMENT][,OPTION]…`."""

    name: str = "scenario"
    about: str = ""
    devices: dict[str, str] = {}
    processes: dict[Name, Actor] = Field(min_length=1)
    messages: list[Letter] = []
    #: For whom to wait; for all, if it is not said. The others are ended then.
    wait: list[str] | None = Field(default=None, min_length=1)
    expect: dict[str, Expected] = {}

    @property
    def awaited(self) -> list[str]:
        return [*self.processes] if self.wait is None else self.wait


class Problem(NamedTuple):
    """What makes no sense, and where."""

    where: tuple[str | int, ...]
    what: str


def problems(plan: Scenario) -> Iterator[Problem]:
    """Find the names that mean nothing, and the circles."""
    yield from _strangers(plan)
    readers: dict[str, str] = {}
    for name, actor in plan.processes.items():
        place = ("processes", name)
        if actor.program.startswith(":"):
            yield Problem((*place, "program"), f"{actor.program} stands beside no program here; write PROGRAM:FUNCTION")
        if sum(map(bool, (actor.stdin.tty, actor.stdin.of, actor.stdin.text, actor.stdin.file))) > 1:
            yield Problem((*place, "in"), "a process reads from one place; say tty, other processes, text or file")
        for other in actor.stdin.of:
            if other in readers:
                yield Problem((*place, "in"), f"the output of {other} goes to {readers[other]} already")
            elif other in plan.processes and plan.processes[other].out == "null":
                yield Problem((*place, "in"), f"{other} has no output: its out is null")
            readers[other] = name
        if name in _chain(plan, name):
            yield Problem(
                (*place, "after"), f"{name} begins after itself: {' after '.join([name, *_chain(plan, name)])}"
            )


def _strangers(plan: Scenario) -> Iterator[Problem]:
    def unknown(name: str | None, *where: str | int) -> Iterator[Problem]:
        if name is not None and name not in plan.processes:
            yield Problem(where, f"there is no process {name}; there is {', '.join(plan.processes)}")

    for name, actor in plan.processes.items():
        yield from unknown(actor.after, "processes", name, "after")
        for other in actor.stdin.of:
            yield from unknown(other, "processes", name, "in")
    for index, letter in enumerate(plan.messages):
        yield from unknown(letter.to, "messages", index, "to")
        yield from unknown(letter.after, "messages", index, "after")
    for index, name in enumerate(plan.wait or ()):
        yield from unknown(name, "wait", index)
    for name in plan.expect:
        yield from unknown(name, "expect", name)
        if name in plan.processes and name not in plan.awaited:
            yield Problem(("expect", name), f"nobody waits for {name}; add it to `wait`")


def _chain(plan: Scenario, name: str) -> list[str]:
    """Give what has to end before a process begins, up to where it would repeat."""
    chain: list[str] = []
    after = plan.processes[name].after
    while after in plan.processes and after not in chain:
        chain.append(after)
        after = plan.processes[after].after
    return chain


# ---- what holds


def unlike(expected: Expected, status: ExitStatus) -> Iterator[str]:
    """Say what of an end is not as expected."""
    if status.reason != expected.reason:
        yield f"it has {_ended(status)}, and not {_ENDS[expected.reason]}"
        return
    value = status.value
    if "value" in expected.model_fields_set and value != expected.value:
        yield f"its value is {_shown(value)}, and not {_shown(expected.value)}"
    if "has" in expected.model_fields_set and not has(value, expected.has):
        yield f"its value is {_shown(value)}, and has not {_shown(expected.has)}"
    if expected.count:
        count = len(value) if isinstance(value, (list, dict, str)) else 0
        if not expected.count.holds(count):
            yield f"its value has {count} items, and not {expected.count}"
    text = status.detail if status.reason != "exit" else value if isinstance(value, str) else to_json(value)
    for line in unlike_text(text, expected.contains, expected.matches):
        yield f"its {'value' if status.reason == 'exit' else 'last word'} {line}"


def unlike_text(text: str, contains: list[str], matches: str | None) -> Iterator[str]:
    """Say what a text lacks."""
    for part in contains:
        if part not in text:
            yield f"does not contain {_shown(part)}: {_shown(text)}"
    if matches is not None and not re.search(matches, text, re.MULTILINE):
        yield f"does not match {_shown(matches)}: {_shown(text)}"


def unlike_output(expected: Output, text: str) -> Iterator[str]:
    """Say what an output lacks."""
    yield from unlike_text(text, expected.contains, expected.matches)
    lines = len(text.splitlines())
    if expected.lines and not expected.lines.holds(lines):
        yield f"has {lines} lines, and not {expected.lines}"


def has(value: Any, part: Any) -> bool:
    """Say whether a value has a part in it: all fields of a record, all items of a list, or it is equal."""
    match part:
        case dict():
            return isinstance(value, Mapping) and all(key in value and has(value[key], part[key]) for key in part)
        case list():
            return isinstance(value, list) and all(any(has(item, one) for item in value) for one in part)
    return bool(value == part)


_ENDS = {"exit": "exited", "crashed": "crashed", "killed": "been killed"}


def _ended(status: ExitStatus) -> str:
    return f"{_ENDS[status.reason]} ({status.detail})" if status.detail else _ENDS[status.reason]


def _shown(value: Any) -> str:
    return clip(to_json(value), 200)
