"""Think and Count: a burst from its prompt to its reply.

Think is atomic on its context: the pages come when it succeeds; until then only the tail of the tokens is the burst's.
Tokens are saved before anybody sees their text: with every token if somebody reads along, else at the end of a quantum.
After a restart the burst goes on from there, and since a token depends on the reachable tokens, the stream and the
position alone, the same ones follow.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING

from pydantic_core import to_json

from tokix.kernel import streams
from tokix.kernel.calls.memory import own_context, quota
from tokix.kernel.context import Context, Page
from tokix.kernel.events import Sampling
from tokix.kernel.outcome import BLOCKED
from tokix.kernel.scheduler import Burst
from tokix.syscalls import EDQUOT, EINVAL, ENOMEM, Completion, Count, Think

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process

_DECODER = getincrementaldecoder("utf-8")


class Text:
    """The text side of a burst: what the tokens say, and how much of it may be shown.

    Text lags behind the tokens by incomplete UTF-8, and by as much as could still turn out to begin a stop string.
    """

    __slots__ = ("cut", "decoder", "lag", "saved", "shown", "stops", "text")

    def __init__(self, stops: list[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.lag = max(map(len, self.stops), default=1) - 1
        self.decoder = _DECODER("replace")
        self.text = ""
        #: Characters shown; tokens saved; where a stop string begins, or −1.
        self.shown = self.saved = 0
        self.cut = -1

    def add(self, piece: bytes, final: bool = False) -> None:
        if self.cut >= 0:
            return
        before = len(self.text)
        self.text += self.decoder.decode(piece, final)
        found = [at for stop in self.stops if (at := self.text.find(stop, max(0, before - self.lag))) >= 0]
        if found:
            self.cut = min(found)
            self.text = self.text[: self.cut]

    def show(self, final: bool = False) -> str:
        """Give what can be shown now and was not yet."""
        end = len(self.text) if final or self.cut >= 0 else len(self.text) - self.lag
        start, self.shown = self.shown, max(self.shown, end)
        return self.text[start : self.shown]


def count(k: Kernel, b: Branch, c: Count) -> int:
    return len(k.machine.encode(c.text))


def think(k: Kernel, b: Branch, c: Think) -> object:
    """Begin a burst, or go on with the one that a restart found."""
    if c.prompt is not None and c.messages is not None:
        raise EINVAL("think takes a prompt for its own pages, or messages, not both")
    process, ctx = b.proc, own_context(k, b) if c.messages is None else Context()
    base = len(ctx.tokens)
    head = prompt(k, c)
    ctx.tokens += head
    try:
        limit = _limit(k, b, c, base, len(head))
    except (ENOMEM, EDQUOT):
        del ctx.tokens[base:]
        raise
    _, again = k.begin(b, limit=limit)
    process.reserved += limit + charge_of_prompt(k, c, head)
    before = [t for _, tokens in sorted(k.partials.get(b.key, {}).items()) for t in tokens] if again else []
    ctx.tokens += before
    if ctx.computed >= len(ctx.tokens):  # at least one token has to be fed to get the next
        k.scheduler.trim(ctx, len(ctx.tokens) - 1)
    stream = f"={c.seed}" if c.seed is not None else f"{k.seed}:{b.key}"
    text = Text(c.stop)
    b.burst = Burst(
        key=b.key,
        owner=b,
        ctx=ctx,
        sampling=Sampling(stream, c.temperature, c.top_p, c.top_k),
        nice=process.nice,
        base=base,
        prompt=base + len(head),
        end=base + len(head) + limit,
        watched=c.stream or bool(text.stops),
        text=text,
    )
    if b.burst.watched:
        for token in before:
            text.add(k.machine.piece(token))
        text.show()  # it is in the outbox since the tokens were saved
    text.saved = len(before)
    k.scheduler.add(b.burst)
    if process.stopped:
        k.scheduler.suspend(b.burst)
    return BLOCKED


def prompt(k: Kernel, c: Think) -> list[int]:
    """Give the tokens that a call puts in front of its answer."""
    machine = k.machine
    if c.messages is not None:
        head = [token for message in c.messages for token in machine.render(message.role, message.text)]
    else:
        head = machine.render("user", c.prompt) if c.prompt is not None else []
    return head + machine.opening()


def charge_of_prompt(k: Kernel, c: Think, head: list[int]) -> int:
    """Give the tokens of the prompt that the process pays: all that this call rendered, but for the opening."""
    return len(head) - len(k.machine.opening())


def _limit(k: Kernel, b: Branch, c: Think, base: int, head: int) -> int:
    """Give how many tokens the burst may generate; raises ENOMEM or EDQUOT if that is none."""
    room = k.capacity - base - head - len(k.machine.closing())
    promised: int = k.started[b.key]["limit"] if b.noted else 1
    if room < promised:
        raise ENOMEM(f"the prompt has {base + head} tokens, the window {k.capacity}")
    if b.noted:  # begun before a restart: what it may generate was decided then
        return promised
    left = quota(b.proc)
    if left is not None:
        left -= head - len(k.machine.opening())
        if left < 1:
            raise EDQUOT(f"the limit of {b.proc.limits.tokens} tokens is used up")
        room = min(room, left)
    return min(room, c.max_tokens)


def sampled(k: Kernel, burst: Burst, token: int) -> None:
    """Look at a new token that is watched, or the last of its quantum or burst."""
    branch: Branch = burst.owner
    text: Text = burst.text
    ended = token in k.machine.stops
    if burst.watched and not ended:
        text.add(k.machine.piece(token))
    if ended or text.cut >= 0 or len(burst.ctx.tokens) >= burst.end:
        finish(k, branch, burst, ended)
        return
    save(k, branch, burst)
    if branch.call.stream and (shown := text.show()):
        streams.emit(k, branch.proc, 1, shown)


def save(k: Kernel, b: Branch, burst: Burst) -> None:
    """Make the new tokens of a burst durable: they are appended, never written again."""
    start = burst.text.saved
    tokens = burst.ctx.tokens[burst.prompt + start :]
    burst.text.saved += len(tokens)
    k.partials.setdefault(b.key, {})[start] = tokens
    k.insert("partial", (b.key, start), (b.key, start, to_json(tokens).decode()))


def finish(k: Kernel, b: Branch, burst: Burst, ended: bool) -> None:
    """End a burst: its tokens become a page, or are thrown away with the context that was made for it."""
    ctx, call, text = burst.ctx, b.call, burst.text
    tokens = ctx.tokens[burst.prompt : -1 if ended else None]
    if not burst.watched:
        text.add(b"".join(map(k.machine.piece, tokens)))
    text.add(b"", final=True)
    if text.cut >= 0:
        tokens = _until(k, tokens, text.cut)
        ended = True
    if call.stream and (shown := text.show(final=True)):
        streams.emit(k, b.proc, 1, shown)
    k.scheduler.finish(burst)
    b.burst = None
    reply = Completion(text=text.text, tokens=tokens, reason="stop" if ended else "length", prompt_tokens=burst.prompt)
    head = ctx.tokens[burst.base : burst.prompt]
    unreserve(k, b.proc, call, head, burst)
    if call.messages is None:
        k.scheduler.trim(ctx, min(ctx.computed, burst.prompt + len(tokens)))
        del ctx.tokens[burst.base :]
    else:
        k.scheduler.release(ctx)
    settle(k, b.proc, ctx, call, head, reply)
    k.reply(b, reply)


def _until(k: Kernel, tokens: list[int], cut: int) -> list[int]:
    """Give the tokens whose text lies in front of a cut: whole characters, none of which reaches behind it."""
    decoder, length, whole = _DECODER("replace"), 0, 0
    for index, token in enumerate(tokens, 1):
        length += len(decoder.decode(k.machine.piece(token)))
        if length > cut:
            break
        if not decoder.getstate()[0]:
            whole = index
    return tokens[:whole]


def settle(k: Kernel, process: Process, ctx: Context, c: Think, head: list[int], reply: Completion) -> None:
    """Account for a Think that succeeded and add its pages: live, and in a replay."""
    process.tokens += charge_of_prompt(k, c, head) + len(reply.tokens)
    if c.messages is not None:
        return
    opening, closing = k.machine.opening(), k.machine.closing()
    ctx.tokens += [*head, *reply.tokens, *closing]
    if c.prompt is not None:
        ctx.pages.append(Page("user", len(head) - len(opening), False, c.prompt))
    ctx.pages.append(Page("assistant", len(opening) + len(reply.tokens) + len(closing), False, reply.text))


def redo_think(k: Kernel, b: Branch, c: Think, value: Completion) -> None:
    settle(k, b.proc, k.context(b), c, prompt(k, c), value)


def unreserve(k: Kernel, process: Process, c: Think, head: list[int], burst: Burst) -> None:
    process.reserved -= burst.end - burst.prompt + charge_of_prompt(k, c, head)


def withdraw(k: Kernel, b: Branch) -> None:
    """Take a burst back: the context is what it was."""
    burst, b.burst = b.burst, None
    if burst:
        unreserve(k, b.proc, b.call, burst.ctx.tokens[burst.base : burst.prompt], burst)
        k.scheduler.withdraw(burst)
        if b.call.messages is not None:
            k.scheduler.release(burst.ctx)


HANDLERS = {Think: think, Count: count}
WITHDRAW = {Think: withdraw}
REDO = {Think: redo_think}
