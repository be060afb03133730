"""`tokix models`: what it says, and what it says of what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cached import TINY, flip, visible
from tokix import cli
from tokix import models as shown_models
from tokix.kernel.arch.hf import models


def run(*words: str) -> int:
    return cli.main(["models", *words])


def test_the_command_fetches_lists_verifies_and_removes(
    cache: Path, fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list") == 0
    assert capsys.readouterr() == ("NAME\tREFERENCE\tSIZE\tLICENCE\tMADE\n", "")
    assert run("fetch", TINY) == 0
    out, err = capsys.readouterr()
    folder = Path(out.strip())
    assert visible(cache) == [folder.name]
    assert "unpacking" not in err  # too small for a line
    assert run("list") == 0
    name, reference, size, licence, _ = capsys.readouterr().out.splitlines()[1].split("\t")
    assert (name, reference, size, licence) == (folder.name, TINY, "0 MB", "MIT")
    assert run("verify") == 0
    assert capsys.readouterr().out == f"{folder.name}: whole\n"
    flip(folder / "tokenizer.json")
    assert run("verify", TINY) == 1
    out, err = capsys.readouterr()
    assert out == f"{folder.name}: tokenizer.json has another content than when it was made\n"
    assert err == f"tokix: damaged; to have it whole again: tokix models remove {folder.name}, and fetch it\n"
    assert run("remove", TINY) == 0
    assert capsys.readouterr() == ("", "")
    assert visible(cache) == []


def test_the_command_speaks_json(cache: Path, fetched: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> Any:
        run(*words, "--json")
        return json.loads(capsys.readouterr().out)

    assert said("list") == said("verify") == []
    [found] = said("fetch", TINY)
    [listed] = said("list")
    assert found == {"reference": TINY, "folder": listed["folder"]}
    assert listed["source"]["weights"] == "model.safetensors"
    assert listed["size"] == sum(path.stat().st_size for path in Path(listed["folder"]).iterdir())
    (Path(listed["folder"]) / "tokix.json").unlink()
    [verified] = said("verify")
    assert (verified["wrong"], verified["reference"]) == (["tokix.json is missing or broken"], None)
    assert [gone["name"] for gone in said("remove", listed["name"])] == [listed["name"]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "list, fetch, verify or remove is missing; see `tokix models --help`"),
        (["frobnicate"], 2, "invalid choice: 'frobnicate'"),
        (["remove"], 2, "the following arguments are required: MODEL"),
        (["fetch", "gpt-7"], 1, "there is no model 'gpt-7'; write smollm2"),
        (["verify", "minilm"], 1, "minilm is not in the cache; `tokix models list` shows what is"),
        (["remove", TINY, "minilm"], 1, "minilm is not in the cache"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], code: int, says: str, cache: Path, fetched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models.locate(TINY)
    assert run(*words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tokix: ")
    assert err.count("\n") == 1
    assert says in err
    assert folder.exists()


def test_a_missing_package_is_named(
    cache: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert run("fetch", "hf:org/name") == 1
    assert "hf:org/name needs the package huggingface_hub: pip install 'tokix[hf]'" in capsys.readouterr().err


def test_progress_is_a_line_for_each_long_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shown_models.shown() as progress:
        progress("fetching x")
        for done in range(3):
            progress("fetching x", done, 20_000_000)
        progress("unpacking a small file", 1, 100)
        progress("converting x", 1, 20_000_000)
    assert capsys.readouterr() == ("", "tokix: fetching x\ntokix: converting x\n")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with shown_models.shown() as progress:
        progress("fetching [x]")
        progress("converting [x]", 5, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "converting [x]" in err
    assert "5/10 bytes" in err


def test_models_are_listed_without_loading_anything_heavy(cache: Path, fetched: list[str]) -> None:
    models.locate(TINY)
    source = (
        "import sys; from tokix.cli import main; main(['models', 'verify'])\n"
        "print(*{'gguf', 'huggingface_hub', 'numpy', 'rich', 'tokenizers', 'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.splitlines()[1:] == [""]
