"""Random programs against a plain model of context memory."""

import random
from contextlib import suppress

import pytest

from facts import small
from harness import MAIN, Ended, boot, clean
from tokix.kernel.context import STUB, Page
from tokix.kernel.cutting import cut
from tokix.kernel.pager import beginning
from tokix.kernel.stubs import stub
from tokix.sim import World
from tokix.syscalls import Advise, Append, Evict, Forget, Pages, Pin, Recall, SyscallError, Think
from torture import Killed, Mortal


class Model:
    """A window and an archive as two lists, with the rules in their plainest form."""

    def __init__(self, window):
        self.window, self.here, self.gone, self.next = window, [], {}, 0
        self.limit = max(16, window // 8)
        self.stubbed = True

    def pages(self, role, text, pinned=False):
        whole = len(text) + 2 <= max(self.limit, self.window // 4)
        pieces = [text] if whole else [piece for piece, _ in cut(small(), role, text, self.limit)]
        first = self.next
        return [[first + n, role, piece, pinned, len(piece) + 2, first, None] for n, piece in enumerate(pieces)]

    def size(self, pages):
        return sum(page[4] for page in pages)

    def groups(self, pages):
        """An answer and the results behind it; of a long one that comes last, only the first piece is with it."""
        found = []
        for page in pages:
            piece = page[0] != page[5] == pages[-1][5]
            if page[1] == "tool" and found and found[-1][0][1] == "assistant" and found[-1][0][6] is None and not piece:
                found[-1].append(page)
            else:
                found.append([page])
        return found

    def make_room(self, new, more, room, least):
        """Give the pages that leave, and the room for a stub of them; None if there is no room for all the rest."""
        pages = self.here + new
        high = min(int(0.9 * self.window), self.window - min(room, self.window - int(0.6 * self.window)))
        out = []
        size = self.size(pages) + more
        if size > high or size + least > self.window:
            users = [p for p in pages if p[1] == "user" and p[6] is None]
            for group in self.groups(pages):
                if size <= min(int(high * 0.6 / 0.9), self.window - least):
                    break
                if not any(p[3] or p[1] == "system" or p in (*users[-1:], pages[-1]) for p in group):
                    if not out and self.stubbed:
                        size += min(128, self.window // 16)
                    if not out:
                        size -= self.size(page for page in pages if page[0] == STUB)
                    out += group
                    size -= self.size(group)
        stays = self.size(page for page in pages if page not in out and not (out and page[0] == STUB))
        left = self.window - least - more - stays
        return None if left < 0 else (out, left)

    def enter(self, new, more=0, room=0, least=0):
        made = self.make_room(new, more, room, least)
        if made is None:
            return False
        self.next += len(new)
        out, left = made
        self.leave(out, left, new)
        return True

    def leave(self, out, left=None, new=()):
        before, self.here = self.here, [page for page in self.here if page not in out]
        for id, role, text, _, _, message, source in [page for page in [*before, *new] if page in out]:
            if source is not None:
                continue
            for n, (piece, _) in enumerate(cut(small(), role, text, self.limit)):
                if n:
                    id, self.next = self.next, self.next + 1
                self.gone[id] = [role, piece, message, beginning(piece)]
        if out and left is not None:
            self.make_stub(left)
        self.here += [page for page in new if page not in out]

    def make_stub(self, left):
        """Put a new stub in the place of the old one."""
        self.here = [page for page in self.here if page[0] != STUB]
        records = [Page(role, 0, False, shown, id, message) for id, (role, _, message, shown) in self.gone.items()]
        made = stub(small(), len(records), records, self.window) if self.stubbed else None
        if made and made[0].tokens <= left:
            page, _ = made
            at = next((n for n, p in enumerate(self.here) if not (p[3] or p[1] == "system")), len(self.here))
            self.here.insert(at, [STUB, "system", page.text, False, page.tokens, STUB, None])

    def spare(self):
        """Give the room for a stub."""
        return self.window - self.size(page for page in self.here if page[0] != STUB)

    def named(self, id):
        return [page for page in self.here if id in (page[0], page[5]) and id != STUB]

    def view(self):
        here = [[page[0], page[2], page[3], page[4], page[5], page[6]] for page in self.here]
        return sorted(here, key=lambda page: page[0]), sorted(self.gone)


def script(r):
    """Give random calls."""
    for _ in range(r.randint(5, 25)):
        text = " ".join(r.choice(["alpha", "beta", "gamma. ", "delta\n"]) for _ in range(r.choice([1, 3, 8, 60])))
        yield r.choice(
            [
                ["append", r.choice(["user", "tool", "tool", "assistant"]), text, r.random() < 0.1],
                ["append", "system", text[:20], False],
                ["think", text if r.random() < 0.7 else None, r.choice([1, 5, 30, 400])],
                ["pin", r.randint(0, 12), r.random() < 0.3],
                ["evict", r.randint(-1, 15)],
                ["advise", r.random() < 0.5],
                ["forget", r.randint(0, 15)],
                ["recall", r.choice(["alpha", "gamma delta"]), r.randint(1, 3), r.choice([10, 60])],
            ]
        )


async def actor(script):
    seen = []
    for step in script:
        outcome = None
        with suppress(SyscallError):
            match step:
                case ["append", role, text, pinned]:
                    outcome = await Append(role=role, text=text, pinned=pinned)
                case ["think", prompt, n]:
                    outcome = (await Think(prompt=prompt, max_tokens=n)).text
                case ["pin", id, pinned]:
                    outcome = await Pin(page=id, pinned=pinned) or "done"
                case ["advise", stubbed]:
                    outcome = await Advise(stub=stubbed) or "done"
                case ["evict", id]:
                    outcome = await Evict(pages=[id]) or "done"
                case ["forget", id]:
                    outcome = await Forget(page=id) or "done"
                case ["recall", query, k, budget]:
                    found = await Recall(query=query, k=k, budget=budget, load=True)
                    outcome = [[f.id, f.role, f.text, f.tokens] for f in found]
        pages = await Pages()
        here = [[p.id, p.text, p.pinned, p.tokens, p.message, p.recalled] for p in pages if p.resident]
        seen.append([step, outcome, here, [p.id for p in pages if not p.resident]])
    return seen


def judge(model, what):
    """Compare what a program saw after each call with the model."""
    step, outcome, here, gone = what
    match step:
        case ["append", role, text, pinned]:
            id = model.next
            assert outcome == (id if model.enter(model.pages(role, text, pinned)) else None)
        case ["think", prompt, n]:
            new = model.pages("user", prompt) if prompt is not None else []
            fits = model.enter(new, more=1, room=n + 1, least=2)
            assert (outcome is not None) == fits
            if fits:
                room = model.window - model.size(model.here) - 2
                assert len(outcome) == min(n, room), "an answer gets the room that there is"
                heavy = any(p[3] or p[1] == "system" or p[4] > model.window // 4 for p in model.here)
                assert len(outcome) >= min(n, int(0.4 * model.window) - 1) or heavy
                page = [model.next, "assistant", outcome, False, len(outcome) + 2, model.next, None]
                model.here, model.next = [*model.here, page], model.next + 1
        case ["pin", id, pinned]:
            assert (outcome is not None) == bool(model.named(id))
            for page in model.named(id):
                page[3] = pinned
        case ["advise", stubbed]:
            model.stubbed = stubbed
            if not stubbed:
                model.make_stub(model.spare())
        case ["evict", id]:
            known = model.named(id) or [i for i, page in model.gone.items() if id in (i, page[2])]
            allowed = known and not any(page[3] for page in model.named(id))
            assert (outcome is not None) == bool(allowed)
            if allowed:
                model.leave(model.named(id))
        case ["forget", id]:
            out = [i for i, page in model.gone.items() if id in (i, page[2])]
            gone_ids = {*out, *(page[0] for page in model.named(id))}
            assert (outcome is not None) == bool(gone_ids)
            model.here = [p for p in model.here if p[0] not in gone_ids and p[6] not in gone_ids]
            for i in out:
                del model.gone[i]
            if gone_ids and any(page[0] == STUB for page in model.here):
                model.make_stub(model.spare())
        case ["recall", _, k, budget] if outcome is not None:
            assert len(outcome) <= k
            assert sum(tokens for *_, tokens in outcome) <= budget
            for id, role, text, tokens in outcome:
                assert model.gone[id][:2] == [role, text]
                assert tokens == len(text) + 2
            loaded = {page[6] for page in model.here}
            new = sorted(page for page in outcome if page[0] not in loaded)
            at = enumerate(new, model.next)
            assert not new or model.enter([[i, role, text, False, n, i, id] for i, (id, role, text, n) in at])
    assert (here, gone) == model.view()
    assert model.size(model.here) <= model.window


@pytest.mark.parametrize("seed", range(40))
def test_random_programs_do_what_a_plain_model_does(seed):
    r = random.Random(seed)
    calls, window = [*script(r)], r.choice([128, 256, 300])

    async def main():
        return await actor(calls)

    def played(*crashes):
        store, world = Mortal(), World()
        for store.crash in [*crashes, (0, "")]:
            store.reopen()
            sim = boot(main, store=store, world=world, machine=small(window), budget=1)
            with suppress(Killed):
                while True:
                    sim.step()
                    look(sim, window)
                    if not sim.wait():
                        clean(sim)
                        return Ended(sim).value, store.commits
        raise AssertionError("it died once more than it was killed")

    seen, commits = played()
    assert len(seen) == len(calls)
    model = Model(window)
    for what in seen:
        judge(model, what)
    for _ in range(6):
        crash = r.randint(1, commits), r.choice(["before", "after"])
        assert played(crash)[0] == seen, f"killed {crash}"


def look(sim, window):
    """The window is never exceeded; the pages that memory knows of are those that the store has."""
    process = sim.kernel.procs.get(MAIN)
    ctx = process and process.root and process.root.ctx
    if not ctx:
        return
    assert len(ctx.tokens) <= window
    rows = {row[2]: row for row in sim.store.read("page", (process.pid, ""))}
    assert {*rows} == {*ctx.archived}
    for id, row in rows.items():
        page = ctx.archived[id]
        assert row[3:6] == (page.message, page.role, page.tokens)
        assert row[7].startswith(page.text.removesuffix("…"))
    assert {row[2] for row in sim.store.read("vector", (process.pid,))} <= {*rows}
