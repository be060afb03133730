"""How a program says what it is: which capabilities it wants, and which arguments it takes.

    @program(caps=["think", "call:calc.*"])
    async def main(question: str, *, rounds: Annotated[int, Field(ge=1)] = 6) -> str:
        '''Answer a question with the help of a calculator.'''

What it wants is the most that it gets. A `Spawn` that names no `caps` gives the child what is both wanted by the
program and held by the parent; one that names them gives those. So wanting is no claim: a parent that lacks a
capability has no child with it, and a parent that knows better says so. `spawn::NAME` is a program beside this one,
`spawn::*` any of them.

Arguments are words, as on a command line: those of named parameters in their order, `--NAME VALUE` for each parameter
that is keyword-only, `--` before words that only look like options. They are checked against the hints when the program
is spawned (EINVAL says what is wrong, and how it is used); what is no text is turned into it where text is wanted, for
a person who asks 42 asks a question too. A word that is a `FileName` or a `ProgramName` is made absolute where a
person types it: a kernel is in no folder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, make_dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from tokix.syscalls.base import to_json
from tokix.syscalls.errors import EINVAL
from tokix.syscalls.rights import is_capability

R = TypeVar("R")

#: Words that mean something only in a folder, or without one if they are absolute.
FileName = Annotated[str, "tokix file"]
ProgramName = Annotated[str, "tokix program"]
_NAMES = (FileName, ProgramName)

#: The attribute of a function that holds its `Declaration`.
_MARK = "__tokix_program__"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a program says about itself."""

    #: The capabilities that it wants; None is all that its parent has.
    caps: tuple[str, ...] | None
    #: What it does, in one line.
    doc: str
    parameters: tuple[inspect.Parameter, ...]
    arguments: TypeAdapter[Any]
    #: Which of its first words are names of files, and which of programs.
    files: frozenset[int]
    programs: frozenset[int]

    def usage(self, name: str) -> str:
        """Say how it is called, such as `react QUESTION [--rounds N]`."""
        return " ".join([name, *map(_shown, self.parameters)])

    def wants(self, name: str) -> tuple[str, ...] | None:
        """Give the capabilities that it wants under its name."""
        place = name.partition(":")[0]
        if self.caps is None:
            return None
        return tuple(f"spawn:{place}{cap[6:]}" if cap.startswith("spawn::") else cap for cap in self.caps)

    def bind(self, args: Sequence[Any], name: str = "") -> tuple[list[Any], dict[str, Any]]:
        """Give the positional and the named arguments of the function; raises EINVAL."""
        try:
            found = vars(self.arguments.validate_python(self._sorted(args)))
        except ValidationError as error:
            problem = "; ".join(_wrong(item) for item in error.errors(include_url=False)[:3])
        except ValueError as error:
            problem = str(error)
        else:
            words, options = list[Any](), dict[str, Any]()
            for parameter in self.parameters:
                match parameter.kind:
                    case parameter.KEYWORD_ONLY:
                        options[parameter.name] = found[parameter.name]
                    case parameter.VAR_POSITIONAL:
                        words += found[parameter.name]
                    case _:
                        words.append(found[parameter.name])
            return words, options
        raise EINVAL(f"{name}: {problem}; usage: {self.usage(name)}" if name else problem)

    def _sorted(self, args: Sequence[Any]) -> dict[str, Any]:
        """Tell options from words, and words from each other, by name; raises ValueError."""
        options = {p.name for p in self.parameters if p.kind is p.KEYWORD_ONLY}
        named: dict[str, Any] = {}
        words: list[Any] = []
        rest = [*args]
        while rest:
            word = rest.pop(0)
            if not options or not isinstance(word, str) or not word.startswith("--"):
                words.append(word)
            elif word == "--":
                words += rest
                break
            else:
                name, equals, value = word.removeprefix("--").partition("=")
                if name.replace("-", "_") not in options:
                    raise ValueError(f"there is no option {word}")
                if not equals and not rest:
                    raise ValueError(f"the option {word} needs a value")
                named[name.replace("-", "_")] = value if equals else rest.pop(0)
        for parameter in self.parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                named[parameter.name], words = words, []
            elif parameter.kind is not parameter.KEYWORD_ONLY and words:
                named[parameter.name] = words.pop(0)
        if words:
            raise ValueError(f"there are arguments too many: {_clip(to_json(words))}")
        return named


def program(
    *, caps: Iterable[str] | None = None, doc: str = ""
) -> Callable[[Callable[..., Coroutine[Any, Any, R]]], Callable[..., Coroutine[Any, Any, R]]]:
    """Make an async function a program that says what it wants; `doc` is the first line of its docstring else.

    Raises ValueError for what is no capability, TypeError for what is no async function, and for a `**` parameter.
    """
    wanted = None if caps is None else tuple(caps)
    for cap in wanted or ():
        if not is_capability(cap):
            raise ValueError(f"{cap!r} is no capability")

    def declare(function: Callable[..., Coroutine[Any, Any, R]]) -> Callable[..., Coroutine[Any, Any, R]]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__} is no async function")
        said = _declaration(function, wanted, doc)

        @wraps(function)
        def begin(*args: Any) -> Coroutine[Any, Any, R]:
            words, options = said.bind(args)
            return function(*words, **options)

        begin.__dict__[_MARK] = said
        return begin

    return declare


def declaration(function: object) -> Declaration | None:
    """Give what a program says about itself, if it does."""
    return getattr(function, _MARK, None)


def _declaration(function: Callable[..., Any], caps: tuple[str, ...] | None, doc: str) -> Declaration:
    hints = get_type_hints(function, include_extras=True)
    parameters = tuple(inspect.signature(function).parameters.values())
    fields: list[tuple[str, Any, Any]] = []
    for parameter in parameters:
        hint = _with_text(hints.get(parameter.name, Any))
        default = MISSING if parameter.default is parameter.empty else parameter.default
        match parameter.kind:
            case parameter.VAR_KEYWORD:
                raise TypeError(f"{function.__qualname__}: an option needs a name; **{parameter.name} has none")
            case parameter.VAR_POSITIONAL:
                hint = list[hint]  # type: ignore[valid-type]
        fields.append((parameter.name, hint, field(default=default, kw_only=True)))
    record = make_dataclass(function.__name__, fields, namespace={"__pydantic_config__": ConfigDict(extra="forbid")})
    said = doc or (inspect.getdoc(function) or "").partition("\n")[0]
    words = [hints.get(p.name) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    files, programs = (frozenset(at for at, hint in enumerate(words) if hint == kind) for kind in _NAMES)
    return Declaration(caps, said, parameters, TypeAdapter(record), files, programs)


def _with_text(hint: Any) -> Any:
    """Let a hint that wants text take any JSON value."""
    plain = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    return Annotated[hint, BeforeValidator(_text)] if plain is str else hint


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value)


def _shown(parameter: inspect.Parameter) -> str:
    name = parameter.name.upper()
    match parameter.kind:
        case parameter.VAR_POSITIONAL:
            return f"[{name}…]"
        case parameter.KEYWORD_ONLY:
            name = f"--{parameter.name.replace('_', '-')} {name}"
    return name if parameter.default is parameter.empty else f"[{name}]"


def _wrong(problem: Any) -> str:
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{name.upper()} is missing"
    message = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{name} {message}, not {_clip(to_json(problem['input']))}"


def _clip(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
