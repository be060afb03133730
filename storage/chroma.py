"""The index of vectors: Chroma, in a process of its own that may be killed at any time.

`python -m tokix.storage.chroma FOLDER` answers requests on its standard input, one after the other, until that ends. A
request is a line of JSON, and after it as many bytes of vectors as it says; a reply is a line of JSON.

A process, because Chroma takes the kernel down with it otherwise: it holds the interpreter for as long as it adds
(180 ms for a thousand vectors), and a damaged file of its index ends the process (SIGSEGV; chromadb 1.5.9). And a
folder for each collection, because Chroma leaves the files of a collection behind when it is deleted. One process at a
time has the folder; the next one waits for its end.

What is in the index is a guess for everybody else: a vector is called ID:CHECKSUM here, so that names that are equal
mean vectors that are equal, and whoever asks compares them with the truth.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

#: Vectors are compared by their products; what Chroma's defaults find of clustered vectors is in docs/log.md.
_CONFIGURATION = {"hnsw": {"space": "ip"}}
_COLLECTION = "vectors"
#: Names that are read or deleted at once.
_MANY = 5000


class Index:
    """Collections by the names of their folders."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}

    def collection(self, name: str) -> Any:
        """Give a collection, which is made if it is not there."""
        if name not in self._open:
            import chromadb
            from chromadb.config import Settings

            path = self._folder / name
            path.mkdir(mode=0o700, exist_ok=True)
            client = chromadb.PersistentClient(str(path), Settings(anonymized_telemetry=False))
            # Without a function that embeds: the default one would fetch a model.
            self._open[name] = client.get_or_create_collection(
                _COLLECTION, configuration=_CONFIGURATION, embedding_function=None
            )
        return self._open[name]

    def names(self, name: str) -> list[str]:
        """Give the names of all vectors."""
        found: list[str] = []
        while part := self.collection(name).get(include=[], limit=_MANY, offset=len(found))["ids"]:
            found += part
        return found

    def add(self, name: str, names: list[str], data: bytes) -> None:
        """Add vectors, or replace them."""
        width = len(data) // max(1, len(names)) // 4
        table = memoryview(data).cast("f", (len(names), width)).tolist()
        self.collection(name).upsert(ids=names, embeddings=table)

    def drop(self, name: str, names: list[str]) -> None:
        """Delete vectors; those that are not there do no harm."""
        for start in range(0, len(names), _MANY):
            self.collection(name).delete(ids=names[start : start + _MANY])

    def near(self, name: str, count: int, data: bytes) -> list[str]:
        """Name the nearest vectors."""
        collection = self.collection(name)
        query = memoryview(data).cast("f").tolist()
        found: list[str] = collection.query(query_embeddings=[query], n_results=count, include=[])["ids"][0]
        return found

    def keep(self, names: list[str]) -> None:
        """Remove all collections but these."""
        for path in self._folder.iterdir():
            if path.name not in (*names, LOCK):
                self._open.pop(path.name, None)
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


LOCK = "lock"


def serve(index: Index, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until there are no more requests. What fails is said, and whoever asks makes the index anew."""
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request.pop("bytes", 0))
        act: Callable[..., object] = getattr(index, request.pop("op"))
        try:
            reply = {"value": act(**request, **({"data": data} if data else {}))}
        except BaseException as error:  # what panics in Rust is no Exception
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def main() -> None:
    """Be the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when its input does
    folder = Path(sys.argv[1])
    # What Chroma prints must not be taken for a reply.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.nice(10)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        serve(Index(folder), sys.stdin.buffer, replies)
    os._exit(0)  # Chroma has threads that nobody has to wait for


if __name__ == "__main__":
    main()
