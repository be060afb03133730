"""Who may import whom: the picture of `docs/design.md` as a table, held against every import in the repository.

An import counts wherever it stands: inside a function, under TYPE_CHECKING, or as a string given to `import_module`.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
#: The folder of every package, by its import name.
FOLDERS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]

#: The part of the standard library that does no I/O, reads no clock, has no threads and throws no dice.
PURE = frozenset(
    {"__future__", "abc", "bisect", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "hashlib"}
    | {"heapq", "inspect", "itertools", "json", "math", "operator", "re", "string", "struct", "textwrap", "types"}
    | {"typing", "weakref", "zlib"}
    # Of these modules only what is named: the rest of them opens files, or is the state of the interpreter.
    | {"codecs.getincrementaldecoder", "sys.maxsize", "traceback.walk_tb"}
)


class Layer(NamedTuple):
    """What a package may import: of tokix, of others, and of the standard library (None is all of it)."""

    tokix: tuple[str, ...]
    others: frozenset[str] = frozenset()
    standard: frozenset[str] | None = None


_EDGE = ("tokix", "tokix.syscalls", "tokix.kernel", "tokix.drivers", "tokix.storage", "tokix.agents", "tokix.shell")
_ALL = (
    *_EDGE,
    "tokix.kernel.arch",
    "tokix.kernel.arch.hf",
    "tokix.archive",
    "tokix.shelf",
    "tokix.index",
    "tokix.contexts",
    "tokix.boot",
    "tokix.sim",
)
_GRAMMARS = frozenset({"llguidance", "numpy"})
_MODELS = frozenset(
    {"gguf", "huggingface_hub", "pydantic", "safetensors", "tokenizers", "torch", "tqdm", "transformers"}
)
_ANYTHING = frozenset({"anyio", "pydantic", "pydantic_core", "rich", "ruamel", "sqlalchemy"})

#: By prefix; the longest that fits a module is its layer. Naming a package does not open the layers below it.
LAYERS: dict[str, Layer] = {
    "tokix.syscalls": Layer(("tokix.syscalls",), frozenset({"pydantic"})),
    "tokix.kernel": Layer(("tokix.kernel", "tokix.syscalls"), frozenset({"pydantic", "pydantic_core"}), PURE),
    "tokix.kernel.arch": Layer(("tokix.kernel.arch", "tokix.kernel", "tokix.syscalls"), _GRAMMARS),
    "tokix.kernel.arch.hf": Layer(
        ("tokix.kernel.arch.hf", "tokix.kernel.arch", "tokix.kernel", "tokix.syscalls"), _GRAMMARS | _MODELS
    ),
    "tokix.storage": Layer(
        ("tokix.storage", "tokix.kernel.ports", "tokix.kernel.events", "tokix.syscalls"),
        frozenset({"sqlalchemy", "sqlcipher3", "chromadb"}),
    ),
    "tokix.drivers": Layer(
        ("tokix.drivers", "tokix.kernel.ports", "tokix.kernel.events", "tokix.syscalls"),
        frozenset({"anyio", "pydantic"}),
    ),
    "tokix.agents": Layer(("tokix.agents", "tokix.syscalls"), frozenset({"pydantic"})),
    "tokix.shell": Layer(("tokix.shell", "tokix.syscalls"), frozenset({"anyio", "prompt_toolkit", "pydantic", "rich"})),
    "tokix": Layer((*_EDGE, "tokix.boot", "tokix.machines", "tokix.memory", "tokix.models", "tokix.sim"), _ANYTHING),
    "tokix.memory": Layer((*_EDGE, "tokix.archive", "tokix.contexts", "tokix.index", "tokix.machines"), _ANYTHING),
    # The roots that put a system together, and what finds its model, are the only ones that see a machine.
    "tokix.boot": Layer(_ALL, _ANYTHING),
    "tokix.machines": Layer((*_ALL, "tokix.models"), _ANYTHING),
    "tokix.models": Layer(_ALL, _ANYTHING),
    "tokix.sim": Layer(_ALL, _ANYTHING),
    "tokix.archive": Layer((*_EDGE, "tokix.index", "tokix.shelf"), _ANYTHING | {"numpy"}),
    "tokix.shelf": Layer((), frozenset({"numpy"})),
    "tokix.index": Layer((*_EDGE, "tokix.archive", "tokix.shelf"), _ANYTHING),
    "tokix.contexts": Layer((*_EDGE, "tokix.archive"), _ANYTHING),
}


def sources(folder: Path) -> list[Path]:
    found = folder.rglob("*.py")
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def modules() -> dict[str, Path]:
    """Give the files of the packages by module name; a package that is mapped by itself belongs to itself alone."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sources(ROOT / folder):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


MODULES = modules()


def imports(module: str, tree: ast.AST, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Give the line and the absolute name of everything that a module imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(names=names, level=level):
                package = module.split(".") if is_package else module.split(".")[:-1]
                parts = package[: len(package) - level + 1] if level else []
                base = ".".join([*parts, *([node.module] if node.module else [])])
                for alias in names:
                    below = f"{base}.{alias.name}"
                    standard = base.partition(".")[0] in sys.stdlib_module_names
                    yield node.lineno, below if standard or below in MODULES else base
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def layer_of(module: str) -> str:
    return max((prefix for prefix in LAYERS if under(module, prefix)), key=len)


def allowed(layer: Layer, target: str) -> bool:
    top = target.partition(".")[0]
    if top == "tokix":
        return any(under(target, prefix) and len(layer_of(target)) <= len(prefix) for prefix in layer.tokix)
    if top in sys.stdlib_module_names:
        return layer.standard is None or not layer.standard.isdisjoint({top, target})
    return top in layer.others


def violations(module: str, source: str, where: str, is_package: bool = False) -> list[str]:
    name = layer_of(module)
    found = imports(module, ast.parse(source), is_package)
    return [
        f"{where}:{line}: {name} may not import {target}" for line, target in found if not allowed(LAYERS[name], target)
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_module_imports_only_what_its_layer_may(layer: str) -> None:
    found = []
    for module, path in MODULES.items():
        if layer_of(module) == layer:
            where = str(path.relative_to(ROOT))
            found += violations(module, path.read_text(), where, is_package=path.name == "__init__.py")
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("tokix.kernel.frames", "import torch", "torch"),
        ("tokix.kernel.frames", "import json, time", "time"),
        ("tokix.kernel.frames", "def f():\n import random", "random"),
        ("tokix.kernel.frames", "if TYPE_CHECKING:\n from anyio import Event", "anyio"),
        ("tokix.kernel.frames", "from os.path import join", "os.path.join"),
        ("tokix.kernel.frames", "import sys", "sys"),
        ("tokix.kernel.frames", "from sys import stdout", "sys.stdout"),
        ("tokix.kernel.frames", "from .arch import toy", "tokix.kernel.arch.toy"),
        ("tokix.kernel.frames", "from .arch.toy import ToyMachine", "tokix.kernel.arch.toy"),
        ("tokix.kernel.frames", "from . import arch", "tokix.kernel.arch"),
        ("tokix.kernel.calls.device", "from .. import arch", "tokix.kernel.arch"),
        ("tokix.kernel.frames", "from tokix.kernel import arch", "tokix.kernel.arch"),
        ("tokix.kernel.frames", "from tokix import drivers", "tokix.drivers"),
        ("tokix.kernel.frames", "import_module('asyncio')", "asyncio"),
        ("tokix.kernel.frames", "importlib.import_module('socket')", "socket"),
        ("tokix.kernel.frames", "__import__('pathlib')", "pathlib"),
        ("tokix.kernel.arch.toy", "import tokix.storage", "tokix.storage"),
        ("tokix.syscalls.abi", "from tokix.kernel import events", "tokix.kernel.events"),
        ("tokix.syscalls.abi", "import anyio", "anyio"),
        ("tokix.storage.sqlite", "from tokix.kernel import kernel", "tokix.kernel.kernel"),
        ("tokix.storage.sqlite", "from tokix.kernel.arch.toy import ToyMachine", "tokix.kernel.arch.toy"),
        ("tokix.drivers.files", "import tokix.storage", "tokix.storage"),
        ("tokix.drivers.files", "import httpx", "httpx"),
        ("tokix.agents.hello", "import tokix.drivers.calc", "tokix.drivers.calc"),
        ("tokix.agents.hello", "from tokix.boot import boot", "tokix.boot"),
        ("tokix.shell.repl", "from tokix.kernel import ports", "tokix.kernel.ports"),
        ("tokix.shell.repl", "import tokix", "tokix"),
        ("tokix.cli", "from tokix.kernel.arch.toy import ToyMachine", "tokix.kernel.arch.toy"),
        ("tokix.cli", "import torch", "torch"),
    ],
)
def test_the_table_forbids(module: str, source: str, target: str) -> None:
    expected = f"x.py:{source.count(chr(10)) + 1}: {layer_of(module)} may not import {target}"
    assert violations(module, source, "x.py") == [expected]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tokix.kernel.frames", "import tokix.kernel.ports, tokix.syscalls, heapq, collections.abc"),
        ("tokix.kernel.frames", "from sys import maxsize\nfrom typing import Any"),
        ("tokix.kernel.arch.hf.machine", "import time, torch\nfrom tokix.kernel import ports"),
        ("tokix.storage.sqlite", "from tokix.kernel import ports, events\nimport sqlite3, sqlalchemy.sql"),
        ("tokix.shell.repl", "import rich.table, anyio, asyncio, tokix.syscalls"),
        ("tokix.boot", "from tokix.kernel.arch.toy import ToyMachine\nimport tokix.shell, tokix.storage"),
        ("tokix.cli", "from tokix.boot import boot\nfrom tokix import agents"),
    ],
)
def test_the_table_allows(module: str, source: str) -> None:
    assert violations(module, source, "x.py") == []


def test_the_table_is_held_against_the_whole_of_tokix() -> None:
    assert {"tokix", "tokix.kernel.frames", "tokix.kernel.arch.toy", "tokix.syscalls.abi", "tokix.drivers"} <= set(
        MODULES
    )


def test_the_kernel_calls_no_builtin_that_reaches_outside() -> None:
    outside = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.id}"
        for module, path in MODULES.items()
        if layer_of(module) == "tokix.kernel"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name) and node.id in outside
    ]
    assert not found, "\n" + "\n".join(found)


def test_nothing_imports_a_folder_by_its_bare_name() -> None:
    bare = {folder.partition("/")[0] for folder in FOLDERS.values()} - {"tokix"}
    assert {"kernel", "agents", "syscalls", "drivers", "shell", "storage"} <= bare
    found = [
        f"{path.relative_to(ROOT)}:{line}: {target} is tokix.{target}"
        for top in sorted(ROOT.iterdir())
        if top.is_dir() and not top.name.startswith(".")
        for path in sources(top)
        for line, target in imports("", ast.parse(path.read_text()))
        if target.partition(".")[0] in bare
    ]
    assert not found, "\n" + "\n".join(found)


def test_every_package_is_in_pyproject() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {folder for folder in FOLDERS.values() if "/" not in folder}
    found = {path.parent.relative_to(ROOT) for top in folders for path in (ROOT / top).rglob("__init__.py")}
    assert {str(folder) for folder in found} == set(FOLDERS.values())
    assert set(setuptools["packages"]) == set(FOLDERS)
    linked = re.search(r"^FOLDERS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert linked is not None
    assert {*linked[1].split(), "tokix"} == folders  # what mypy is shown


#: Run in a fresh interpreter: notes which heavy packages are looked for (installed or not), and what is done.
WATCH = """
import json, os, sys, threading

class Watch:
    looked_for = set()
    def find_spec(self, name, path=None, target=None):
        self.looked_for.add(name.partition(".")[0])

done = []
def audit(event, args):
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in {"os.mkdir", "socket.connect", "subprocess.Popen", "sqlite3.connect", "os.putenv"}:
        done.append(f"{event} {args}")

sys.meta_path.insert(0, Watch())
sys.addaudithook(audit)
import tokix
print(json.dumps({"looked_for": sorted(Watch.looked_for), "done": done, "threads": threading.active_count()}))
"""


def test_import_tokix_is_light_and_does_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", WATCH], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    seen = json.loads(run.stdout)
    assert not {"torch", "transformers", "chromadb", "sqlalchemy"} & set(seen["looked_for"])
    assert "tokix" in seen["looked_for"]
    assert (seen["done"], seen["threads"], run.stderr) == ([], 1, "")
    assert list(tmp_path.iterdir()) == []
