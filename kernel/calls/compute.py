"""Think and Count: a burst from its prompt to its reply.

Think is atomic on its context: the pages come when it succeeds; until then only the tail of the tokens is the burst's.
Tokens are saved before anybody sees their text: with every token if somebody reads along, else at the end of a quantum.
After a restart the burst goes on from there, and since a token depends on the reachable tokens, the stream and the
position alone, the same ones follow.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from tokix.kernel import demand, pager, streams
from tokix.kernel.burst import Burst
from tokix.kernel.calls.memory import own_context, quota
from tokix.kernel.context import Context, Page
from tokix.kernel.events import Sampling
from tokix.kernel.family import Usage
from tokix.kernel.outcome import BLOCKED
from tokix.kernel.pager import Fresh, Plan
from tokix.syscalls import EDQUOT, EINVAL, ENOMEM, Completion, Count, Recalled, Think
from tokix.syscalls.base import to_json as to_text

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
    """Check a call, and look for what belongs to it."""
    if c.prompt is not None and c.messages is not None:
        raise EINVAL("think takes a prompt for its own pages, or messages, not both")
    schema = schema_of(c)
    if schema and (why := k.machine.refuse(schema)):
        raise EINVAL(f"json_schema: {why}")
    ctx = own_context(k, b) if c.messages is None else k.blank()
    if demand.due(k, b, c, ctx):
        return demand.ask(k, b, c, ctx)
    return begin(k, b, ctx, c, [Recalled(**page) for page in k.started[b.key].get("recalled", ())] if b.noted else [])


def found(k: Kernel, b: Branch, pages: list[dict[str, Any]]) -> object:
    """Go on with the pages that the edge has found."""
    ctx = own_context(k, b)
    return begin(k, b, ctx, b.call, demand.chosen(k, b.proc, ctx, [Recalled(**page) for page in pages]))


def begin(k: Kernel, b: Branch, ctx: Context, c: Think, recalled: list[Recalled]) -> object:
    """Begin a burst, or go on with the one that a restart found, behind pages that come back for it."""
    process = b.proc
    plan = arrival(k, b, ctx, c, recalled)
    head = prompt(k, plan)
    base = len(ctx.tokens) - plan.taken(ctx)
    limit = _limit(k, b, c, base + len(head), plan.charge)
    if plan.out:
        ctx.before = ctx.tokens.copy()
        pager.take_out(k, ctx, plan)
    ctx.tokens += head
    b.plan = plan
    note = {"recalled": [page.model_dump() for page in recalled]} if recalled else {}
    _, again = k.begin(b, limit=limit, **note)
    process.reserved += limit + plan.charge
    before = [t for _, tokens in sorted(k.partials.get(b.key, {}).items()) for t in tokens] if again else []
    ctx.tokens += before
    if ctx.computed >= len(ctx.tokens):  # at least one token has to be fed to get the next
        k.scheduler.mmu.trim(ctx, len(ctx.tokens) - 1)
    stream = f"={c.seed}" if c.seed is not None else f"{k.seed}:{b.key}"
    text = Text(c.stop)
    b.burst = Burst(
        key=b.key,
        owner=b,
        ctx=ctx,
        sampling=Sampling(stream, c.temperature, c.top_p, c.top_k, schema_of(c)),
        nice=process.nice,
        base=base,
        prompt=base + len(head),
        end=base + len(head) + limit,
        watched=c.stream or bool(text.stops),
        read=c.stream,
        family=process.family,
        usage=k.usage.setdefault(process.program, Usage()),
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


def schema_of(c: Think) -> str:
    return "" if c.json_schema is None else to_text(c.json_schema)


def arrival(k: Kernel, b: Branch, ctx: Context, c: Think, recalled: list[Recalled]) -> Plan:
    """Plan the pages that a call brings, and those that leave so that it has room for its answer; raises ENOMEM."""
    if c.messages is not None:
        rendered = [(m, k.machine.render(m.role, m.text)) for m in c.messages]
        pages = [Page(m.role, len(tokens), False, m.text, i, i) for i, (m, tokens) in enumerate(rendered)]
        return Plan([Fresh(page, tokens) for page, (_, tokens) in zip(pages, rendered, strict=True)], set())
    fresh = pager.copies(k, ctx, recalled)
    stale = demand.stale(b.proc, ctx, recalled, fresh)
    if c.prompt is not None:
        fresh += pager.message(k, b.proc, ctx, "user", c.prompt, behind=len(fresh))
    opening, closing = len(k.machine.opening()), len(k.machine.closing())
    return pager.plan(k, b.proc, ctx, fresh, more=opening, room=c.max_tokens + closing, least=1 + closing, out=stale)


def prompt(k: Kernel, plan: Plan) -> list[int]:
    """Give the tokens that a call puts in front of its answer."""
    return [token for page, tokens in plan.fresh if page.id not in plan.out for token in tokens] + k.machine.opening()


def _limit(k: Kernel, b: Branch, c: Think, before: int, charge: int) -> int:
    """Give how many tokens the burst may generate; raises ENOMEM or EDQUOT if that is none."""
    room = k.capacity - before - len(k.machine.closing())
    promised: int = k.started[b.key]["limit"] if b.noted else 1
    if room < promised and b.noted:
        raise ENOMEM(
            f"the prompt has {before} tokens and the answer, begun in a larger window, up to {promised}; "
            f"this window has {k.capacity}"
        )
    if room < promised:
        raise ENOMEM(f"the prompt has {before} tokens, the window {k.capacity}")
    if b.noted:  # begun before a restart: what it may generate was decided then
        return promised
    left = quota(b.proc)
    if left is not None:
        left -= charge
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
    plan, b.plan, ctx.before = b.plan, None, None
    assert plan
    reply = Completion(
        text=text.text,
        tokens=tokens,
        reason="stop" if ended else "length",
        prompt_tokens=burst.prompt,
        recalled=k.started[b.key].get("recalled", []),
    )
    unreserve(b.proc, plan, burst)
    if call.messages is None:
        k.scheduler.mmu.trim(ctx, min(ctx.computed, burst.prompt + len(tokens)))
        del ctx.tokens[burst.prompt :]
    else:
        k.scheduler.mmu.release(ctx)
    settle(k, b, ctx, call, plan, reply)
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


def settle(k: Kernel, b: Branch, ctx: Context, c: Think, plan: Plan, reply: Completion) -> None:
    """Account for a Think that succeeded: its answer and its pages come, others are gone. Live, and in a replay."""
    b.proc.tokens += plan.charge + len(reply.tokens)
    if c.messages is not None:
        return
    opening, closing = k.machine.opening(), k.machine.closing()
    ctx.tokens += [*reply.tokens, *closing]
    pager.turn(k, b, ctx, plan)
    answer = len(opening) + len(reply.tokens) + len(closing)
    id, (at, born) = ctx.next_page, b.proc.moment(k.now)
    ctx.pages.append(Page("assistant", answer, False, reply.text, id, id, at=at, born=born, used=id))
    ctx.answer = id
    ctx.next_page += 1


def redo_think(k: Kernel, b: Branch, c: Think, value: Completion) -> None:
    ctx = k.context(b)
    plan = arrival(k, b, ctx, c, value.recalled)
    if c.messages is None:
        pager.take_out(k, ctx, plan)
        ctx.tokens += prompt(k, plan)
    settle(k, b, ctx, c, plan, value)


def unreserve(process: Process, plan: Plan, burst: Burst) -> None:
    """A burst uses no more of the limit."""
    process.reserved -= burst.end - burst.prompt + plan.charge
    process.sampled += burst.generated


def withdraw(k: Kernel, b: Branch) -> None:
    """Take a burst back, or the search before it: the context is what it was."""
    k.invoked.pop(b.key, None)
    (burst, b.burst), (plan, b.plan) = (b.burst, None), (b.plan, None)
    if burst:
        assert plan
        unreserve(b.proc, plan, burst)
        k.scheduler.withdraw(burst)
        pager.restore(k, burst.ctx)
        if b.call.messages is not None:
            k.scheduler.mmu.release(burst.ctx)


HANDLERS = {Think: think, Count: count}
WITHDRAW = {Think: withdraw}
REDO = {Think: redo_think}
