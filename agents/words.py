"""Text on its way into a small window: lines of a stream, pieces of a file, the beginning of what is too long."""

from __future__ import annotations

from tokix.syscalls import Call, Read

#: Where a text may be cut, best first.
_BORDERS = ("\n\n", "\n", ". ", " ")


class Lines:
    """The lines of descriptor 0, which gives text as it comes."""

    def __init__(self) -> None:
        self._text, self._ended = "", False

    async def next(self) -> str | None:
        """Give the next line without its end, None after the last."""
        while "\n" not in self._text and not self._ended:
            more = await Read()
            self._ended = not more
            self._text += more
        if not self._text:
            return None
        line, _, self._text = self._text.partition("\n")
        return line.rstrip("\r")


def clip(text: str, size: int) -> str:
    """Give the beginning of a text, with a mark where it was cut."""
    return text if len(text) <= size else f"{text[: size - 1]}…"


def one_line(text: str, size: int = 400) -> str:
    """Give a text as one line of a bounded length."""
    return clip(" ".join(text.split()), size)


def pieces(text: str, size: int) -> list[str]:
    """Cut a text into pieces of up to so many characters, at the best border in the second half of each."""
    found = []
    while len(text) > size:
        cuts = (text.rfind(border, size // 2, size) for border in _BORDERS)
        cut = next((cut + 1 for cut in cuts if cut >= 0), size)
        found.append(text[:cut].strip())
        text = text[cut:]
    return [piece for piece in (*found, text.strip()) if piece]


def packed(texts: list[str], size: int) -> list[str]:
    """Join neighbours to texts of about so many characters: at least two each, so that there are fewer than before."""
    bundles: list[list[str]] = []
    for text in texts:
        if bundles and (len(bundles[-1]) < 2 or sum(map(len, bundles[-1])) + len(text) <= size):
            bundles[-1].append(text)
        else:
            bundles.append([text])
    return ["\n".join(bundle) for bundle in bundles]


async def contents(path: str) -> str:
    """Read a whole file of the device `files`, piece by piece."""
    parts = [""]
    while part := await Call(device="files", op="read", args={"path": path, "offset": sum(map(len, parts))}):
        parts.append(part)
    return "".join(parts)
