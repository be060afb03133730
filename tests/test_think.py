"""Think, and the pages that it thinks from."""

import pytest

from harness import Ended, always, boot, clean, errno, finish, run, told
from tokix.kernel.arch.toy import END, MARKS, ToyMachine
from tokix.kernel.events import Sampling
from tokix.kernel.policy import RR
from tokix.sim import World
from tokix.syscalls import (
    Append,
    ChatMessage,
    Count,
    Kill,
    Limits,
    Pages,
    Pin,
    Random,
    Read,
    Signal,
    Sleep,
    Spawn,
    Think,
    Wait,
    Write,
    select,
)
from torture import Killed, Mortal

# ---- Think


def test_a_think_is_what_the_machine_says():
    async def main():
        await Append(role="system", text="be brief")
        thought = await Think(prompt="hello", max_tokens=12)
        return [thought.model_dump(), [[p.id, p.role, p.tokens, p.text] for p in await Pages()]]

    machine = ToyMachine(ends=False)
    head = machine.render("system", "be brief") + machine.render("user", "hello") + machine.opening()
    tokens = machine.continuation(head, Sampling(""), 12)
    text = bytes(tokens).decode()
    thought, pages = always(main)
    assert thought == {"text": text, "tokens": tokens, "reason": "length", "prompt_tokens": len(head), "recalled": []}
    assert pages == [[0, "system", 10, "be brief"], [1, "user", 7, "hello"], [2, "assistant", 14, text]]


def test_a_think_ends_where_the_model_ends():
    async def main():
        return (await Think(prompt="when will you stop?", max_tokens=1000)).model_dump()

    machine = ToyMachine()
    head = machine.render("user", "when will you stop?") + machine.opening()
    *tokens, last = machine.continuation(head, Sampling(""), 1000)
    assert last == END
    found = always(main, machine=machine)
    said = {"text": bytes(tokens).decode(), "tokens": tokens, "reason": "stop", "prompt_tokens": len(head)}
    assert found == {**said, "recalled": []}


def test_a_stop_string_ends_the_text_in_front_of_it():
    async def main():
        free = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60)
        found = []
        for stop in ([free.text[10:13]], [free.text[7], "zzzz"], ["never there"], [free.text[0]], ["", free.text[5:9]]):
            cut = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60, stop=stop)
            expected = min((free.text.find(s) for s in stop if s and s in free.text), default=60)
            found.append([cut.text == free.text[:expected], len(cut.tokens) == expected, cut.reason])
        kept = await Think(prompt="go", max_tokens=60, stop=[free.text[10:13]])
        return [found, kept.text == (await Pages())[-1].text, sum(p.tokens for p in await Pages()) > 10]

    found, *rest = run(main)
    assert [f[:2] for f in found] == [[True, True]] * 5
    assert [f[2] for f in found] == ["stop", "stop", "length", "stop", "stop"]
    assert rest == [True, True]


def test_a_stream_shows_the_text_and_never_a_part_of_a_stop_string():
    async def main():
        free = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60)
        stop = [free.text[20:24], free.text[20:22] + "QQQ"]
        shown = await Think(messages=[ChatMessage(role="user", text="go")], max_tokens=60, stop=stop, stream=True)
        await Write(text="|")
        await Think(prompt="more", max_tokens=30, stream=True)
        return [shown.text, free.text]

    ended = finish(main)
    shown, free = ended.value
    assert shown == free[: free.find(free[20:24])]
    text, _, more = ended.world.output().partition("|")
    assert text == shown
    assert len(more) == 30
    always(main, step=3)


def test_a_stream_goes_where_descriptor_1_goes():
    async def child():
        return (await Think(prompt="x", max_tokens=8, stream=True)).text

    async def main():
        pid = await Spawn(program="child", fds={1: "pipe:p"})
        nowhere = await Spawn(program="child", fds={1: "null"})
        got = ""
        while text := await Read(fd="pipe:p"):
            got += text
        return [got, (await Wait(pid=pid)).value, (await Wait(pid=nowhere)).value]

    piped, said, silent = always(main, child)
    assert piped == said == silent


def test_length_and_the_window():
    async def main():
        one = await Think(messages=[ChatMessage(role="user", text="x")], max_tokens=1)
        full = await Think(messages=[ChatMessage(role="user", text="x" * 40)], max_tokens=10_000)
        tight = await Think(messages=[ChatMessage(role="user", text="x" * 59)], max_tokens=10_000)
        over = await told(Think(messages=[ChatMessage(role="user", text="x" * 60)], max_tokens=1))
        return [len(one.tokens), len(full.tokens), full.reason, len(tight.tokens), over]

    # 64: mark, text, END; the mark of the answer; the answer; END
    assert run(main, machine=ToyMachine(frames=8, window=64, ends=False)) == [
        1,
        20,
        "length",
        1,
        "ENOMEM: the prompt has 63 tokens, the window 64",
    ]
    assert run(main, machine=ToyMachine(frames=4, window=1000, ends=False))[1] == 20


def test_a_think_that_fails_leaves_the_context_as_it_was():
    async def child():
        await Append(text="before")
        first = await Think(prompt="one", max_tokens=3)
        before = [p.model_dump() for p in await Pages()]
        failures = [
            await errno(Think(messages=[ChatMessage(role="user", text="x" * 500)])),
            await errno(Think(prompt="x" * 500)),
            await errno(Think(prompt="p", messages=[ChatMessage(role="user", text="m")])),
            await errno(select(Think(prompt="cut", max_tokens=60), Sleep(seconds=2))),
        ]
        same = before == [p.model_dump() for p in await Pages()]
        second = await Think(prompt="two", max_tokens=3)
        return [failures[:3], failures[3][0], same, second.prompt_tokens - first.prompt_tokens]

    async def main():
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=50)))).value

    value = always(main, child, machine=ToyMachine(frames=16, window=100, ends=False))
    assert value == [["ENOMEM", "EDQUOT", "EINVAL"], 1, True, 3 + 1 + 6]


def test_the_tokens_of_the_context_are_equal_before_and_after_a_failure():
    async def child():
        await Append(text="a page of more than one frame, so that there is something to copy")
        await Think(prompt="q", max_tokens=4)
        while True:
            await errno(Think(prompt="longer than a frame of sixteen tokens", max_tokens=1000))
            await errno(Think(prompt="x" * 5000))

    async def main():
        pid = await Spawn(program="child")
        for _ in range(6):
            await Sleep(seconds=7.3)
            await Kill(pid=pid)
        await Kill(pid=pid, signal=Signal.KILL)

    sim, contexts = boot(main, child), set()
    for _ in range(400):
        sim.step()
        child_process = sim.kernel.procs.get(3)
        branch = child_process and child_process.root
        if branch and branch.ctx and len(branch.ctx.pages) == 3:
            ctx = branch.ctx
            whole = ctx.before or ctx.tokens[: branch.burst.base if branch.burst else None]
            contexts.add((tuple(whole), tuple(ctx.pages)))
            assert ctx.computed <= len(ctx.tokens)
        if not sim.wait():
            break
    assert len(contexts) == 1
    clean(sim)


def test_explicit_messages_leave_the_context_alone():
    async def main():
        await Append(text="mine")
        own = (await Think(prompt="q", max_tokens=5)).text
        before = [p.model_dump() for p in await Pages()]
        roles = ("system", "user", "assistant", "tool")
        talk = [ChatMessage(role=role, text=f"{role} says") for role in roles]
        other = await Think(messages=talk, max_tokens=5)
        again = await Think(messages=talk, max_tokens=5)
        return [
            own != other.text,
            other == again,
            before == [p.model_dump() for p in await Pages()],
            other.prompt_tokens,
        ]

    size = sum(len(f"{role} says") + 2 for role in MARKS) + 1
    assert always(main) == [True, True, True, size]


def test_seeds():
    async def main():
        hot = {"messages": [ChatMessage(role="user", text="dice")], "temperature": 2.0, "max_tokens": 30}
        seeded = [(await Think(**hot, seed=seed)).text for seed in (1, 1, 2, -1)]
        free = [(await Think(**hot)).text for _ in range(2)]
        cold = [(await Think(**{**hot, "temperature": 0.0}, seed=seed)).text for seed in (1, 2)]
        return [seeded, free, cold]

    seeded, free, cold = always(main, step=3)
    assert seeded[0] == seeded[1]
    assert len(set(seeded)) == 3
    assert free[0] != free[1]
    assert not set(free) & set(seeded)
    assert cold[0] == cold[1]


def test_a_seed_is_the_same_for_everybody_and_none_is_ones_own():
    async def child(seed):
        return (await Think(prompt="dice", temperature=2.0, max_tokens=20, seed=seed)).text

    async def main():
        pids = [await Spawn(program="child", args=[seed]) for seed in (5, 5, None, None)]
        return [(await Wait(pid=pid)).value for pid in pids]

    for lanes, policy in ((1, RR(3)), (4, RR(16)), (2, RR(1))):
        one, two, three, four = run(main, child, lanes=lanes, policy=policy)
        assert one == two
        assert len({one, three, four}) == 3
        assert [one, two, three, four] == run(main, child)


def test_the_seed_of_the_kernel_is_kept():
    async def main():
        return [await Random(), (await Think(prompt="x", temperature=2.0, max_tokens=9)).text]

    assert run(main, seed=1) != run(main, seed=2)
    store = Mortal()
    store.crash = (1, "after")
    with pytest.raises(Killed):
        boot(main, store=store, seed=1).run()
    sim = boot(main, store=store, seed=2).run()
    assert Ended(sim).value == run(main, seed=1)


def test_a_burst_that_a_smaller_machine_cannot_finish():
    """The machine of the next boot is smaller: ENOMEM for who does not fit, and the others go on."""

    async def small():
        return len((await Think(prompt="x", max_tokens=20)).tokens)

    async def main():
        pid = await Spawn(program="small")
        large = await errno(Think(prompt="x" * 50, max_tokens=500))
        return [large, (await Wait(pid=pid)).value]

    store, world = Mortal(), World()
    store.crash = (1, "after")
    with pytest.raises(Killed):
        boot(main, small, store=store, world=world, machine=ToyMachine(frames=64, ends=False)).run()
    sim = boot(main, small, store=store, world=world, machine=ToyMachine(frames=8, ends=False)).run()
    clean(sim)
    assert Ended(sim).value == ["ENOMEM", 20]


# ---- Append, Pages, Pin, Count


def test_pages_and_their_limits():
    async def main():
        ids = [await Append(role=role, text=role) for role in MARKS]
        empty = await Append(text="")
        await Pin(page=1)
        await Pin(page=2, pinned=False)
        large = await told(Append(text="x" * 5000, pinned=True))
        wrong = [await errno(Pin(page=page)) for page in (-1, 5)]
        return [ids, empty, large, wrong, [(p.role, p.tokens, p.pinned) for p in await Pages()]]

    ids, empty, large, wrong, pages = always(main)
    assert ids == [0, 1, 2, 3]
    assert empty == 4
    assert large.startswith("ENOMEM: 5054 tokens are needed, the window has 2048; pinned pages")
    assert wrong == ["ENOENT", "ENOENT"]
    assert pages == [[role, len(role) + 2, role == "user"] for role in MARKS] + [["user", 2, False]]


def test_count_counts_as_the_machine_does():
    async def main():
        return [await Count(text=text) for text in ("", "abc", "é€", "\x00")]

    assert run(main) == [0, 3, 5, 1]
