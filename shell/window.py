"""A window as a picture: what has which part of it, drawn to scale, and beneath it what has left.

A line is as wide as the terminal, and a character of it stands for so many tokens. It shows who has most of these, and
whatever is there at all is somewhere in the line, however small. Colours repeat what the characters say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokix.syscalls import PageInfo, ProcessUse, SystemInfo

#: A piece of a line: its style, as rich calls it, and its text.
Piece = tuple[str, str]
Line = list[Piece]

#: How a part of a window is drawn, and what it is. Two ordinary pages that follow each other are told apart.
LOOKS = {
    "▓": ("green", "in the window"),
    "▒": ("green", "the next page"),
    "P": ("black on yellow", "pinned"),
    "S": ("black on cyan", "stub"),
    "R": ("black on magenta", "recalled"),
    "M": ("black on white", "of a region"),
    "~": ("black on blue", "being thought"),
    "·": ("dim", "free"),
    "━": ("cyan", "in frames that others have too"),
    "─": ("dim", "in frames"),
    "░": ("dim", "has left"),
}
#: Lines of what has left, in the scale of the window; more is drawn smaller.
MOST = 3


class Part(NamedTuple):
    """So many tokens that look alike."""

    look: str
    tokens: int


def picture(pages: Sequence[PageInfo], use: ProcessUse, system: SystemInfo, width: int) -> list[Line]:
    """Draw the address space of a process."""
    inside = parts(pages, use, system.window)
    lines = [
        [("bold", title(use, system))],
        marks(system, width),
        drawn(inside, system.window, width),
        drawn(frames(use), system.window, width),
    ]
    outside = left(pages)
    if outside:
        lines += [[], [("bold", gone(use, system))], *archive(outside, system.window, width)]
    if use.regions:
        lines += [[], [("bold", f"regions: {', '.join(use.regions)}")]]
    return [*lines, [], *legend({piece for line in lines for _, text in line for piece in text}, width), []]


def title(use: ProcessUse, system: SystemInfo) -> str:
    share = round(100 * use.window / system.window)
    return f"window: {use.window} of {system.window} tokens, {share} %; {many(use.pages, 'page')}"


def gone(use: ProcessUse, system: SystemInfo) -> str:
    windows = use.evicted / system.window
    return f"archive: {use.evicted} tokens, {windows:.1f} windows of text; {many(use.archived, 'page')}"


def many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def marks(system: SystemInfo, width: int) -> Line:
    """Write where pages begin to leave, and until where, above the places in the line."""
    line = ""
    for name, tokens in (("low", system.low), ("high", system.high)):
        text, room = f"{name} {tokens} ▾", width * tokens // system.window - len(line)
        line += text.rjust(room) if len(text) <= room else "▾".rjust(room) if room > 0 else ""
    end, room = str(system.window), width - len(line)
    return [("dim", line + (end.rjust(room) if len(end) < room else ""))]


# ---- what there is


def parts(pages: Sequence[PageInfo], use: ProcessUse, window: int) -> list[Part]:
    """Give the parts of a window, in their order, and what is free.

    What is in no page is an answer that is being made, or what the model's template has in front of all pages.
    """
    inside = resident(pages)
    found = [Part("▓", inside[0].start)] if inside and inside[0].start else []
    for page in inside:
        plain = "▒" if found and found[-1].look == "▓" else "▓"
        found.append(Part(look(page) or plain, page.tokens))
    found.append(Part("~", max(0, use.window - size(found))))
    return [*found, Part("·", max(0, window - size(found)))]


def size(found: Sequence[Part]) -> int:
    return sum(part.tokens for part in found)


def resident(pages: Iterable[PageInfo]) -> list[PageInfo]:
    """Give the pages of the window as they are in it."""
    return sorted((page for page in pages if page.start is not None), key=lambda page: page.start or 0)


def look(page: PageInfo) -> str:
    """Give what a page is drawn as; "" for one that is nothing special."""
    if page.id < 0 or page.pinned:
        return "S" if page.id < 0 else "P"
    return "" if page.recalled is None else "M" if page.region else "R"


def frames(use: ProcessUse) -> list[Part]:
    """Give what of a window is in frames."""
    return [Part("━", use.shared), Part("─", use.computed - use.shared)]


def shared(page: PageInfo, use: ProcessUse) -> bool:
    """Say whether all of a page is in frames that others have too."""
    return page.start is not None and page.start + page.tokens <= use.shared


def left(pages: Sequence[PageInfo]) -> list[Part]:
    """Give the pages that have left the window, and which of them are there again as copies."""
    back = {page.recalled for page in pages if page.resident and not page.region}
    return [Part("R" if page.id in back else "░", page.tokens) for page in pages if not page.resident]


# ---- lines


def drawn(found: Sequence[Part], tokens: int, width: int) -> Line:
    """Draw parts in a line of which all characters together are so many tokens."""
    cells = [" "] * width
    most = [0.0] * width
    scale = tokens / width
    start = 0
    where: dict[str, int] = {}
    for look, count in found:
        end = start + count
        for cell in range(int(start / scale), min(width, -int(-end // scale))):
            share = min(end, (cell + 1) * scale) - max(start, cell * scale)
            if share > most[cell]:
                cells[cell], most[cell] = look, share
        if count:
            where.setdefault(look, min(int(start / scale), width - 1))
        start = end
    for look, cell in where.items():
        spare = [(abs(at - cell), at) for at in range(width) if look not in cells and cells.count(cells[at]) > 1]
        if spare:
            cells[min(spare)[1]] = look
    return runs("".join(cells).rstrip())


def archive(outside: Sequence[Part], window: int, width: int) -> list[Line]:
    """Draw what has left: in the scale of the window, if that are not too many lines."""
    tokens = size(outside)
    if tokens > MOST * window:
        return [*wrapped(outside, tokens, width), [("dim", f"a character of this line is {tokens // width} tokens")]]
    return wrapped(outside, window, width, -(-tokens // window))


def wrapped(found: Sequence[Part], tokens: int, width: int, count: int = 1) -> list[Line]:
    """Draw parts in several lines of so many tokens each."""
    text = "".join(piece for _, piece in drawn(found, tokens * count, width * count))
    return [runs(text[at : at + width]) for at in range(0, len(text), width)]


def runs(text: str) -> Line:
    """Give each character its style, those that are alike together."""
    line: Line = []
    for character in text:
        style = LOOKS[character][0] if character in LOOKS else ""
        if line and line[-1][0] == style:
            line[-1] = (style, line[-1][1] + character)
        else:
            line.append((style, character))
    return line


def legend(seen: set[str], width: int) -> list[Line]:
    """Say what the characters mean that are there."""
    lines: list[Line] = [[]]
    for character, (style, text) in LOOKS.items():
        if character not in seen or character == "▒":
            continue
        sign = "▓▒" if character == "▓" else character
        if lines[-1] and sum(len(piece) for _, piece in lines[-1]) + len(f"  {sign} {text}") > width:
            lines.append([])
        lines[-1] += [("", "  " if lines[-1] else ""), (style, sign), ("", f" {text}")]
    return lines
