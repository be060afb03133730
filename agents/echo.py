"""echo WORD…: write the words. Without words, copy what comes in."""

from __future__ import annotations

from tokix.syscalls import Read, Write, program


@program(caps=[])
async def main(*words: object) -> None:
    """Write the words, or what comes in."""
    if words:
        await Write(text=" ".join(map(str, words)) + "\n")
        return
    while text := await Read():
        await Write(text=text)
