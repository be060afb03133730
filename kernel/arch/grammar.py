"""Grammars: which tokens may come next, so that a text is JSON of a schema. The work is done by llguidance.

What is allowed is a function of the schema and of the tokens said so far; the matchers that are kept are a cache of it.
So a burst that a crash has cut short, or that runs in another kernel, goes on as if nothing had been.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: Matchers, and compiled schemas, that are kept.
KEPT = 256


class _Matcher(NamedTuple):
    """A matcher that has consumed some tokens of a schema's text."""

    schema: str
    said: list[int]
    state: Any


class Grammars:
    """The grammars of one vocabulary."""

    def __init__(self, pieces: Sequence[bytes], end: int, encode: Callable[[str], list[int]]) -> None:
        """`pieces` are the bytes of all tokens, "" for marks; `end` is the token that ends a text."""
        self._pieces, self._end, self._encode = pieces, end, encode
        self._tokenizer: Any = None
        self._blank: OrderedDict[str, Any] = OrderedDict()
        self._matchers: OrderedDict[str, _Matcher] = OrderedDict()

    # ---- what llguidance asks of a tokenizer

    @property
    def tokens(self) -> list[bytes]:
        return [*self._pieces]

    @property
    def special_token_ids(self) -> list[int]:
        return [token for token, piece in enumerate(self._pieces) if not piece]

    @property
    def eos_token_id(self) -> int:
        return self._end

    bos_token_id = None

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    # ----

    def refuse(self, schema: str) -> str:
        """Say why a schema cannot be used; "" if it can."""
        try:
            self._begin(schema)
        except (ImportError, ValueError) as error:
            return str(error)
        return ""

    def allowed(self, stream: str, schema: str, said: Sequence[int]) -> NDArray[numpy.bool_]:
        """Give for each token whether it may come next. Of a text that is complete, or past saving, only the end may.

        `stream` is a hint: who asked last with the same one has probably said all but the last token.
        """
        import numpy
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        matcher = self._at(stream, schema, said)
        size = len(self._pieces)
        if matcher.is_error() or matcher.is_stopped():
            mask: NDArray[numpy.bool_] = numpy.zeros(size, numpy.bool_)
            mask[self._end] = True
            return mask
        bits = allocate_token_bitmask(1, size)
        fill_next_token_bitmask(matcher, bits, 0)
        return numpy.unpackbits(bits.view(numpy.uint8), count=size, bitorder="little").view(numpy.bool_)

    def _at(self, stream: str, schema: str, said: Sequence[int]) -> Any:
        kept = self._matchers.pop(stream, None)
        if kept and kept.schema == schema and kept.said == [*said[: len(kept.said)]]:
            matcher, fresh = kept.state, said[len(kept.said) :]
        else:
            matcher, fresh = self._begin(schema).deep_copy(), said
        for token in fresh:
            matcher.consume_token(token)
        self._matchers[stream] = _Matcher(schema, [*said], matcher)
        if len(self._matchers) > KEPT:
            self._matchers.popitem(last=False)
        return matcher

    def _begin(self, schema: str) -> Any:
        """Give a matcher that has consumed nothing; raises ImportError, and ValueError for a schema of no use."""
        if schema not in self._blank:
            try:
                from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
            except ImportError:
                raise ImportError("this needs llguidance: install tokix[hf]") from None
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(TokenizerWrapper(self))
            # Free whitespace would let a small model write blanks until its limit.
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
            if problem := LLMatcher.validate_grammar(grammar, self._tokenizer):
                raise ValueError(" ".join(problem.split())[:300])
            self._blank[schema] = LLMatcher(self._tokenizer, grammar)
            if len(self._blank) > KEPT:
                self._blank.popitem(last=False)
        return self._blank[schema]
