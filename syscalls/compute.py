"""Compute: the model is the machine, and `Think` is how a process runs on it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tokix.syscalls.base import Syscall, Value

Role = Literal["system", "user", "assistant", "tool"]


class ChatMessage(Value):
    """One message of an explicit conversation."""

    role: Role
    text: str


class Recalled(Value):
    """A page that a search found.

    The score of a dense search is the cosine, at most 1; of a lexical one BM25, without bounds. In a fused one both
    count as a part of the best of their list: 1 is for the first in both lists, 0.75 for the first in meaning alone. A
    page that goes first because an older one is like it has the score of that.
    """

    id: int
    role: Role
    text: str
    score: float
    tokens: int
    #: When it was said, in seconds since 1970; the region that it is in, or "" for the archive of a process.
    at: float = 0.0
    region: str = ""


class Completion(Value):
    """What a burst gave."""

    text: str
    #: The generated token ids, without the stop token: the truth of which `text` is a view.
    tokens: list[int]
    #: `stop`: the model ended, or a stop string came; `length`: max_tokens, the window or the limit of tokens.
    reason: Literal["stop", "length"]
    #: Tokens of context in front of the first generated one.
    prompt_tokens: int
    #: Pages that came back into the window for it (see `Advise`).
    recalled: list[Recalled] = []


class Think(Syscall[Completion]):
    """Generate up to max_tokens tokens from the caller's own pages, or from explicit messages.

    With its own pages, the `prompt` (if given) and the answer become pages, and the oldest leave the window when it has
    no room; a call that fails leaves the context as it was. If it was advised so, pages that have to do with the prompt
    come back first, in front of it. With `messages` the context is not touched. Temperature 0 is greedy. The same seed,
    or none at the same point of the same run, samples the same tokens, whoever else is running. With a `json_schema`
    the text is JSON that it allows, unless max_tokens cuts it short. Raises EDQUOT, EINTR, EINVAL, ENOMEM, EPERM; EIO
    if a search for pages fails, and EAGAIN if another call came in between.
    """

    call: Literal["think"] = "think"
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=100)
    #: Sample from the smallest set of tokens whose probability reaches top_p.
    top_p: float = Field(default=1.0, gt=0, le=1)
    #: Sample from the k likeliest tokens; 0 is all of them.
    top_k: int = Field(default=0, ge=0)
    seed: int | None = None
    #: Strings that end the text; they are not part of it.
    stop: list[str] = Field(default=[], max_length=16)
    #: A JSON schema for the text; EINVAL if the machine cannot hold itself to it.
    json_schema: dict[str, Any] | None = None
    #: Write the text to descriptor 1 while it is generated.
    stream: bool = False


class Count(Syscall[int]):
    """Count the tokens of a text as the machine counts them."""

    call: Literal["count"] = "count"
    observes = True
    text: str
