r"""Scenario files: YAML that says what `tokix.agents.scenario` is to play, checked before anything begins.

    name: labels
    processes:
      lines: {program: echo, in: {text: "all is well\n"}}
      labels: {program: watch, args: [error, fine], in: lines}
    expect:
      labels: {output: {lines: 1}}

All that is wrong is found at once, and has the line where it stands. What the file names is relative to the file, and
absolute in the scenario: a process means the same to the next kernel. Of YAML there is what JSON has, comments and
aliases: plain words are texts, but for null, true, false and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from tokix.agents.script import Actor, Expected, Letter, Output, Problem, Scenario, Source, problems
from tokix.mounts import Constructor, Mount, MountError, find
from tokix.programs import ProgramError, absolute, require, settled
from tokix.state import TRUTH
from tokix.storage import glance
from tokix.syscalls import EINVAL, Limits, Spawn
from tokix.syscalls.base import from_json, to_json

Where = tuple[str | int, ...]

SUFFIXES = (".yaml", ".yml")
#: Characters of a file, and values in it, aliases counted each time.
MAX_SIZE, MAX_VALUES = 1 << 20, 20_000


class ScenarioError(Exception):
    """A scenario makes no sense; a line for each problem, as `FILE:LINE: WHERE: WHAT`."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


# ---- what others use


def shipped() -> list[str]:
    """List the scenarios that come with tokix."""
    names = (place.name for place in files("tokix.agents").joinpath("scenarios").iterdir())
    return sorted(name for name in names if name.endswith(SUFFIXES))


def locate(word: str) -> Path:
    """Give the path of a file, or of a scenario that comes with tokix."""
    if not Path(word).exists() and word in shipped():
        return Path(str(files("tokix.agents").joinpath("scenarios", word)))
    return Path(word)


def load(path: Path) -> Scenario:
    """Read a scenario; raises ScenarioError with all that is wrong."""
    return Reader(path).scenario()


def spawn(plan: Scenario) -> Spawn:
    """Give the call that plays a scenario."""
    return Spawn(program="scenario", args=[plan.model_dump(mode="json", by_alias=True, exclude_unset=True)])


def mounts(plan: Scenario) -> list[Mount]:
    """Give the devices that a scenario needs."""
    return [Mount.read(f"{name}={text}") for name, text in plan.devices.items()]


def unfinished(state: Path, key: str | None = None) -> list[Mount]:
    """Give the devices that the scenarios need which go on in a state directory."""
    programs = glance.unfinished(state / TRUTH, key).programs
    plans = [Scenario.model_validate(from_json(args)[0]) for name, args in programs if name == "scenario"]
    return [*{mount.name: mount for plan in plans for mount in mounts(plan)}.values()]


# ---- a file


class Reader:
    """One file on its way to a scenario."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.absolute().parent
        #: The line of everything in the file, by where it stands.
        self.lines: dict[Where, int] = {(): 1}
        #: What is wrong, by line.
        self.problems: list[tuple[int, Problem]] = []
        self.values = 0

    def scenario(self) -> Scenario:
        """Give what the file says; raises ScenarioError."""
        document = self.document()
        try:
            plan = Scenario.model_validate(document)
        except ValidationError as error:
            self.note(_explained(error))
            self.end()
            raise AssertionError("a problem was lost") from error
        self.note(problems(plan))
        plan = plan.model_copy(
            update={
                "processes": {name: self.actor(name, actor) for name, actor in plan.processes.items()},
                "devices": {name: self.device(name, text) for name, text in plan.devices.items()},
            }
        )
        self.end()
        return plan

    def end(self) -> None:
        """Raise ScenarioError if there are problems."""
        if self.problems:
            found = sorted(self.problems, key=lambda pair: pair[0])
            raise ScenarioError([f"{self.path}:{line}: {_place(where)}{what}" for line, (where, what) in found])

    def line(self, where: Where) -> int:
        while where not in self.lines:
            where = where[:-1]
        return self.lines[where]

    def wrong(self, where: Where, what: str, line: int = 0) -> None:
        self.problems.append((line or self.line(where), Problem(where, what)))

    def note(self, found: Iterable[Problem]) -> None:
        for problem in found:
            self.wrong(*problem)

    # ---- what it names

    def actor(self, name: str, actor: Actor) -> Actor:
        """Make a process that means the same in every folder."""
        place, args = ("processes", name), actor.args
        program = absolute(actor.program, self.folder)
        try:
            args = settled(program, actor.args, self.folder)
            self.check(place, program, args)
        except ProgramError as error:
            self.wrong((*place, "program"), str(error))
        stdin = actor.stdin
        if stdin.file is not None:
            stdin = Source(text=self.text((*place, "in", "file"), self.folder / stdin.file))
        return actor.model_copy(update={"program": program, "args": args, "stdin": stdin})

    def check(self, place: Where, program: str, args: list[Any]) -> None:
        """Look whether a program takes arguments; raises ProgramError if there is none."""
        try:
            require(program, args)
        except EINVAL as error:
            self.wrong((*place, "args"), error.detail)

    def device(self, name: str, text: str) -> str:
        """Make a mount that means the same in every folder."""
        try:
            return self.mount(f"{name}={text}").partition("=")[2]
        except MountError as error:
            self.wrong(("devices", name), str(error))
        return text

    def mount(self, text: str) -> str:
        read = Mount.read(text)
        file, _, function = read.driver.rpartition(":")
        driver = f"{self.folder / file}:{function}" if file.endswith(".py") else read.driver
        constructor = Constructor(find(driver))
        argument = read.argument
        if argument and constructor.argument and constructor.hint(constructor.argument) is Path:
            argument = str((self.folder / Path(argument).expanduser()).resolve()).replace(",", "\\,")
        _, *options = re.split(r"(?<!\\),", text)
        return ",".join([f"{read.name}={driver}{f':{argument}' if argument else ''}", *options])

    def text(self, where: Where, path: Path) -> str:
        try:
            return path.read_text("utf-8")
        except OSError as error:
            what = f"{error.strerror}"
        except UnicodeDecodeError as error:
            what = f"byte {error.start} is not UTF-8"
        if not where:
            raise ScenarioError([f"{path}: {what}"])
        self.wrong(where, f"{path}: {what}")
        return ""

    # ---- YAML

    def document(self) -> Any:
        """Give the value of the file; raises ScenarioError if it cannot be read at all."""
        text = self.text((), self.path)
        if len(text) > MAX_SIZE:
            self.wrong((), f"the file has {len(text)} characters; {MAX_SIZE} can be read")
        self.end()
        found: Any = None
        try:
            node = YAML(typ="base", pure=True).compose(text.removeprefix("\ufeff"))
            found = self.value(node, (), set()) if node else {}
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(filter(None, (error.context, error.problem)))
            self.wrong((), f"this is not YAML: {what}", mark.line + 1 if mark else 1)
            self.end()
        except YAMLError as error:
            self.wrong((), f"this is not YAML: {' '.join(str(error).split())}")
            self.end()
        except RecursionError:
            self.wrong((), "it is nested too deep")
            self.end()
        return found

    def value(self, node: Node, where: Where, around: set[int]) -> Any:
        """Give the JSON value of a node, and note its line."""
        self.lines.setdefault(where, node.start_mark.line + 1)
        self.values += 1
        if id(node) in around or self.values > MAX_VALUES:
            if self.values <= MAX_VALUES + 1:
                self.wrong(
                    where, "it holds itself" if id(node) in around else f"there are more than {MAX_VALUES} values"
                )
            return None
        if node.tag not in _TAGS:
            self.wrong(where, f"{node.tag} is no tag that is understood")
        match node:
            case MappingNode():
                return self.record(node, where, around | {id(node)})
            case SequenceNode():
                inside = around | {id(node)}
                return [self.value(item, (*where, index), inside) for index, item in enumerate(node.value)]
            case ScalarNode():
                return self.scalar(node, where)
        raise AssertionError(f"YAML has no {node}")

    def record(self, node: MappingNode, where: Where, around: set[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self.wrong(where, "a name has to be a word")
                continue
            place = (*where, key.value)
            if key.value in found:
                self.wrong(place, f"is there already in line {self.lines[place]}", key.start_mark.line + 1)
                continue
            self.lines[place] = key.start_mark.line + 1
            found[key.value] = self.value(value, place, around)
        return found

    def scalar(self, node: ScalarNode, where: Where) -> Any:
        text: str = node.value
        try:
            text.encode()
        except UnicodeEncodeError:
            self.wrong(where, f"{text!a} is no text: half a character")
        return text if node.style else plain(text)


#: Those that YAML finds by itself; what a word means is decided in `plain`.
_TAGS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "null", "bool", "int", "float", "timestamp", "merge", "value")
}
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?\d{1,300}")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")


def plain(text: str) -> Any:
    """Give what a word without quotation marks means: the core schema of YAML 1.2, as far as it is JSON."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and isfinite(number := float(text)):
        return number
    return text


def _place(where: Where) -> str:
    return f"{'.'.join(map(str, where))}: " if where else ""


# ---- what pydantic says, for people


def _explained(error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False):
        where = tuple(part for part in item["loc"] if part != "[key]")
        yield Problem(where, _explanation(item, where))


def _explanation(item: Any, where: Where) -> str:
    match item["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return f"there is no such field; there is {', '.join(_fields(where[:-1]))}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"should be fields, such as {', '.join(_fields(where)[:3]) or 'NAME: …'}, not {_clip(item['input'])}"
    message = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{message}, not {_clip(item['input'])}"


def _fields(where: Where) -> list[str]:
    """Name the fields that there are at a place of a scenario."""
    match where:
        case ():
            model: type[BaseModel] = Scenario
        case ("processes", _):
            model = Actor
        case ("processes", _, "in"):
            model = Source
        case ("processes", _, "limits"):
            model = Limits
        case ("messages", _):
            model = Letter
        case ("expect", _):
            model = Expected
        case ("expect", _, "output"):
            model = Output
        case _:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _clip(value: object) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else text[:60] + "…"
