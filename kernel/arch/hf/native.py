"""The kernels in C, compiled once for this machine, checked at every load, and left out where they fail.

Invariant: a library in the cache is whole and was made of this source, by this compiler, with these flags, on this
kind of processor; what cannot be had is a `Missing` that says why, and then attention is done in torch, which is
slower, and whose results depend on the company of a row by rounding. Needs no torch to look (`look`), for the doctor.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.reference import ModelError

SOURCES = [Path(__file__).with_name(name) for name in ("paged.c", "rows.c", "grouped.c", "whole.c")]
HEADERS = [Path(__file__).with_name(name) for name in ("lanes.h", "paged.h", "share.h", "grouped.h")]
#: Sums keep their order (no -ffast-math); a product and a sum become one instruction wherever that is there.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fPIC", "-shared", "-fopenmp")
#: The widest query and value that paged.c has room for.
WIDEST = 512
#: Seconds that a compiler may take.
PATIENCE = 120


class Missing(Exception):
    """The kernel cannot be had; the message is one line that says why."""


class Layer(ctypes.Structure):
    """`Layer` of paged.h."""

    _fields_ = [
        ("pool", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("half", "record", "keys", "values", "heads", "group")),
        *((name, ctypes.c_int64) for name in ("key_width", "value_width", "window")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("sinks", ctypes.c_void_p),
    ]


class Product(ctypes.Structure):
    """`Product` of grouped.h."""

    _fields_ = [
        ("tiles", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("bits", "width", "outputs", "paired")),
    ]


class Block(ctypes.Structure):
    """`Block` of whole.c."""

    _fields_ = [
        ("layer", Layer),
        *((name, Product) for name in ("together", "out", "gates", "down")),
        *((name, ctypes.c_void_p) for name in ("before", "after")),
        *((name, ctypes.c_float) for name in ("before_epsilon", "after_epsilon")),
    ]


class Model(ctypes.Structure):
    """`Model` of whole.c."""

    _fields_ = [
        ("blocks", ctypes.POINTER(Block)),
        *((name, ctypes.c_int64) for name in ("count", "width")),
        ("norm", ctypes.c_void_p),
        ("epsilon", ctypes.c_float),
        ("head", Product),
    ]


class Work(ctypes.Structure):
    """`Work` of whole.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tables", "bases", "positions")),
        ("count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("cosine", "sine")),
        *((name, ctypes.c_int64) for name in ("asked", "panel", "threads")),
        *((name, ctypes.c_void_p) for name in ("rows", "x", "normed", "packed", "seen", "gated", "logits")),
        *((name, ctypes.c_void_p) for name in ("panels", "shares")),
    ]


_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
ARGUMENTS = {
    "tokix_attend": [_POINTER] * 4 + [_COUNT] + [_POINTER, _COUNT, _COUNT] * 3 + [_POINTER] * 3,
    "tokix_norm": [_POINTER] * 3 + [ctypes.c_float, _COUNT, _COUNT, _POINTER],
    "tokix_gate": [_POINTER, _COUNT, _COUNT, _POINTER],
    "tokix_product": [_POINTER, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT],
    "tokix_whole": [_POINTER, _POINTER],
}
#: A library with these functions.
Kernel = ctypes.CDLL


def kernel() -> Kernel:
    """Load the kernels, compiling it if this machine has not done so yet; raises Missing."""
    path, there = look()
    if not there:
        build(path)
    return open_library(path)


def look() -> tuple[Path, bool]:
    """Give the path of the library, and whether it is there already; raises Missing if it cannot be used."""
    path = library()
    try:
        why = refused(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return path, path.exists()
    raise Missing(f"{why}; remove {refused(path)} to try again")


def refuse(why: str) -> Missing:
    """Remember that the library is of no use here, so that no later load tries it; gives what to raise."""
    try:
        refused(library()).write_text(why, encoding="utf-8")
    except OSError:
        return Missing(why)  # then it is found out again
    return Missing(why)


def refused(path: Path) -> Path:
    """Give the file that says why a library is not used."""
    return path.with_suffix(".refused")


def library() -> Path:
    """Give the path of the library for this source, compiler and processor; raises Missing without a compiler."""
    try:
        folder = models.root() / "native"
    except ModelError as error:
        raise Missing(str(error)) from None
    parts = [
        *(path.read_text(encoding="utf-8") for path in SOURCES + HEADERS),
        version(*compiler()),
        *command(),
        processor(),
    ]
    return folder / f"kernels-{sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def command() -> list[str]:
    tune = "-march=native" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu=native"
    return [*compiler(), *FLAGS, tune]


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


@cache
def version(*compiler: str) -> str:
    """Ask a compiler who it is; raises Missing if there is none."""
    return call([*compiler, "--version"])


def processor() -> str:
    """Say what the compiler's choice of instructions depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("model name", "cpu family", "model\t", "flags", "features", "cpu implementer", "cpu part")
    return "\n".join(sorted({line for line in lines if line.lower().startswith(kinds)}))


def build(path: Path) -> None:
    """Compile the library, whole or not at all; raises Missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=".build-") as work:
            made = Path(work, path.name)
            try:
                call([*command(), "-o", str(made), *map(str, SOURCES), "-lm"])
            except Missing as error:
                raise refuse(str(error)) from None
            made.replace(path)
    except OSError as error:
        raise Missing(f"it cannot be kept in {path.parent}: {error.strerror or error}; set TOKIX_CACHE") from None


def call(words: list[str]) -> str:
    """Run a compiler; gives what it says, or raises Missing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise Missing(f"there is no C compiler ({words[0]}); install gcc or clang, or set CC") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"the C compiler cannot be run: {error}") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line.lower()), done.stderr.strip())
        raise Missing(f"`{words[0]}` does not compile it: {said[:200] or f'exit code {done.returncode}'}")
    return done.stdout


@cache
def open_library(path: Path) -> Kernel:
    try:
        library = ctypes.CDLL(str(path))
        for name, arguments in ARGUMENTS.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError) as error:
        raise Missing(f"{path} cannot be loaded: {error}") from None
    return library
