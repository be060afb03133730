"""What one context has computed is there for all that begin with the same tokens."""

import pytest

from rig import Rig, fed
from tokix.kernel import admission
from tokix.kernel.frames import FRAME

SYSTEM = "You are a careful reader. You answer in one sentence, and you never guess. "  # 75 tokens: 4 whole frames
WHOLE = len(SYSTEM) // FRAME * FRAME


def feeds(rig):
    """Run to the end; gives how many tokens were fed."""
    before = rig.mmu.counters.fed
    rig.run()
    return rig.mmu.counters.fed - before


def test_a_prompt_that_begins_like_another_is_not_computed_again():
    rig = Rig()
    rig.think(SYSTEM + "Who is it?", 1)
    assert feeds(rig) == len(SYSTEM) + 10
    rig.think(SYSTEM + "What is it?", 1)
    assert feeds(rig) == len(SYSTEM) + 11 - WHOLE
    assert rig.mmu.counters.hits == WHOLE
    rig.empty()


def test_it_is_there_when_the_context_that_computed_it_is_gone():
    rig = Rig()
    rig.mmu.release(rig.think(SYSTEM, 1).ctx)
    rig.run()
    rig.mmu.release(rig.contexts[0])
    assert rig.free() == rig.mmu.pool.total
    again = rig.think(SYSTEM, 1)
    assert feeds(rig) == len(SYSTEM) - WHOLE
    assert again.ctx.computed == len(SYSTEM)
    rig.empty()


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_prompt_that_is_known_to_the_last_token_is_fed_one_frame(frames):
    """The last token has to be fed, for its logits are not in a frame; and frames are found as a whole."""
    rig = Rig()
    prompt = SYSTEM[: frames * FRAME]
    rig.think(prompt, 1)
    rig.run()
    rig.think(prompt, 5)
    assert fed(rig.start())[0] == FRAME
    rig.land()
    rig.run()
    rig.empty()


def test_a_context_goes_on_where_it_was_and_others_go_on_from_what_it_said():
    rig = Rig()
    first = rig.think(SYSTEM, 40)
    rig.run()
    said = bytes(first.ctx.tokens).decode()
    rig.think(said + " And then?", 1)
    assert feeds(rig) == len(said) + 10 - (len(said) - 1) // FRAME * FRAME
    rig.empty()


def test_one_other_token_and_nothing_behind_it_is_shared():
    rig = Rig()
    rig.think(SYSTEM, 1)
    rig.run()
    rig.think(SYSTEM[:20] + "X" + SYSTEM[21:], 1)
    assert feeds(rig) == len(SYSTEM) - FRAME
    rig.think("X" + SYSTEM[1:], 1)
    assert feeds(rig) == len(SYSTEM)
    rig.empty()


def test_the_same_tokens_behind_others_are_not_the_same():
    rig = Rig()
    rig.think("a" * FRAME + "b" * FRAME + "c", 1)
    rig.run()
    rig.think("d" * FRAME + "b" * FRAME + "c", 1)
    assert feeds(rig) == 2 * FRAME + 1
    rig.empty()


def test_of_many_that_begin_alike_at_once_one_computes_and_the_others_take_it_over():
    rig = Rig(lanes=8, prefill=512)
    bursts = [rig.think(f"{SYSTEM}Number {n}.", 1) for n in range(8)]
    assert feeds(rig) == 84 + 7 * 4, "80 of 84 tokens are five frames"
    assert len({tuple(burst.ctx.table[:5]) for burst in bursts}) == 1
    rig.empty()


def test_two_that_say_the_same_at_once_end_up_with_the_same_frames():
    rig = Rig()
    a, _, _, b = (rig.think(prompt, 60) for prompt in ("What is it?", "a", "b", "What is it?"))
    rig.scheduler.set_policy(type(rig.scheduler.policy)(quantum=1))
    a.sampling = b.sampling
    rig.run()
    assert a.ctx.tokens == b.ctx.tokens
    assert a.ctx.table[:-1] == b.ctx.table[:-1]
    rig.empty()


def test_what_a_tick_computes_can_be_found_when_it_is_done_and_not_before():
    rig = Rig(prefill=512, lanes=3)
    first = rig.think(SYSTEM, 2)
    rig.start()
    assert not rig.mmu.pool.index
    rig.scheduler.withdraw(first)
    rig.land()
    assert not rig.mmu.pool.index, "nobody knows whether it would have been right"
    rig.think(SYSTEM, 2)
    assert feeds(rig) == len(SYSTEM) + 1
    rig.empty()


def test_what_was_used_least_lately_goes_first_and_its_end_before_its_beginning():
    rig = Rig(frames=8, lanes=1)
    for prompt in ("a" * 48, "b" * 48):
        rig.think(prompt, 1)
        rig.run()
        rig.mmu.release(rig.contexts[-1])
    rig.think("c" * 60, 4)  # of eight frames six are known; two of the oldest have to go
    rig.run()
    rig.mmu.release(rig.contexts[-1])
    known = {(len(b.tokens) and b.tokens[0], b.parent is None) for b in rig.mmu.pool.blocks.values()}
    assert (ord("a"), True) in known
    assert (ord("a"), False) not in known
    assert {(ord("b"), True), (ord("b"), False)} <= known
    rig.empty()


def test_a_frame_that_can_be_found_is_not_written():
    """A context that is cut back inside of a whole frame writes on in a copy."""
    rig = Rig()
    rig.think(SYSTEM[:40], 1)
    rig.run()
    [ctx] = rig.contexts
    del ctx.tokens[20:]
    rig.mmu.trim(ctx, 20)
    copies = rig.mmu.counters.copies
    rig.think("other", 3, ctx=ctx)
    rig.run()
    assert rig.mmu.counters.copies == copies + 1
    rig.think(SYSTEM[:40], 3)
    rig.run()
    rig.empty()


def test_who_was_to_compute_for_others_and_has_no_frames_holds_nobody_up(monkeypatch):
    """Of three that begin alike the first two lose their lanes for want of frames, in the same tick."""
    rig = Rig(lanes=3, prefill=512)
    bursts = [rig.think(f"{SYSTEM}Number {n}.", 3) for n in range(3)]
    room, asked = admission.room, iter(range(100))
    monkeypatch.setattr(admission, "room", lambda *args: next(asked) >= 2 and room(*args))
    tick = rig.start()
    assert [row.start for row in tick.rows] == [0]
    rig.land()
    monkeypatch.undo()
    assert {*rig.run()} == {*bursts}
    rig.empty()
