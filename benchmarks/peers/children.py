"""Peers of the machine as long-lived child processes, so that rounds of all of them can take turns.

A peer is a script here that answers one line of JSON on stdin, `{"do": NAME, ...}`, with one on stdout, and ends with
its input. One with pins beside it (`SCRIPT.txt`) has an environment of its own, any other runs in this one, for it
needs what tokix needs. What a peer prints else is kept for the message if it dies.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

from peers import llama
from peers.venvs import HERE, SCRATCH, environment, said


class Gone(Exception):
    """A peer that cannot be had, or has died; the message is one line that says why."""


class Child:
    """A peer, ready for questions."""

    def __init__(self, script: str) -> None:
        """Start it, after it is installed; raises Gone."""
        env = dict(os.environ)
        try:
            python: Any = sys.executable
            if (HERE / f"{script}.txt").exists():
                python = environment(script)
            if script.startswith("llama"):
                env["LLAMA_CPP_LIB_PATH"] = str(llama.built())
                env.pop("OMP_WAIT_POLICY", None)  # it waits as it is made to; what tokix wants is another thing
        except subprocess.CalledProcessError as failure:
            raise Gone(said(failure)) from None
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise Gone(str(failure)) from None
        SCRATCH.mkdir(parents=True, exist_ok=True)
        self._said = tempfile.TemporaryFile("w+", dir=SCRATCH)  # noqa: SIM115
        command = [python, "-I", HERE / f"{script}.py"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._said, text=True, env=env)

    def ask(self, do: str, **what: Any) -> Any:
        """Let it do something, and give its answer; raises Gone."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps({"do": do, **what}), file=self._process.stdin, flush=True)
        except OSError:
            raise Gone(self._last()) from None
        answer = self._process.stdout.readline()
        if not answer:
            raise Gone(self._last())
        return json.loads(answer)

    def _last(self) -> str:
        self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        return lines[-1] if lines else f"it ended with {self._process.returncode}"

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        self._said.close()
