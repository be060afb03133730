"""Models from the hub, as far as it can be played here."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cached import FILES, parts, visible
from tokix.kernel.arch.hf import models


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client needs for a repository."""

    commit = "c" * 40
    files = {**FILES, "onnx/model.safetensors": b"", "pytorch_model.bin": b"a pickle"}

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/api/models/org/tiny", "/api/models/org/tiny/revision/v1"):
            siblings = [{"rfilename": name} for name in self.files]
            about = {"id": "org/tiny", "sha": self.commit, "siblings": siblings, "cardData": {"license": "mit"}}
            self.answer(200, json.dumps(about).encode())
        elif path.startswith(f"/org/tiny/resolve/{self.commit}/"):
            self.answer(200, self.files[path.rpartition("/")[2]])
        else:
            code, error = (403, "GatedRepo") if "gated" in path else (404, "RepoNotFound")
            self.answer(code, b"", error)

    def answer(self, code: int, body: bytes, error: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("huggingface_hub")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server.server_name
        server.shutdown()
        thread.join()


def tokix(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the hub's client reads its settings when it is imported."""
    return subprocess.run([sys.executable, "-m", "tokix", *words], capture_output=True, text=True, check=False)


def test_the_hub_gives_the_files_of_a_model_at_one_commit(cache: Path, hub: str) -> None:
    run = tokix("models", "fetch", "hf:org/tiny@v1")
    assert run.returncode == 0, run.stderr
    folder = Path(run.stdout.strip())
    assert {path.name for path in folder.iterdir()} == {*FILES, "tokix.json"} - {"README.md"}
    [model] = models.installed()
    assert model.note is not None
    assert (model.note.source.commit, model.note.source.licence) == (Hub.commit, "mit")
    assert models.verify(model) == []
    assert models.locate("hf:org/tiny@v1") == folder  # without the hub


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("hf:org/nothing", "the hub has no hf:org/nothing, or it is private"),
        ("hf:org/gated", "is gated: accept its terms"),
    ],
)
def test_the_hub_says_no(reference: str, says: str, cache: Path, hub: str) -> None:
    run = tokix("models", "fetch", reference)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.splitlines()[-1].startswith("tokix: ")
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert visible(cache) == parts(cache) == []


def test_a_hub_that_cannot_be_reached_is_an_error(cache: Path, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = tokix("models", "fetch", "hf:org/tiny")
    assert run.returncode == 1
    assert "hf:org/tiny cannot be fetched" in run.stderr
    assert "take smollm2 or minilm" in run.stderr
    assert "Traceback" not in run.stderr
