"""Finds programs by name: PLACE[:FUNCTION], where FUNCTION is an async function, `main` if it is not said.

    echo                   comes with tokix: a module of tokix.agents
    crawler                an entry point of the group `tokix.programs`
    package.module         any module that Python can import
    /path/to/program.py    any file; the modules beside it can be imported

The invariant is that a name means the same to the next kernel, for a process is its program and its log. So what a
person types relative to the current folder is made `absolute` before it becomes the name of a process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from inspect import iscoroutinefunction, signature
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from tokix.syscalls import EINVAL
from tokix.syscalls.program import declaration

if TYPE_CHECKING:
    from tokix.kernel.ports import Program

GROUP = "tokix.programs"
_AGENTS = "tokix.agents"


class ProgramError(Exception):
    """There is no such program; says why in one line."""


class Resolver:
    """The `Programs` of a kernel. A program is imported when it is first wanted, and stays what it was then."""

    def __init__(
        self,
        own: Mapping[str, Program] = MappingProxyType({}),
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`own` programs go before all others; `report` is told why a program cannot be had."""
        self._found: dict[str, Program] = dict(own)
        self._refused: dict[str, str] = {}
        self._report = report

    def get(self, name: str) -> Program | None:
        """Give a program, or None, with a report of the reason the first time."""
        try:
            return self.find(name)
        except ProgramError as error:
            if self._refused.get(name) != str(error):
                self._refused[name] = str(error)
                self._report(str(error))
            return None

    def find(self, name: str) -> Program:
        """Give a program; raises ProgramError."""
        if name not in self._found:
            self._found[name] = _load(name)
        return self._found[name]


def require(name: str, args: Sequence[Any]) -> None:
    """Raise ProgramError if there is no program of this name, and EINVAL if it does not take the arguments."""
    program = Resolver().find(name)
    if said := declaration(program):
        said.bind(args, name)
        return
    try:
        signature(program).bind(*args)
    except TypeError as error:
        raise EINVAL(f"{name}: {error}") from None


def absolute(name: str, folder: Path = Path()) -> str:
    """Make a name that means the same in every folder of one that is meant in this."""
    place, function = _split(name)
    if not _is_file(place):
        return name
    return f"{(folder / Path(place).expanduser()).resolve()}{function and ':'}{function}"


def settled(name: str, args: Sequence[Any], folder: Path = Path()) -> list[Any]:
    """Make arguments that mean the same in every folder of those that are meant in this; raises ProgramError."""
    said = declaration(Resolver().find(name))
    words = [*args]
    for at, word in enumerate(words):
        if said and at in said.files and isinstance(word, str):
            words[at] = os.path.normpath((folder / Path(word).expanduser()).absolute())
        if said and at in said.programs and isinstance(word, str):
            words[at] = absolute(word, folder)
    return words


def shipped() -> list[str]:
    """List the programs that come with tokix: the modules of its agents that have a `main`."""
    names = (module.name for module in iter_modules(import_module(_AGENTS).__path__))
    return [name for name in names if hasattr(import_module(f"{_AGENTS}.{name}"), "main")]


def described(name: str) -> str:
    """Say in one line how a program is called and what it does; raises ProgramError."""
    found = Resolver().find(name)
    if said := declaration(found):
        return f"{said.usage(name)}: {said.doc}"
    docs = (getattr(sys.modules.get(found.__module__), "__doc__", None), found.__doc__)
    return next((doc.strip().partition("\n")[0] for doc in docs if doc), name)


def _split(name: str) -> tuple[str, str]:
    place, _, function = name.rpartition(":")
    return (place, function) if place and function.isidentifier() else (name, "")


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place


def _load(name: str) -> Program:
    place, function = _split(name)
    if _is_file(place):
        return _function(_file(Path(place)), function or "main", name)
    if place.isidentifier() and find_spec(f"{_AGENTS}.{place}"):
        return _function(_module(f"{_AGENTS}.{place}"), function or "main", name)
    if not function and (points := entry_points(group=GROUP, name=name)):
        return _async(_imported(name, next(iter(points)).load), name)
    return _function(_module(place), function or "main", name)


def _file(path: Path) -> ModuleType:
    if not path.is_absolute():
        raise ProgramError(f"no program {path}: the name of a file has to be absolute")
    module = f"tokix program {path}"
    if module in sys.modules:
        return sys.modules[module]
    spec = spec_from_file_location(module, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ProgramError(f"no program {path}: there is no such Python file")
    made = sys.modules[module] = module_from_spec(spec)  # dataclasses look their module up there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the last, so that no file there can hide another module
    try:
        _imported(str(path), lambda: cast(Any, spec.loader).exec_module(made))
    except ProgramError:
        del sys.modules[module]
        raise
    return made


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ProgramError(f"no program {name!r}: that is neither a file nor a module")
    try:
        return cast(ModuleType, _imported(name, lambda: import_module(name)))
    except ProgramError as error:
        missing = getattr(error.__cause__, "name", None)
        if isinstance(error.__cause__, ModuleNotFoundError) and (missing == name or name.startswith(f"{missing}.")):
            known = ", ".join(shipped())
            raise ProgramError(f"no program {name}: there is no such module; tokix brings {known}") from None
        raise


def _imported(name: str, load: Callable[[], Any]) -> Any:
    """Run somebody else's module; what it raises is its own mistake."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ProgramError(f"cannot import {name}: {type(error).__name__}: {reason}") from error


def _function(module: ModuleType, function: str, name: str) -> Program:
    if not hasattr(module, function):
        raise ProgramError(f"no program {name}: {module.__file__} has no function {function}")
    return _async(getattr(module, function), name)


def _async(found: Any, name: str) -> Program:
    if not (iscoroutinefunction(found) or declaration(found)):
        raise ProgramError(f"no program {name}: {getattr(found, '__qualname__', repr(found))} is not an async function")
    return cast("Program", found)
