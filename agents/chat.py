"""chat [WORD…]: speak with the model. With words, it answers them; without, it answers line by line until the end.

An answer appears while it is made, and Ctrl-C ends the answer, not the chat. All that was said stays in the context.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tokix.agents.words import Lines
from tokix.syscalls import EINTR, Append, Pages, Signal, Think, Write, program

SYSTEM = "You are a helpful assistant."


@program(caps=["think"])
async def main(
    *words: str,
    system: str = SYSTEM,
    tokens: Annotated[int, Field(ge=1)] = 160,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0,
) -> None:
    """Answer a question, or line by line what comes in."""
    if not await Pages():  # else it goes on with what was said
        await Append(role="system", text=system, pinned=True)
    if words:
        await answer(" ".join(words), tokens, temperature)
        return
    lines = Lines()
    while (line := await lines.next()) is not None:
        if line.strip():
            await answer(line.strip(), tokens, temperature)


async def answer(question: str, tokens: int, temperature: float) -> None:
    """Think aloud."""
    try:
        await Think(prompt=question, max_tokens=tokens, temperature=temperature, top_p=0.9, stream=True)
    except EINTR as interrupted:
        if interrupted.detail != Signal.INT:
            raise
    await Write(text="\n")
