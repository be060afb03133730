"""`tokix doctor`: looks at everything that tokix needs, says what it finds, and what to do where something is wrong.

It changes nothing, and looks at a state directory whose kernel runs only from outside.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from tokix.shell.table import Result, Table, size
from tokix.shell.usage import FAILED, Failure
from tokix.state import TRUTH, busy, left_plain, private
from tokix.storage import SqliteStore, StoreError

#: Bytes of disk below which the state directory is in danger, and below which somebody should know.
SCARCE, LOW = 100 << 20, 1 << 30
PYTHON = (3, 11)
#: What an extra is for.
EXTRAS = {
    "hf": "to run models",
    "encryption": "to encrypt state directories",
    "memory": "for an index of large memories",
}


class Finding(NamedTuple):
    """What was looked at; how it is (`note`: worth knowing, but not wrong); what was found; what to do."""

    what: str
    state: Literal["ok", "note", "wrong"]
    found: str
    todo: str = ""


def examine(state: Path, key: str | None) -> Result:
    """Look at everything."""
    findings = [*python(), *packages(), *directory(state, key)]
    findings += [*machine(), *gpu(), *models(), *attention(), *terminal()]
    rows = [[f.what, f.state, f.found, f.todo] for f in findings]
    table = Table(("WHAT", "STATE", "FOUND", "TO DO"), rows, [f._asdict() for f in findings], frozenset())
    wrong = [f for f in findings if f.state == "wrong"]
    return Result(table, code=FAILED if wrong else 0)


def python() -> Iterator[Finding]:
    found = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    good = sys.version_info[:2] >= PYTHON
    todo = "" if good else f"install Python {PYTHON[0]}.{PYTHON[1]} or newer, and tokix with that"
    yield Finding("Python", "ok" if good else "wrong", found, todo)
    yield Finding("SQLite", "ok", sqlite3.sqlite_version)


def packages() -> Iterator[Finding]:
    """Hold what is installed against what tokix says that it needs; what belongs to an extra may be missing."""
    yield Finding("tokix", "ok", version("tokix"))
    for line in requires("tokix") or ():
        need, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        name = re.match(r"[\w.-]+", need)
        if name and name[0] != "tokix" and not (extra and extra[1] in ("test", "dev")):
            yield package(name[0], need.removeprefix(name[0]).strip(), extra[1] if extra else "")


def package(name: str, wanted: str, extra: str) -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        if extra:
            return Finding(name, "note", "not there", f"pip install 'tokix[{extra}]' {EXTRAS.get(extra, '')}".strip())
        return Finding(name, "wrong", "not there", f"pip install '{name}{wanted}'")
    least = re.search(r">=\s*([\w.]+)", wanted)
    if least and numbers(found) < numbers(least[1]):
        return Finding(name, "wrong", f"{found}, older than {least[1]}", f"pip install -U '{name}{wanted}'")
    return Finding(name, "ok", found)


def numbers(text: str) -> tuple[int, ...]:
    """Read a version as far as it is numbers."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def directory(state: Path, key: str | None) -> Iterator[Finding]:
    """Look at the state directory, its kernel, its store, and its disk."""
    there = next(folder for folder in (state, *state.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield Finding(
            "state", "wrong", f"{there} is not a folder that you can write to", "choose another with --state DIR"
        )
        return
    yield Finding("state", "ok", f"{state}" if there == state else f"{state} (the first `tokix run` makes it)")
    if (state / "kernel.lock").exists() and busy(state):
        owner = (state / "kernel.lock").read_text() or "unknown"
        yield Finding("kernel", "ok", f"runs (process {owner})")
    else:
        yield Finding("kernel", "ok", "does not run")
        if (state / TRUTH).exists():
            yield store(state, key)
    if (plain := left_plain(state)) and private(state, key):
        names = ", ".join(path.name for path in plain)
        yield Finding("privacy", "note", f"{names} can be read without the key", f"remove them from {state}")
    free = shutil.disk_usage(there).free
    advice = "make room: a kernel stops when it cannot write" if free < LOW else ""
    yield Finding("disk", "wrong" if free < SCARCE else "note" if free < LOW else "ok", f"{size(free)} free", advice)


def store(state: Path, key: str | None) -> Finding:
    try:
        found = SqliteStore(state / TRUTH, key=key)
        try:
            found.check()
        finally:
            found.close()
    except StoreError as error:
        what, _, advice = " ".join(str(error).split()).partition("; ")
        return Finding("store", "wrong", what, advice)
    whole = "whole" if key is None else "whole, encrypted"
    return Finding("store", "ok", f"{whole}, {size((state / TRUTH).stat().st_size)}")


def machine() -> Iterator[Finding]:
    """Look at what the models run on."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(
        "computer", "ok", f"{platform.system()} {platform.machine()}, {threads} threads, {size(memory)} memory"
    )


def gpu() -> Iterator[Finding]:
    """Look for GPUs, which models run on if torch can use them."""
    if find_spec("torch") is None:
        return
    from tokix.models import gpus

    found, why = gpus()
    if found:
        yield Finding("GPU", "ok", ", ".join(f"{name} ({size(memory)})" for name, memory in found))
    elif why:
        advice = "install torch with CUDA, as https://pytorch.org/get-started says; until then models run on the CPU"
        yield Finding("GPU", "note", why, advice)


def models() -> Iterator[Finding]:
    """Look at the cache of models: without weights there is the toy machine."""
    from tokix.models import cached

    try:
        folder, found = cached()
    except Failure as failure:
        yield Finding("models", "wrong", str(failure), "set TOKIX_CACHE to a folder that you can write to")
        return
    except ImportError as error:
        yield Finding("models", "note", f"{error.name} is not there", "pip install 'tokix[hf]', for a real model")
        return
    damaged = [name for name, whole in found.items() if not whole]
    if damaged:
        names = " ".join(damaged)
        yield Finding("models", "wrong", f"damaged: {names}", f"tokix models remove {names}; tokix models fetch")
    elif found:
        yield Finding("models", "ok", f"{', '.join(found)} in {folder}")
    else:
        yield Finding("models", "note", f"none in {folder}", "tokix models fetch; until then there is --model toy")


def attention() -> Iterator[Finding]:
    """Look for the attention kernel in C, without which a real model is slower, and rounds in its own way."""
    if find_spec("torch") is None:
        return
    from tokix.models import attention_kernel

    try:
        path, there = attention_kernel()
    except Failure as failure:
        what, _, advice = str(failure).partition("; ")
        yield Finding("attention", "note", f"in torch, which is slower: {what}", advice)
        return
    yield Finding("attention", "ok", f"kernel in C, {path if there else 'compiled when the first model is loaded'}")


def terminal() -> Iterator[Finding]:
    encoding = (sys.stdout.encoding or "unknown").lower()
    good = encoding.replace("-", "") == "utf8"
    yield Finding(
        "text",
        "ok" if good else "note",
        encoding,
        "" if good else "set LANG=C.UTF-8, or PYTHONUTF8=1, to see all letters",
    )
    if not (os.isatty(0) and os.isatty(1)):
        yield Finding("terminal", "ok", "none: output is plain, and `tokix sh` reads lines as a script")
        return
    kind = os.environ.get("TERM", "")
    columns, lines = shutil.get_terminal_size()
    dumb = kind in ("", "dumb", "unknown")
    todo = "set TERM, such as TERM=xterm-256color, to edit lines and see colours" if dumb else ""
    yield Finding("terminal", "note" if dumb else "ok", f"{kind or 'TERM is not set'}, {columns} × {lines}", todo)
