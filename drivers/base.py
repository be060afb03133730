"""How a driver is written: a small class whose ops are typed methods.

    class Dice(Driver):
        @op(effect="pure")
        def roll(self, sides: Annotated[int, Field(ge=2)] = 6) -> int:
            '''Roll a die.'''
            return secrets.randbelow(sides) + 1

The decorator reads the signature once: the type hints are the JSON schema that a model sees and the check that its
arguments pass, the first line of the docstring is the doc. An `async def` runs in the event loop. A `def` runs in a
worker thread, for it may block; `inline=True` says that it is too short to be worth one. A keyword-only parameter
named `key` takes the idempotency key, which is no argument of the op.

The effect class says what a second run after a crash would do: nothing (pure), nothing more (idempotent), or who knows
(unsafe). `timeout` and `cost` are what one call may take and takes; a mount may lower the one and set the other.

Invariant: no method sees an argument that its hints do not allow. What the caller did wrong is EINVAL or ENOENT, in
one line that says how to do it right; any other exception is the driver's own failure, and the edge makes it EIO.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, make_dataclass
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

from anyio import to_thread
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from tokix.kernel import ports
from tokix.syscalls import EINVAL, ENOENT, DeviceInfo, EffectClass, OpInfo
from tokix.syscalls.base import ANY, to_json

F = TypeVar("F", bound=Callable[..., Any])

#: The attribute of a method that holds its `Op`.
_MARK = "__tokix_op__"


@dataclass(frozen=True, slots=True)
class Op:
    """What the decorator found out about a method."""

    info: OpInfo
    arguments: TypeAdapter[Any]
    takes_key: bool
    runs: Literal["await", "inline", "thread"]

    def check(self, args: dict[str, Any]) -> dict[str, Any]:
        """Give the arguments as the method wants them; raises EINVAL."""
        try:
            # By way of JSON, because strict checks of Python values refuse what JSON cannot say: enums, paths, models.
            checked: object = self.arguments.validate_json(to_json(args))
        except ValidationError as error:
            raise EINVAL(f"{self.info.name}: {_complaint(error, args, self.info.parameters)}") from None
        except ValueError as error:  # of to_json: not JSON, or not Unicode
            raise EINVAL(f"{self.info.name}: {error}") from None
        return vars(checked)


def op(*, effect: EffectClass, timeout: float | None = None, cost: int = 0, inline: bool = False) -> Callable[[F], F]:
    """Make a method an op of its driver. Raises TypeError for a method without hints or docstring."""

    def mark(method: F) -> F:
        method.__dict__[_MARK] = _inspect(method, effect, timeout, cost, inline)
        return method

    return mark


class Driver(ports.Driver):
    """The base of drivers that are written as classes: it finds the ops, describes them and checks every call."""

    _ops: ClassVar[dict[str, Op]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        members = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        marks = ((name, getattr(value, _MARK, None)) for name, value in members.items())
        cls._ops = {name: found for name, found in marks if found is not None}

    def describe(self, name: str) -> DeviceInfo:
        """Describe the ops of the device, mounted under this name."""
        return DeviceInfo(name=name, ops=[found.info for found in self._ops.values()])

    async def invoke(self, op: str, args: dict[str, Any], key: str) -> Any:
        """Run an op and give a JSON value; raises ENOENT, EINVAL, and what the op raises."""
        found = self._ops.get(op)
        if found is None:
            raise ENOENT(f"no op {op}; there is {', '.join(self._ops) or 'none'}")
        checked = found.check(args) | ({"key": key} if found.takes_key else {})
        run = partial(getattr(self, op), **checked)
        match found.runs:
            case "await":
                value = await run()
            case "inline":
                value = run()
            case "thread":
                # Not abandoned on cancel: an effect that goes on after its caller was told that it is over is worse
                # than a cancel that waits. So a method that can block for long has to be `async`.
                value = await to_thread.run_sync(run)
        return ANY.dump_python(value, mode="json")


class _Schema(GenerateJsonSchema):
    """Without titles, which repeat the names and cost the model tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _inspect(method: Callable[..., Any], effect: EffectClass, timeout: float | None, cost: int, inline: bool) -> Op:
    doc = inspect.getdoc(method)
    if not doc:
        raise TypeError(f"{method.__qualname__}: the docstring of an op is what a model knows about it")
    name = method.__name__
    record = make_dataclass(name, _fields(method), kw_only=True, namespace={"__pydantic_config__": _STRICT})
    arguments: TypeAdapter[Any] = TypeAdapter(record)
    schema = arguments.json_schema(schema_generator=_Schema)
    del schema["title"]
    awaited = inspect.iscoroutinefunction(method)
    return Op(
        info=OpInfo(
            name=name, doc=doc.partition("\n")[0], effect=effect, parameters=schema, timeout=timeout, cost=cost
        ),
        arguments=arguments,
        takes_key=any(_is_key(parameter) for parameter in inspect.signature(method).parameters.values()),
        runs="await" if awaited else "inline" if inline else "thread",
    )


_STRICT = ConfigDict(extra="forbid", strict=True)


def _fields(method: Callable[..., Any]) -> Iterator[tuple[str, Any, Any]]:
    """Give the parameters as the fields of a dataclass, the one kind of record that has no names of its own."""
    hints = get_type_hints(method, include_extras=True)
    _, *parameters = inspect.signature(method).parameters.values()
    for parameter in parameters:
        if _is_key(parameter):
            continue
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not named or parameter.name not in hints:
            raise TypeError(f"{method.__qualname__}: parameter {parameter} needs a name and a type hint")
        default = MISSING if parameter.default is parameter.empty else parameter.default
        yield parameter.name, hints[parameter.name], field(default=default)


def _is_key(parameter: inspect.Parameter) -> bool:
    return parameter.name == "key" and parameter.kind is parameter.KEYWORD_ONLY


def _complaint(error: ValidationError, args: dict[str, Any], schema: dict[str, Any]) -> str:
    """Say which arguments are wrong, what they should be and what they are; of wrong names, which there are."""
    problems: list[Mapping[str, Any]] = [*error.errors(include_url=False)]
    named = [problem for problem in problems if problem["type"] in _NAMES]
    complaints = [_NAMES[problem["type"]].format(".".join(map(str, problem["loc"]))) for problem in named]
    complaints += _wrong_values(args, (problem for problem in problems if problem not in named))
    del complaints[5:]
    if any(len(problem["loc"]) == 1 for problem in named):
        required = schema.get("required", [])
        names = ", ".join(name if name in required else f"{name}?" for name in schema["properties"])
        complaints.append(f"the arguments are ({names})")
    return "; ".join(complaints)


#: The errors that are about the name of an argument, and what they say.
_NAMES = {"missing": "{} is missing", "unexpected_keyword_argument": "there is no {}"}
#: What pydantic calls an argument whose name it does not know.
_SUBJECT = re.compile(r"^\w+ (?=should )|^Value error, ")


def _wrong_values(args: dict[str, Any], problems: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    found: dict[str, tuple[str, list[str]]] = {}
    for problem in problems:
        name, value = _find(args, problem["loc"])
        found.setdefault(name, (_clip(to_json(value)), []))[1].append(_SUBJECT.sub("", problem["msg"]))
    for name, (value, messages) in found.items():
        first, *others = messages  # one for each kind of a union
        said = " or ".join([first, *(text.removeprefix("should be ") for text in others)])
        yield f"{name} {said}, not {value}"


def _find(args: Any, place: Iterable[str | int]) -> tuple[str, Any]:
    """Give the name and the value of what is wrong. In the place of a union there is a kind after its name."""
    names: list[str] = []
    for part in place:
        try:
            args = args[part]
        except (LookupError, TypeError):
            break
        names.append(str(part))
    return ".".join(names), args


def _clip(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
