"""mapreduce TEXT…: what long texts are about. Many small processes sum up a piece each, then what the others say.

A text that begins with `file:` is a file of the device `files`. The words are counted on the way: the five that are
most frequent stand above the summary, and every word was in exactly one piece.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Any

from pydantic import Field

from tokix.agents.crew import each
from tokix.agents.words import contents, one_line, packed, pieces
from tokix.syscalls import ChatMessage, Think, Write, program

SAMPLE = (
    "the kernel gives every process its turn",
    "a process is a program and its log",
    "the log is the process and the kernel keeps the log",
)
#: How many words the result names.
WORDS = 50


@program(caps=["think", "spawn::*", "call:files.read"])
async def main(
    *texts: str,
    size: Annotated[int, Field(ge=100, le=100_000)] = 1200,
    width: Annotated[int, Field(ge=1, le=1000)] = 8,
) -> dict[str, Any]:
    """Sum up texts, in pieces of so many characters, so many at a time."""
    parts = [part for text in texts or SAMPLE for part in pieces(await source(text), size)]
    found = await each(":sum_up", [[part] for part in parts], width)
    total = sum((Counter(words) for words, _ in found), Counter[str]())
    said = [summary for _, summary in found]
    while len(said) > 1:
        said = [summary for _, summary in await each(":sum_up", [[part] for part in packed(said, size)], width)]
    summary = "".join(said)
    ranking = dict(sorted(total.items(), key=lambda item: (-item[1], item[0]))[:WORDS])
    for word, times in [*ranking.items()][:5]:
        await Write(text=f"{times:5} {word}\n")
    await Write(text=summary + "\n")
    return {"words": ranking, "summary": summary}


async def source(text: str) -> str:
    return await contents(text.removeprefix("file:")) if text.startswith("file:") else text


async def sum_up(text: str) -> tuple[dict[str, int], str]:
    """Give how often each word is there, and what the text says."""
    question = f"{text}\n\nSum up this text in one short sentence."
    said = await Think(messages=[ChatMessage(role="user", text=question)], max_tokens=48)
    return Counter(re.findall(r"\w+", text.lower())), one_line(said.text)
