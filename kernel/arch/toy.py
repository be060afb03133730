"""The toy machine: the reference implementation of the Machine port, without weights.

Its memory holds, for every slot of every frame, the token that was written there and the position it was written for.
The next token is a function of all slots that a row reaches through its frame table, so a wrong frame, a wrong
position, a lost copy or a stale slot changes the output, as it would change the logits of a transformer. Text is
bytes: tokens 0 to 255 are themselves, the rest are the marks of the chat template.
"""

from __future__ import annotations

import math
import re
import zlib
from functools import partial
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING

from tokix.kernel.arch.grammar import Grammars
from tokix.kernel.costs import Costs
from tokix.kernel.events import with_names
from tokix.kernel.frames import FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tokix.kernel.events import Row, Sampling, Tick
    from tokix.syscalls import Role

END = 260
MARKS: dict[Role, int] = {"system": 256, "user": 257, "assistant": 258, "tool": 259}
#: What the machine says: letters and spaces, and once in a while the end.
ALPHABET: list[int] = [*b"etaoin shrdlucmfwypvbgkjqxz etao", END]
_SLOT = Struct("<HI")  # token, position
_NOTHING = b"\xff"  # no slot is like this
_ENDINGS = re.compile("(?<=...)(ing|ed|es|s)$")


class ToyMachine:
    """A machine whose output depends on every token that it reaches, computed with a hash."""

    name = "toy"
    arithmetic = "toy"
    vocabulary = END + 1
    frame_size = FRAME * _SLOT.size
    stops = frozenset({END})
    ahead = False

    def __init__(
        self, frames: int = 256, window: int = 2048, *, slots: int = 256, costs: Costs | None = None, ends: bool = True
    ) -> None:
        """Without `ends` the machine never ends by itself: every burst has its max_tokens."""
        self.frames, self.slots, self.window = frames, slots, window
        self.costs = costs or Costs()
        self.alphabet: list[int] = ALPHABET if ends else ALPHABET[:-1]
        self.grammars = Grammars([bytes([token]) if token < 256 else b"" for token in range(END + 1)], END, self.encode)
        self.memory = [bytearray(_NOTHING * self.frame_size) for _ in range(frames + slots)]
        self._said: list[int | None] = []  # what the rows of the tick before have sampled

    # ---- vocabulary

    def preamble(self) -> list[int]:
        return []

    def render(self, role: Role, text: str) -> list[int]:
        return [MARKS[role], *text.encode(), END]

    def opening(self) -> list[int]:
        return [MARKS["assistant"]]

    def closing(self) -> list[int]:
        return [END]

    def encode(self, text: str) -> list[int]:
        return [*text.encode()]

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""

    def refuse(self, schema: str) -> str:
        return self.grammars.refuse(schema)

    # ---- execution

    def run(self, tick: Tick) -> list[int | None]:
        for source, target in tick.copies:
            self.memory[target][:] = self.memory[source]
        rows = with_names(tick.rows, self._said)
        for row in rows:
            self.write(row)
        self._said = [self.sample(row) if row.sampling else None for row in rows]
        return self._said

    def start(self, tick: Tick) -> Callable[[], list[int | None]]:
        return partial(list, self.run(tick))

    def read(self, places: Sequence[int], tokens: int) -> bytes:
        return b"".join(self.memory[place] for place in places)[: tokens * _SLOT.size].ljust(
            len(places) * self.frame_size, _NOTHING
        )

    def fill(self, frames: Sequence[int], data: bytes) -> None:
        for at, frame in enumerate(frames):
            self.memory[frame][:] = data[at * self.frame_size : (at + 1) * self.frame_size]

    def write(self, row: Row) -> None:
        for position, token in enumerate(row.feed, row.start):
            frame = self.memory[row.table[position // FRAME]]
            _SLOT.pack_into(frame, position % FRAME * _SLOT.size, token, position)

    def sample(self, row: Row) -> int:
        assert row.sampling
        end = row.start + len(row.feed)
        reached = (self.memory[frame] for frame in row.table[: -(-end // FRAME)])
        if row.sampling.schema:
            return self.obey(logits(reached, end, END + 1), row.sampling, end, row.said)
        return self.choose(logits(reached, end), row.sampling, end)

    def continuation(self, tokens: list[int], sampling: Sampling, count: int) -> list[int]:
        """Give the next tokens without frames: the oracle of the tests. Ends with the stop token, if one comes."""
        tokens = tokens.copy()
        start = len(tokens)
        while len(tokens) < start + count and END not in tokens[start:][-1:]:
            slots = b"".join(_SLOT.pack(token, position) for position, token in enumerate(tokens))
            tokens.append(self.choose(logits([slots], len(tokens)), sampling, len(tokens)))
        return tokens[start:]

    def choose(self, scores: list[float], sampling: Sampling, position: int) -> int:
        """Give the token that a position has, from the scores of the letters."""
        return self.alphabet[choose(scores[: len(self.alphabet)], sampling, position)]

    def obey(self, scores: list[float], sampling: Sampling, position: int, said: Sequence[int]) -> int:
        """Give the token that a position has among those that the grammar allows: plain characters, if there are any.

        A quotation mark is a little likelier than the rest, so that a string ends after some ten characters.
        """
        scores[ord('"')] += 1
        [allowed] = self.grammars.allowed(sampling.stream, sampling.schema, said).nonzero()
        tokens = [int(t) for t in allowed if 32 <= t < 127 or t == END] or [int(t) for t in allowed]
        return tokens[choose([scores[token] for token in tokens], sampling, position)]


def logits(slots: Iterable[bytes | bytearray], end: int, count: int = len(ALPHABET)) -> list[float]:
    """Give so many scores, one for each letter of the alphabet or each token, from the slots of positions 0…end."""
    digest = blake2b(digest_size=len(ALPHABET))
    left = end * _SLOT.size
    for frame in slots:
        digest.update(frame[:left])
        left -= len(frame)
    if count == len(ALPHABET):
        return [byte / 32 for byte in digest.digest()]
    seed = digest.digest()
    more = b"".join(blake2b(seed + bytes([part])).digest() for part in range(-(-count // 64)))
    return [byte / 32 for byte in more[:count]]


def choose(scores: list[float], sampling: Sampling, position: int) -> int:
    """Sample an index: temperature, then top-k, then top-p, by a random number that belongs to the place."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    if not sampling.temperature:
        return order[0]
    order = order[: sampling.top_k or None]
    weights = [math.exp((scores[i] - scores[order[0]]) / sampling.temperature) for i in order]
    total, kept, nucleus = sum(weights), 0.0, 0
    while nucleus < len(weights) and kept < sampling.top_p * total:
        kept += weights[nucleus]
        nucleus += 1
    left = draw(sampling.stream, position) * kept
    for i, weight in zip(order[:nucleus], weights, strict=False):
        left -= weight
        if left < 0:
            return i
    return order[nucleus - 1]


def draw(stream: str, position: int) -> float:
    """Give the random number, from 0 up to 1, of a position of a stream: no generator, so there is no state to save."""
    digest = blake2b(f"{stream}@{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class ToyEncoder:
    """An encoder without weights: the words of a text without their endings, each counted at a place that is a hash."""

    name, dimensions = "toy-128", 128

    def embed(self, texts: list[str]) -> list[list[float]]:
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> list[float]:
        counts = [0.0] * self.dimensions
        for word in re.findall(r"\w+", text.casefold()):
            counts[zlib.crc32(_ENDINGS.sub("", word).encode()) % self.dimensions] += 1
        length = math.sqrt(sum(count * count for count in counts))
        return [count / length for count in counts] if length else counts
