"""echo WORD…: write the words. Without words, copy what comes in."""

from __future__ import annotations

from tokix.syscalls import Read, Write, program
from tokix.syscalls.base import to_json


@program(caps=[])
async def main(*words: object) -> None:
    """Write the words, or what comes in."""
    if words:
        await Write(text=" ".join(word if isinstance(word, str) else to_json(word) for word in words) + "\n")
        return
    while text := await Read():
        await Write(text=text)
