"""A line of the shell: pipelines, joined by `;`, `&`, `&&` and `||`, with the quotation marks of every Unix shell.

mapreduce "a b a" | echo && philosophers 5 3 &
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from tokix.shell.usage import WRONG, Failure

Joint = Literal["", "&&", "||"]

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<remark>\#.*)|(?P<mark>&&|\|\||[|;&])|(?P<word>(?:[^\s'"\\|;&]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+)""",
    re.DOTALL,
)
_PART = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^'"\\]+)""", re.DOTALL)


class Token(NamedTuple):
    """A word, or a mark between words, and where it stands."""

    kind: Literal["word", "mark"]
    text: str
    start: int
    end: int


class Pipeline(NamedTuple):
    """Commands whose output is the input of the next; how they depend on what came before; the text as it was typed."""

    commands: list[list[str]]
    joint: Joint
    background: bool
    text: str


def tokens(line: str) -> Iterator[Token]:
    """Cut a line; raises Failure for a quotation mark or a backslash without a partner."""
    place = 0
    while place < len(line):
        found = _TOKEN.match(line, place)
        if not found:
            raise Failure(f"{line[place]} at {line[place:].strip()[:20]!r} has no partner", WRONG)
        if found["mark"]:
            yield Token("mark", found["mark"], place, found.end())
        elif found["word"]:
            yield Token("word", unquoted(found["word"]), place, found.end())
        place = found.end()


def unquoted(word: str) -> str:
    """Take the quotation marks away."""
    return "".join(
        single or re.sub(r'\\(["\\])', r"\1", double or "") or escaped or plain or ""
        for single, double, escaped, plain in _PART.findall(word)
    )


def parse(line: str) -> list[Pipeline]:
    """Read a line; raises Failure for one that is not complete."""
    pipelines: list[Pipeline] = []
    commands: list[list[str]] = [[]]
    joint: Joint = ""
    start = end = 0

    def close(mark: str) -> None:
        nonlocal commands, joint
        if not all(commands):
            raise Failure(f"a command is missing {'before ' + mark if mark else 'at the end'}", WRONG)
        pipelines.append(Pipeline(commands, joint, mark == "&", line[start:end]))
        commands, joint = [[]], ""

    for token in tokens(line):
        if token.kind == "word":
            if commands == [[]]:
                start = token.start
            commands[-1].append(token.text)
            end = token.end
        elif token.text == "|":
            if not commands[-1]:
                raise Failure("a command is missing before |", WRONG)
            commands.append([])
        else:
            close(token.text)
            joint = "&&" if token.text == "&&" else "||" if token.text == "||" else ""
    if commands != [[]] or joint:
        close("")
    return pipelines


def first_word(line: str) -> str:
    """Give the word that a line begins with, as it is."""
    return (line.split(maxsplit=1) or [""])[0]
