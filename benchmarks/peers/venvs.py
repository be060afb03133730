"""Runs a peer of `benchmarks/kernel.py` in a virtual environment of its own, made when it is first asked for.

`children.py` runs those of `benchmarks/machine.py` and `benchmarks/agents.py` so.

A peer is a script here (`SCRIPT.py`) and the exact versions of all that it needs (`SCRIPT.txt`). The script knows
nothing of tokix, and tokix never imports the peer: one line of JSON passes between them.
Invariant: an environment is used only if its stamp, written last, equals the pins and the Python that it was made with.
A half-made one is therefore made again, and so is one whose pins have changed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict, cast

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / ".build"
SCRATCH = BUILD / "tmp"  # databases go here, not to a temp folder in memory, where an fsync would cost nothing
LIMIT_S, INSTALL_S = 600, 3600
STEERING = ("AUTOGEN_", "DBOS_", "LANGCHAIN_", "LANGGRAPH_", "LANGSMITH_", "OTEL_")  # variables that change a peer
#: The bindings of llama.cpp are wanted without the library: `llama.py` builds it for this processor, with its server.
ADDED = {"TMPDIR": str(SCRATCH), "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}

PEERS: dict[str, tuple[str, ...]] = {
    "autogen": ("autogen_core",),
    "dbos": ("dbos_steps",),
    "dbos-wal": ("dbos_steps", "--sqlite=wal"),
    "dbos-wal-normal": ("dbos_steps", "--sqlite=wal-normal"),
    "langgraph-sync": ("langgraph_sqlite", "--durability=sync"),
    "langgraph-async": ("langgraph_sqlite", "--durability=async"),
    "langgraph-sync-normal": ("langgraph_sqlite", "--durability=sync", "--synchronous=NORMAL"),
}


class PeerResult(TypedDict):
    """What a peer's script prints; `us` holds the microseconds per operation of each repeat."""

    peer: str
    version: str
    what: str
    us: list[float]


def run_peer(name: str, n: int, repeat: int) -> PeerResult | None:
    """Measure peer `name` (a key of `PEERS`): `repeat` runs of `n` operations, after a warm-up.

    Returns None, with the reason on stderr, where the peer cannot be installed or does not run.
    """
    script, *flags = PEERS[name]
    try:
        python = environment(script)
        stdout = output([python, "-I", HERE / f"{script}.py", f"--n={n}", f"--repeat={repeat}", *flags])
        return cast(PeerResult, json.loads(stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as failure:
        reason = said(failure)
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as failure:
        reason = str(failure)
    print(f"peer {name} left out: {reason}", file=sys.stderr)
    return None


def environment(script: str) -> Path:
    """Return the Python of the environment for `script`, which is made first if it is missing or out of date."""
    pins, home = HERE / f"{script}.txt", BUILD / "venvs" / script
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp, wanted = home / "stamp", f"{sys.version}\n{pins.read_text()}"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing the peer {script} into {home.relative_to(BUILD.parent)}", file=sys.stderr)
        output([sys.executable, "-m", "venv", "--clear", home])
        output([python, "-I", "-m", "pip", "install", "--quiet", "--no-deps", "-r", pins], INSTALL_S)
        stamp.write_text(wanted)
    return python


def said(failure: subprocess.CalledProcessError) -> str:
    """Give the line in which a command that failed says why."""
    lines = (failure.stderr or failure.stdout).strip().splitlines() or [f"exit status {failure.returncode}"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def output(command: list[str | Path], seconds: float = LIMIT_S) -> str:
    """Run `command` with no variable set that would change what a peer does, and return its stdout."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(STEERING)} | ADDED
    done = subprocess.run(command, env=env, timeout=seconds, check=True, capture_output=True, text=True)
    return done.stdout
