"""Break each rule that the kernel lives by, and see that the torture notices.

A rule whose breaking nobody notices is a rule that nobody tests.
"""

import pytest

from tokix.kernel import life, pager, recovery, streams, taking
from tokix.kernel import process as processes
from tokix.kernel.calls import compute, device, memory, rights
from tokix.kernel.frames import FramePool
from tokix.kernel.kernel import Kernel
from tokix.kernel.mmu import Mmu
from tokix.kernel.policy import RR
from tokix.sim import Simulation
from torture import broken, run

SMALL = {"frames": 24}
SEVERAL = {"budget": 3, "lanes": 3, "frames": 40}


def order(recover):
    """Deliver by path instead of in the order of decision."""

    def wrong(k, process):
        process.log.sort(key=lambda entry: [int(n) for n in entry.path.split(".")])
        return recover(k, process)

    return wrong


def output_commit(step):
    """Let effects out before their rows are committed."""

    def wrong(sim):
        due, sim.due = sim.due, []
        outcome = sim.kernel.step(due, sim.world.now)
        for tick in outcome.ticks:
            sim.later(1.0, tick)
        for effect in outcome.effects:
            sim.start(effect)
        if outcome.rows:
            sim.store.commit(outcome.rows)

    return wrong


def outbox(recover):
    """Forget what was committed and not yet shown."""
    return lambda k, notes, chunks: recover(k, notes, [])


def copy_on_write(grow):
    """Write into a frame that somebody else uses."""

    def wrong(mmu, ctx, start, end):
        uses = mmu.pool.uses
        first = ctx.table[start // 16] if start // 16 < len(ctx.table) else None
        shared = first is not None and uses[first] > 1
        if shared:
            uses[first] -= 1
        grow(mmu, ctx, start, end)
        if shared:
            uses[first] += 1

    return wrong


def atomic_think(withdraw):
    """Leave what an interrupted Think has written in the context."""

    def wrong(k, b):
        if b.burst:
            b.burst.base = len(b.burst.ctx.tokens)
        withdraw(k, b)

    return wrong


def unsafe_effects(call):
    """Run an unsafe effect again after a crash."""

    def wrong(k, b, c):
        k.started.pop(b.key, None)
        return call(k, b, c)

    return wrong


def two_passes(replay):
    """Let the calls of a process happen before the next process is rebuilt."""

    def wrong(k, process):
        replay(k, process)
        for branch in recovery.open_branches(process):
            recovery.reopen(k, branch)

    return wrong


def lineage(descend):
    """Derive identity from something that depends on the schedule."""
    seen = iter(range(1, 10**9))
    return lambda *call: f"{descend(*call)}#{next(seen)}"


def flying_frames(let_go):
    """Free the frames of a tick in flight."""
    return lambda mmu, ctx, frames: mmu.pool.drop(reversed(frames))


def exact_prefix(find):
    """Take a frame with the same tokens for the same, whatever is in front of it."""
    return lambda pool, parent, tokens: next((b for b in pool.index.values() if b.tokens == tuple(tokens)), None)


def moved_frames(charge):
    """Forget to tell the machine what moves to and from the swap file."""
    return lambda mmu, rows: [move for move in charge(mmu, rows) if max(move) < mmu.pool.total]


def partial_tokens(save):
    """Show tokens that are not saved."""

    def wrong(k, b, burst):
        burst.text.saved = burst.generated

    return wrong


def sampling_stream(think):
    """Sample by the tick instead of by the stream."""

    def wrong(k, b, c):
        outcome = think(k, b, c)
        if b.burst:
            b.burst.sampling = b.burst.sampling._replace(stream=f"tick {k.scheduler.clock}")
        return outcome

    return wrong


def mail_row(deliver):
    """Keep mail in memory only."""

    def wrong(k, table, key, row):
        if table != "message":
            deliver(k, table, key, row)

    return wrong


def stopped_delivers(stop):
    """Let STOP do nothing."""
    return lambda k, process: None


def taken_in_vain(may_take):
    """Let a branch take what it may never get."""
    return lambda branch: True


def written_pages(archive):
    """Let pages leave the window that nobody has written."""

    def wrong(k, b, ctx, page):
        before, b.proc.replaying = b.proc.replaying, True
        archive(k, b, ctx, page)
        b.proc.replaying = before

    return wrong


def recalled_once(archive):
    """Store what was recalled again."""
    return lambda k, b, ctx, page: archive(k, b, ctx, page._replace(source=None))


def moved_again(redo):
    """Let a replay forget what happened to pages."""
    return lambda k, b, c, value: None


def capability(permit):
    """Let everybody do everything."""
    return lambda process, cap: None


MUTANTS = [
    pytest.param(recovery, "_replay", order, SEVERAL, id="order"),
    pytest.param(Simulation, "step", output_commit, {}, id="output commit"),
    pytest.param(streams, "recover", outbox, {}, id="outbox"),
    pytest.param(Mmu, "grow", copy_on_write, {}, id="copy on write"),
    pytest.param(compute, "withdraw", atomic_think, {}, id="atomic Think"),
    pytest.param(device, "call", unsafe_effects, {}, id="unsafe effects"),
    pytest.param(recovery, "replay", two_passes, SEVERAL, id="two passes"),
    pytest.param(processes, "descend", lineage, {}, id="lineage"),
    pytest.param(Mmu, "let_go", flying_frames, SMALL, id="frames in flight"),
    pytest.param(FramePool, "find", exact_prefix, SMALL, id="the same behind the same"),
    pytest.param(Mmu, "charge", moved_frames, SMALL, id="swap"),
    pytest.param(compute, "save", partial_tokens, {}, id="tokens before text"),
    pytest.param(compute, "think", sampling_stream, {}, id="sampling stream"),
    pytest.param(Kernel, "insert", mail_row, SEVERAL, id="durable mail"),
    pytest.param(life, "stop", stopped_delivers, {}, id="STOP"),
    pytest.param(pager, "archive", written_pages, {}, id="text before the page leaves"),
    pytest.param(pager, "archive", recalled_once, {}, id="copies are not stored again"),
    pytest.param(memory, "redo_append", moved_again, {}, id="pages come again"),
    pytest.param(rights, "permit", capability, {}, id="capabilities"),
    pytest.param(taking, "may_take", taken_in_vain, {}, id="nothing taken in vain"),
]


@pytest.mark.parametrize(("target", "name", "mutant", "shape"), MUTANTS)
def test_the_torture_notices(target, name, mutant, shape):
    expected = run(**shape)
    with broken(target, name, mutant):
        assert notices(expected, shape), f"nobody noticed that {name} is broken"


def notices(expected, shape):
    """Run until something is found: undisturbed under another schedule, then with kills."""
    for arguments in [{"policy": RR(3)}, {"lanes": 5}, *kills(expected.store.commits)]:
        try:
            run(**{**shape, **arguments}).same_as(expected)
        except Exception:  # whatever it is that fails, it was noticed
            return True
    return False


def kills(commits):
    """Give all kills, far from each other first."""
    for n in sorted(range(1, commits + 1), key=lambda n: n * 0.618034 % 1):
        for when in ("after", "before"):
            yield {"crashes": [(n, when)]}
