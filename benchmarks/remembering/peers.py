"""Ways to find a text without tokix: each gives, for every query, the best texts by their numbers, with scores.

All get the texts that have left the window, as `Recall` does. Of equals the newer comes first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any, Protocol

Found = list[tuple[int, float]]

K1, B = 1.2, 0.75


class Encoder(Protocol):
    """What a kernel wants of an encoder."""

    name: str
    dimensions: int

    def embed(self, texts: list[str]) -> list[list[float]]: ...


class Known:
    """An encoder that embeds each text once, whoever asks."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.name, self.dimensions = encoder, encoder.name, encoder.dimensions
        self.vectors: dict[str, list[float]] = {}

    def embed(self, texts: list[str]) -> list[list[float]]:
        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        self.vectors.update(zip(new, self.encoder.embed(new) if new else [], strict=True))
        return [self.vectors[text] for text in texts]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def best(scores: dict[int, float], k: int) -> Found:
    return sorted(scores.items(), key=lambda hit: (-hit[1], -hit[0]))[:k]


def grep(texts: dict[int, str], queries: Sequence[str], k: int) -> list[Found]:
    """Count the words of the query that a text has."""
    there = {page: {*words(text)} for page, text in texts.items()}
    return [best({page: len(there[page] & {*words(q)}) for page in texts}, k) for q in queries]


def bm25(texts: dict[int, str], queries: Sequence[str], k: int) -> list[Found]:
    """Okapi BM25 with Lucene's constants, all words as they are (Robertson and Zaragoza, 2009)."""
    counts = {page: Counter(words(text)) for page, text in texts.items()}
    length = {page: count.total() for page, count in counts.items()}
    usual = sum(length.values()) / len(length)
    having = Counter(word for count in counts.values() for word in count)
    rarity = {word: log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for word, n in having.items()}

    def score(page: int, query: list[str]) -> float:
        count, size = counts[page], K1 * (1 - B + B * length[page] / usual)
        return sum(rarity[word] * count[word] * (K1 + 1) / (count[word] + size) for word in query if word in count)

    return [best({page: score(page, words(q)) for page in texts}, k) for q in queries]


def exact(texts: dict[int, str], queries: Sequence[str], k: int, encoder: Encoder) -> list[Found]:
    """Compare every vector with that of the query."""
    import numpy

    pages = [*texts]
    table = numpy.asarray(encoder.embed([*texts.values()])) @ numpy.asarray(encoder.embed([*queries])).T
    scores = table.T.round(6).tolist()
    return [best(dict(zip(pages, row, strict=True)), k) for row in scores]


def chroma(texts: dict[int, str], queries: Sequence[str], k: int, encoder: Encoder) -> list[Found]:
    """Ask Chroma, in memory and with its own index; raises ImportError where it is not installed."""
    import chromadb
    from chromadb.config import Settings

    client: Any = chromadb.EphemeralClient(settings=Settings(anonymized_telemetry=False))
    held = client.create_collection("pages", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None)
    held.add(ids=[*map(str, texts)], embeddings=encoder.embed([*texts.values()]))
    found = held.query(query_embeddings=encoder.embed([*queries]), n_results=k, include=["distances"])
    client.delete_collection("pages")
    return [
        [(int(id), 1 - distance) for id, distance in zip(ids, distances, strict=True)]
        for ids, distances in zip(found["ids"], found["distances"], strict=True)
    ]
