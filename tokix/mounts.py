r"""Mounts: which driver stands behind which device, and what it may do there.

    NAME=DRIVER[:ARGUMENT][,OPTION]...

    files=files:./data                      the files below a folder, to read; `,write` to change them too
    db=sqlite:./sales.db,seconds=2          a database, with an option of its driver
    calc                                    a driver's name is a name for a device, too
    dice=./dice.py:Dice:20                  a class in a file, with an argument
    web=crawler,ops=get|head,timeout=10,cost=5

A driver is one that comes with tokix, an entry point of the group `tokix.drivers`, or a class in a file. What can be
said is the signature of its constructor: the first parameter that can be given by position is ARGUMENT, all others are
options, and their hints are the check. A parameter that is hinted `Person` gets the person at the terminal.

Three options mean the same for every driver: `ops` leaves only these visible, `timeout` is the most seconds that a call
may take, `cost` is what each call costs. A comma that belongs to a value is written `\,`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from tokix.drivers import Calc, Clock, Files, Person, Sqlite, Tty
from tokix.kernel import ports
from tokix.syscalls import ENOENT, DeviceInfo, OpInfo, SyscallError

GROUP = "tokix.drivers"
#: The drivers that come with tokix.
SHIPPED: dict[str, Callable[..., ports.Driver]] = {
    "calc": Calc,
    "clock": Clock,
    "files": Files,
    "sqlite": Sqlite,
    "tty": Tty,
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_HEAD = re.compile(r"(?:(?P<name>[^=:/.]*)=)?(?P<driver>[^:]*\.py:[^:]+|[^:]*)(?::(?P<argument>.*))?", re.DOTALL)


class MountError(Exception):
    """A mount that makes no sense; says what to write, in one line."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A device that is to be: a driver, what its constructor gets, and what every caller of it is held to."""

    name: str
    driver: str
    argument: str | None = None
    #: By the names of the driver's own options; a flag is "true".
    options: Mapping[str, str] = field(default_factory=dict)
    #: The ops that are visible; None is all.
    ops: tuple[str, ...] | None = None
    #: The most seconds that a call may take; None leaves it to the driver.
    timeout: float | None = None
    #: What a call costs; None leaves it to the driver.
    cost: int | None = None

    @classmethod
    def read(cls, text: str) -> Mount:
        """Read `NAME=DRIVER[:ARGUMENT][,OPTION]...`; raises MountError."""
        first, *words = (part.replace("\\,", ",") for part in re.split(r"(?<!\\),", text))
        head = _HEAD.fullmatch(first)
        assert head  # it matches every text
        driver = head["driver"]
        name = driver if head["name"] is None else head["name"]
        if not _NAME.fullmatch(name):
            raise MountError(f"a device needs a name of letters, digits, _ and -: write NAME={driver or 'DRIVER'}")
        options = dict(_options(words))
        return cls(
            name,
            driver,
            head["argument"],
            ops=tuple(options.pop("ops").split("|")) if "ops" in options else None,
            timeout=_value("timeout", options.pop("timeout", None), _TIMEOUT),
            cost=_value("cost", options.pop("cost", None), _COST),
            options=options,
        )

    def open(self, person: Person | None = None) -> ports.Driver:
        """Make the driver; raises MountError."""
        make = find(self.driver)
        arguments = dict(self._arguments(Constructor(make), person))
        with self._explained():
            driver = make(**arguments)
            if not (hasattr(driver, "describe") and hasattr(driver, "invoke")):
                raise ValueError(
                    f"{self.driver} is no driver: it has no describe and invoke, as tokix.drivers.Driver has"
                )
            there = [op.name for op in driver.describe(self.name).ops]
            if missing := [op for op in self.ops or () if op not in there]:
                raise ValueError(f"{self.driver} has no op {missing[0]!r}; there is {', '.join(there) or 'none'}")
        if self.ops is None and self.timeout is None and self.cost is None:
            return driver
        return Constrained(driver, self.ops, self.timeout, self.cost)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Make a MountError of whatever a driver raises while it is made."""
        try:
            yield
        except OSError as error:
            raise MountError(f"{self.name}: {error.filename or self.driver}: {error.strerror or error}") from error
        except (ValueError, SyscallError) as error:
            raise MountError(f"{self.name}: {_line(error)}") from error
        except Exception as error:  # somebody else's code
            raise MountError(f"{self.name}: {self.driver} failed: {type(error).__name__}: {_line(error)}") from error

    def _arguments(self, constructor: Constructor, person: Person | None) -> Iterator[tuple[str, Any]]:
        """Give the arguments of the constructor by name; raises MountError."""
        argument = constructor.argument
        if self.argument and not argument:
            raise MountError(f"{self.driver} takes no argument: write {self.name}={self.driver}")
        if argument and self.argument:
            yield argument.name, _value(argument.name, self.argument, constructor.hint(argument))
        elif argument and argument.default is argument.empty:
            what = f"{self.name}={self.driver}:{argument.name.upper()}"
            raise MountError(f"{self.driver} needs a {argument.name}: write {what}")
        for name, value in self.options.items():
            if name not in constructor.options:
                known = ", ".join([*constructor.options, "ops", "timeout", "cost"])
                raise MountError(f"{self.driver} has no option {name!r}; there is {known}")
            yield name, _value(name, value, constructor.hint(constructor.options[name]))
        for name, option in constructor.options.items():
            if option.default is option.empty and name not in self.options:
                raise MountError(f"{self.driver} needs the option {name}: write {name}=VALUE after a comma")
        for name in constructor.persons:
            if person is None:
                raise MountError(f"{self.driver} needs somebody at a terminal, and here is none")
            yield name, person


class Constrained(ports.Driver):
    """A driver with less than it could do: fewer ops, less time, another price."""

    def __init__(
        self,
        driver: ports.Driver,
        ops: Iterable[str] | None = None,
        timeout: float | None = None,
        cost: int | None = None,
    ) -> None:
        self._driver, self._timeout, self._cost = driver, timeout, cost
        self._ops = None if ops is None else frozenset(ops)

    def describe(self, name: str) -> DeviceInfo:
        """Describe what is left; the kernel holds callers to it."""
        device = self._driver.describe(name)
        ops = [self._bounded(op) for op in device.ops if self._ops is None or op.name in self._ops]
        return device.model_copy(update={"ops": ops})

    async def invoke(self, op: str, args: dict[str, Any], key: str) -> Any:
        """Run an op of those that are left."""
        if self._ops is not None and op not in self._ops:
            raise ENOENT(f"no op {op}; there is {', '.join(sorted(self._ops))}")
        return await self._driver.invoke(op, args, key)

    def _bounded(self, op: OpInfo) -> OpInfo:
        times = [seconds for seconds in (op.timeout, self._timeout) if seconds is not None]
        cost = op.cost if self._cost is None else self._cost
        return op.model_copy(update={"timeout": min(times, default=None), "cost": cost})


class Constructor:
    """What can be said about a driver: the signature of what makes it."""

    def __init__(self, make: Callable[..., ports.Driver]) -> None:
        parameters = inspect.signature(make).parameters.values()
        function: Any = make
        self._hints = get_type_hints(function.__init__ if isinstance(make, type) else function, include_extras=True)
        self.persons = [p.name for p in parameters if self._hints.get(p.name) is Person]
        said = [p for p in parameters if p.name not in self.persons]
        self.argument = next((p for p in said if p.kind is p.POSITIONAL_OR_KEYWORD), None)
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self.options = {p.name: p for p in said if p.kind in named and p is not self.argument}

    def hint(self, parameter: inspect.Parameter) -> Any:
        """Give the type of a parameter; text, if it is not said."""
        return self._hints.get(parameter.name, str)


def parse(text: str, person: Person | None = None) -> tuple[str, ports.Driver]:
    """Make the driver that a specification describes, and give it with the name of its device; raises MountError."""
    mount = Mount.read(text)
    return mount.name, mount.open(person)


def mounted(mounts: Iterable[Mount], person: Person | None = None) -> dict[str, ports.Driver]:
    """Make the drivers of many mounts, by the names of their devices; raises MountError."""
    devices: dict[str, ports.Driver] = {}
    for mount in mounts:
        if mount.name in devices:
            raise MountError(f"there are two mounts named {mount.name}: write another name before the =")
        devices[mount.name] = mount.open(person)
    return devices


# ---- options


_TIMEOUT = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_COST = Annotated[int, Field(ge=0)]


def _options(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    seen = set()
    for word in words:
        name, equals, value = word.strip().partition("=")
        if name in seen:
            raise MountError(f"the option {name} is there twice")
        if not name.isidentifier() or (equals and not value):
            raise MountError(f"{word!r} is no option: write NAME, or NAME=VALUE; a comma in a value is written \\,")
        seen.add(name)
        yield name, value if equals else "true"


def _value(name: str, text: str | None, hint: Any) -> Any:
    """Read a value as a hint says; a list has | between its items."""
    if text is None:
        return None
    several = get_origin(hint) in (list, tuple, set, frozenset)
    try:
        value = TypeAdapter(hint).validate_python(text.split("|") if several else text)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Input ")
        raise MountError(f"{name} {message}, not {text!r}") from None
    return value.expanduser() if isinstance(value, Path) else value


# ---- drivers by name


def find(name: str) -> Callable[..., ports.Driver]:
    """Find a driver: `calc`, an entry point, or `path/to/file.py:Class`; raises MountError."""
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file).expanduser().absolute(), function)
    if name.endswith(".py"):
        raise MountError(f"which class is the driver? write {name}:CLASS")
    if name in SHIPPED:
        return SHIPPED[name]
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join([*SHIPPED, *sorted(points)])
        raise MountError(f"no driver {name!r}; there is {known}, and file.py:CLASS")
    return _callable(name, _imported(name, points[name].load))


def _from_file(path: Path, function: str) -> Callable[..., ports.Driver]:
    module = f"tokix driver {path}"
    if module not in sys.modules:
        spec = spec_from_file_location(module, path) if path.is_file() else None
        if spec is None or spec.loader is None:
            raise MountError(f"there is no file {path}")
        made = sys.modules[module] = module_from_spec(spec)  # dataclasses look their module up there
        try:
            _imported(str(path), partial(spec.loader.exec_module, made))
        except MountError:
            del sys.modules[module]
            raise
    found = getattr(sys.modules[module], function, None)
    if found is None:
        raise MountError(f"{path} has no class {function}")
    return _callable(f"{path}:{function}", found)


def _imported(name: str, load: Callable[[], Any]) -> Any:
    """Run somebody else's module; what it raises is its own mistake."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise MountError(f"cannot import {name}: {type(error).__name__}: {_line(error)}") from error


def _callable(name: str, found: Any) -> Callable[..., ports.Driver]:
    if not callable(found):
        raise MountError(f"{name} is no class, and makes no driver")
    make: Callable[..., ports.Driver] = found
    return make


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
