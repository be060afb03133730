"""The doctor: what is wrong, and what to do about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokix import cli, doctor


def test_the_doctor_finds_what_is_wrong(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir()
    (state / "tokix.db").write_bytes(b"this is no database" * 100)
    assert cli.main(["doctor", "--json", "--state", str(state)]) == 1
    wrong = [finding for finding in json.loads(capsys.readouterr().out) if finding["state"] == "wrong"]
    assert [finding["what"] for finding in wrong] == ["store"]
    assert "move the file away" in wrong[0]["todo"]
    (tmp_path / "file").write_text("mine")
    assert cli.main(["doctor", "--json", "--state", str(tmp_path / "file" / "state")]) == 1
    wrong = [finding for finding in json.loads(capsys.readouterr().out) if finding["state"] == "wrong"]
    assert [(finding["what"], finding["todo"]) for finding in wrong] == [("state", "choose another with --state DIR")]


@pytest.mark.parametrize(
    ("name", "wanted", "extra", "finding"),
    [
        ("pydantic", ">=2", "", ("ok", "")),
        ("pydantic", ">=99", "", ("wrong", "pip install -U 'pydantic>=99'")),
        ("nosuchpackage", ">=1", "", ("wrong", "pip install 'nosuchpackage>=1'")),
        ("nosuchpackage", ">=1", "hf", ("note", "pip install 'tokix[hf]' to run models")),
    ],
)
def test_the_doctor_knows_packages(name: str, wanted: str, extra: str, finding: tuple[str, str]) -> None:
    found = doctor.package(name, wanted, extra)
    assert (found.state, found.todo) == finding


def test_versions_are_compared_as_numbers() -> None:
    assert doctor.numbers("2.10.1+cpu") == (2, 10, 1)
    assert doctor.numbers("3.0rc1") == (3, 0)
    assert doctor.numbers("2.9") < doctor.numbers("2.10")
