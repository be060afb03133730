"""Chains of keys, as MemGPT was judged by (Packer et al., arXiv 2310.08560, section 3.2.2): 140 pairs of UUIDs.

The value of some is a key of another, up to four times; the answer is the first value that is no key. The agent is a
script: it reads its window, asks `Recall` for a key that is not there, and goes on until it finds none. That tests the
memory, and not whether a model knows when to stop.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from remembering.facts import HOWS, simulated
from remembering.figures import interval
from remembering.peers import Encoder
from remembering.stories import WINDOW
from tokix.syscalls import Append, Pages, Recall

PAIRS, DEPTHS, EACH, NEAREST = 140, range(5), 4, 5
WAYS = ("truncation", "grep", *HOWS)

Lookup = Callable[[str], Awaitable[list[str]]]


class Chain(NamedTuple):
    """Where it begins, what is right, and how many values on the way are keys."""

    key: str
    answer: str
    depth: int


class Outcome(NamedTuple):
    """Whether an answer was right, and how often the agent looked for it."""

    right: bool
    lookups: int


def pairs(seed: int) -> tuple[list[str], list[Chain]]:
    """Give the lines that are told, and the chains."""
    r = random.Random(f"chains {seed}")
    ids = [str(UUID(int=r.getrandbits(128), version=4)) for _ in range(2 * PAIRS)]
    values = dict(zip(ids[:PAIRS], ids[PAIRS:], strict=True))
    keys, chains = iter(ids[:PAIRS]), []
    for depth in [depth for depth in DEPTHS for _ in range(EACH)]:
        links = [next(keys) for _ in range(depth + 1)]
        values.update(pairwise(links))
        chains.append(Chain(links[0], values[links[-1]], depth))
    lines = [f"{key}: {value}" for key, value in values.items()]
    r.shuffle(lines)
    return lines, chains


def value_of(key: str, lines: list[str]) -> str | None:
    return next((line.removeprefix(f"{key}: ") for line in lines if line.startswith(f"{key}: ")), None)


async def follow(chain: Chain, window: list[str], lookup: Lookup) -> Outcome:
    """Be the agent."""
    key, lookups = chain.key, 0
    while lookups <= PAIRS:
        value = value_of(key, window)
        if value is None:
            lookups += 1
            value = value_of(key, await lookup(key))
        if value is None:
            break
        key = value
    return Outcome(key == chain.answer, lookups)


def followed(seed: int, encoder: Encoder) -> dict[str, list[tuple[Chain, Outcome]]]:
    lines, chains = pairs(seed)
    outcomes: dict[str, list[tuple[Chain, Outcome]]] = {}
    encoder.embed([*lines, *(part for line in lines for part in line.split(": "))])

    async def nothing(key: str) -> list[str]:
        return []

    async def grep(key: str) -> list[str]:
        return [line for line in lines if key in line]

    def recall(how: Any) -> Lookup:
        async def lookup(key: str) -> list[str]:
            return [page.text for page in await Recall(query=key, k=NEAREST, how=how)]

        return lookup

    async def main() -> None:
        for line in lines:
            await Append(text=line, role="tool")
        window = [page.text for page in await Pages() if page.resident]
        ways: list[Lookup] = [nothing, grep, *map(recall, HOWS)]
        for way, lookup in zip(WAYS, ways, strict=True):
            outcomes[way] = [(chain, await follow(chain, window, lookup)) for chain in chains]

    simulated(main, WINDOW, encoder)
    return outcomes


def judge(seeds: range, encoder: Encoder, report: Callable[[str], None]) -> dict[str, Any]:
    """Give, by way and depth, the share of right answers, and how often the agent looked for one."""
    found: dict[str, list[tuple[Chain, Outcome]]] = {way: [] for way in WAYS}
    for seed in seeds:
        for way, outcomes in followed(seed, encoder).items():
            found[way] += outcomes
        report(f"chains {seed}: {PAIRS} pairs")
    return {
        way: {
            depth: {
                "right": interval(float(o.right) for chain, o in outcomes if chain.depth == depth),
                "lookups": interval(float(o.lookups) for chain, o in outcomes if chain.depth == depth),
            }
            for depth in DEPTHS
        }
        for way, outcomes in found.items()
    }
