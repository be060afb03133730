"""llama.cpp's own server on SmolLM2 in Q4_1: slots, first come, first served, a prefix is reused within its slot."""

import json
import os
import socket
import subprocess
import tempfile
import time
from http.client import HTTPConnection, HTTPException

from peers import llama
from peers.children import Gone
from peers.venvs import SCRATCH, environment, said

PATIENCE_S = 60


class Server:
    """A running server."""

    def __init__(self, slots: int, window: int) -> None:
        """Start it with so many slots of so many tokens; raises Gone."""
        try:
            command = [str(llama.built() / "llama-server"), "-m", llama.weights(environment("llama_batch"))]
        except subprocess.CalledProcessError as failure:
            raise Gone(said(failure)) from None
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise Gone(str(failure)) from None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        cores = str(len(os.sched_getaffinity(0)))
        shape = ["-np", str(slots), "-c", str(slots * window), "-t", cores, "--cache-ram", "0", "--no-kv-unified"]
        self._said = tempfile.TemporaryFile("w+", dir=SCRATCH)  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, *shape, "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=self._said,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"},
        )
        self._wait()

    def _wait(self) -> None:
        """Wait until the model is loaded."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            try:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        self._process.kill()
        self._process.wait()
        self._said.seek(0)
        raise Gone("llama-server does not start: " + " ".join(self._said.read().split()[-30:]))

    def complete(self, tokens: list[int], count: int) -> tuple[float, list[int]]:
        """Give the seconds to the first token, and so many tokens; raises OSError or ValueError."""
        ask = {"prompt": tokens, "n_predict": count, "ignore_eos": True, "stream": True, "return_tokens": True}
        begin, first, said = time.perf_counter(), 0.0, list[int]()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            body = json.dumps({**ask, "temperature": 0, "cache_prompt": True})
            connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"llama-server answers {answer.status}: {answer.read().decode()[:200]}")
            for line in answer:
                if line.startswith(b"data: {"):
                    first = first or time.perf_counter() - begin
                    said += json.loads(line[6:]).get("tokens", [])
        except HTTPException as error:
            raise ValueError(f"llama-server: {error!r}") from None
        finally:
            connection.close()
        if len(said) < count - 1:
            raise ValueError(f"llama-server gave {len(said)} of {count} tokens")
        return first, said

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._said.close()
