"""Long texts are cut into pages: at paragraphs, lines, sentences or words, by tokens as the machine renders them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokix.kernel.ports import Vocabulary
    from tokix.syscalls import Role

#: The most tokens of a page in the archive.
PAGE = 256


def cut(machine: Vocabulary, role: Role, text: str, limit: int) -> Iterator[tuple[str, list[int]]]:
    """Cut a text into pieces of at most `limit` rendered tokens, with their tokens; the pieces join to the text.

    A piece ends at a paragraph, a line, a sentence or a word, if there is one in its second half. It has one character
    at least, whatever the marks of the template take.
    """
    size, start = 4 * limit, 0  # characters that may fit: a guess, which each piece corrects
    while True:
        end = border(text, start, start + size)
        tokens = machine.render(role, text[start:end])
        if len(tokens) > limit and end - start > 1:
            size = max(1, min(end - start - 1, (end - start) * limit // len(tokens)))
            continue
        yield text[start:end], tokens
        if end == len(text):
            return
        start = end
        if len(tokens) < limit * 3 // 4:
            size = min(2 * size, size * limit // max(1, len(tokens)) + 1)


def border(text: str, start: int, end: int) -> int:
    """Give where a piece from `start` up to `end` at most should end."""
    if end >= len(text):
        return len(text)
    middle = (start + end) // 2
    for mark in ("\n\n", "\n", ". ", " "):
        at = text.rfind(mark, middle, end)
        if at > start:
            return at + len(mark)
    return end


def longest(window: int) -> int:
    """Give how many tokens an archived page may have: PAGE, or less where the window is small."""
    return max(16, min(PAGE, window // 8))
