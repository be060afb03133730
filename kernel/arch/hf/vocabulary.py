"""The text side of the torch machine: a Hugging Face tokenizer as the Vocabulary port.

Marks of the chat template are the only special tokens that come into a context: a text that contains "<|im_end|>" is
tokenised as these characters, so nobody's words can end a message.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from tokix.kernel.arch.grammar import Grammars
from tokix.kernel.arch.hf.reference import ModelError
from tokix.kernel.arch.hf.template import PLAIN, Template, take_apart

if TYPE_CHECKING:
    from tokix.syscalls import Role

#: Texts whose pieces have to join to them: spaces, lines, scripts, bytes that no token has.
_SAMPLES = ("Hello world, it's 2026.", "  two  spaces\n\n\tand a tab ", "Grüße, 世界! 🦊🏳️‍🌈 \u0000")


class HFVocabulary:
    """Pure functions of a tokenizer, as the Vocabulary port wants them."""

    def __init__(self, tokenizer: Any, stops: frozenset[int], size: int) -> None:
        """`size` is the number of rows of the model's logits. Raises ModelError for a tokenizer of another kind."""
        self._tokenizer, self.vocabulary = tokenizer, size
        self._marks = frozenset(tokenizer.all_special_ids)
        self._pieces = _pieces(tokenizer)[:size]
        _check(self.encode, self._pieces)
        self.stops = stops
        self.template, self.problem = _template(tokenizer)
        self._opening = self._markup(self.template.opening)
        self._closing = self._markup(self.template.marks["assistant"].after)
        self._preamble = self._markup(self.template.preamble)
        self._around = {
            role: (self._markup(marks.before), self._markup(marks.after)) for role, marks in self.template.marks.items()
        }
        self.grammars = Grammars(self._pieces, min(stops), self.encode)

    def preamble(self) -> list[int]:
        return [*self._preamble]

    def render(self, role: Role, text: str) -> list[int]:
        before, after = self._around[role]
        return [*before, *self.encode(text), *after]

    def opening(self) -> list[int]:
        return [*self._opening]

    def closing(self) -> list[int]:
        return [*self._closing]

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()  # half a surrogate is no text
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids

    def piece(self, token: int) -> bytes:
        return self._pieces[token] if token < len(self._pieces) else b""

    def refuse(self, schema: str) -> str:
        return self.grammars.refuse(schema)

    def _markup(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def _template(tokenizer: Any) -> tuple[Template, str]:
    """Give the marks of the roles, and what is wrong with the model's own template, if anything is."""
    if not tokenizer.chat_template:
        return PLAIN, "it has no chat template"

    def render(messages: list[dict[str, str]], opening: bool) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
        return text

    try:
        return take_apart(render, tokenizer.bos_token or ""), ""
    except Exception as error:  # a template is a program of somebody else: it raises what it likes
        return PLAIN, f"its chat template cannot be rendered message by message ({error})"


def _check(encode: Any, pieces: list[bytes]) -> None:
    for text in _SAMPLES:
        joined = b"".join(pieces[token] for token in encode(text)).decode("utf-8", "replace")
        if joined not in (text, f" {text}"):
            raise ModelError(f"its tokenizer is of a kind that tokix cannot take apart: {text!r} became {joined!r}")


def _pieces(tokenizer: Any) -> list[bytes]:
    """Give the bytes of each token; none for marks. Raises ModelError for a tokenizer that is not a fast one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("its tokenizer is not a fast one (tokenizer.json)")
    decoders = _kinds(json.loads(backend.to_str())["decoder"])
    added = {token: str(entry) for token, entry in tokenizer.added_tokens_decoder.items()}
    marks = frozenset(tokenizer.all_special_ids) | {t for t, e in tokenizer.added_tokens_decoder.items() if e.special}
    pieces = []
    for token, word in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
        if token in marks or word is None:
            pieces.append(b"")
        elif token in added:
            pieces.append(added[token].encode())
        elif "ByteLevel" in decoders:
            alphabet = _alphabet()
            pieces.append(bytes(alphabet[character] for character in word))
        elif "ByteFallback" in decoders and len(word) == 6 and word.startswith("<0x"):
            pieces.append(bytes([int(word[3:5], 16)]))
        else:
            pieces.append(word.replace("▁", " ").encode())
    return pieces


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    parts = decoder.get("decoders") or decoder.get("processors") or []
    return {decoder["type"]} | {kind for part in parts for kind in _kinds(part)}


@cache
def _alphabet() -> dict[str, int]:
    """Give the bytes that the characters of a byte-level vocabulary stand for, as GPT-2 defined them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
