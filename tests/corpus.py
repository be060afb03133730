"""A corpus of programs that uses every call, and whose results do not depend on the schedule.

They live in `corpus_town`; those that remember are in `corpus_memory`. Exits are compared by lineage, without pids.
"""

import itertools
import sys

import corpus_memory
from corpus_memory import errno

from tokix.syscalls import (
    EAGAIN,
    ECHILD,
    EDQUOT,
    EINTR,
    EINVAL,
    ENOENT,
    ENOMEM,
    EPERM,
    EPIPE,
    ESRCH,
    ETIMEDOUT,
    EUNKNOWN,
    Append,
    Call,
    ChatMessage,
    Count,
    Devices,
    Drop,
    Exec,
    Exit,
    Fork,
    GetPid,
    Grant,
    Journal,
    Kill,
    Limits,
    Now,
    Pages,
    Pin,
    Random,
    Read,
    Recv,
    Renice,
    Sched,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Sysinfo,
    Think,
    Wait,
    Write,
    gather,
    select,
)

# ---- programs


PARTS = (
    "mapper",
    "forker",
    "payer",
    "timers",
    "reaper",
    "crashers",
    "relay",
    "piper",
    "guarded",
    "limited",
    "atomic",
    "observer",
    "streamer",
    "reader",
    "orphaner",
    "selector",
    "postbox",
    "sleepers",
    "rememberer",
    "chronicler",
    "sharers",
)


async def init():
    for i, name in enumerate(PARTS):
        await Spawn(program=name, nice=i % 3, fds={0: "tty"} if name == "reader" else {})
    found = [await Wait() for _ in range(len(PARTS) + 2)]  # and two orphans
    return sorted(status.program for status in found)


async def mapper():
    me, order = await GetPid(), []
    workers = [await Spawn(program="worker", args=[me, 2]) for _ in range(2)]
    for i in range(4):
        await Send(to=workers[i % 2], body=f"part {i}")

    async def branch(i, call):
        value = await call
        order.append(i)  # shared by the branches: a replay must repeat the interleaving
        await Send(to=me, body=["branch", i, len(order)], tag="branch")
        return value

    values = await gather(
        branch(0, Think(prompt="alpha", max_tokens=12, stream=True)),
        branch(1, Call(device="web", op="get", args={"url": "x"})),
        branch(2, Sleep(seconds=4)),
        branch(3, Random()),
        branch(4, Think(prompt="beta", max_tokens=9)),
    )
    marks = [(await Recv(tag="branch")).body for _ in range(5)]
    assert all(order[mark[2] - 1] == mark[1] for mark in marks), "the replay changed the interleaving"
    mail = sorted([(await Recv(tag="")).body for _ in range(4)])
    done = [(await Wait(pid=w)).value for w in workers]
    return [[str(v) for v in values], (await Think(prompt="sum")).text, mail, done]


async def worker(boss, parts):
    for _ in range(parts):
        part = await Recv(sender=boss)
        page = await Call(device="web", op="get", args={"url": part.body})
        await Send(to=boss, body=(await Think(prompt=f"{part.body} {page}", max_tokens=5)).text)
    return parts


async def worker2(word):
    return (await Think(prompt=word, max_tokens=10)).text


async def forker():
    await Append(role="system", text="You are a fork.", pinned=True)
    common = await Think(prompt="a common prefix")
    await Pin(page=1)
    child = await Fork()
    own = await Think(prompt="parent" if child else "child", max_tokens=20)
    pages = [(p.role, p.tokens, p.pinned) for p in await Pages()]
    return [common.text, own.text, pages, (await Wait(pid=child)).value if child else None]


async def payer():
    for bill in ("rent", "power"):
        while True:
            try:
                await Call(device="bank", op="pay", args={"bill": bill})
            except EUNKNOWN as error:
                if not await Call(device="bank", op="seen", args={"key": error.key}):
                    continue
            break
    return [
        "paid",
        await errno(Call(device="web", op="get", args={"url": "broken"})),
        await errno(Call(device="x", op="y")),
    ]


async def timers():
    before = await Now()
    await Sleep(seconds=3)
    late = await errno(Recv(timeout=2))
    return [late, await Now() - before >= 5, await errno(Read(timeout=1)), await errno(Wait())]


async def reaper():
    me = await GetPid()
    victims = [await Spawn(program=name, args=[me]) for name in ("polite", "nested", "endless", "rude")]
    for pid in victims:
        await Recv(sender=pid)
    stopped = await Spawn(program="echo1", args=[me])
    await Kill(pid=stopped, signal=Signal.STOP)
    await Send(to=stopped, body="while you were stopped")
    state = (await Stat(pid=stopped))[0].state
    for pid, signal in zip(victims, (Signal.TERM, Signal.INT, Signal.KILL, Signal.TERM), strict=True):
        await Kill(pid=pid, signal=signal)
    await Kill(pid=stopped, signal=Signal.CONT)
    said = (await Recv(sender=stopped)).body
    ends = [await Wait(pid=pid) for pid in (*victims, stopped)]
    return [state, said, [(e.reason, e.value, e.detail) for e in ends], await errno(Kill(pid=victims[0]))]


async def polite(boss):
    await Send(to=boss, body="ready")
    try:
        while True:
            await Think(messages=[ChatMessage(role="user", text="for ever")], max_tokens=100_000)
    except EINTR as error:
        return [error.detail, (await Think(messages=[ChatMessage(role="user", text="bye")])).text]


async def atomic():
    victim = await Spawn(program="interrupted", args=[await GetPid()])
    await Recv(sender=victim)
    await Sleep(seconds=9.3)  # a tick is in flight then
    await Kill(pid=victim)
    return (await Wait(pid=victim)).value


async def interrupted(boss):
    first = await Think(prompt="I am ", max_tokens=10)
    await Send(to=boss, body="ready")
    try:
        await Think(prompt="long " * 20, max_tokens=100_000)
    except EINTR as error:
        return [error.detail, first.text, (await Think(prompt="bye", max_tokens=10)).text, len(await Pages())]


async def nested(boss):
    seen = []

    async def branch(i):
        for n in itertools.count():
            seen.append((await Think(prompt=f"{i}.{n}", max_tokens=2)).text)
            if len(seen) == 3:
                await Send(to=boss, body="ready")
            await Sleep(seconds=i)

    try:
        await gather(branch(1), branch(2))
    except EINTR as error:
        return [error.detail, len(seen) > 2, (await Think(prompt="end")).text]


async def endless(boss):
    await Send(to=boss, body="ready")
    while True:
        await Think(prompt="x", max_tokens=9, stream=False)


async def rude(boss):
    await Send(to=boss, body="ready")
    await Recv()


async def echo1(boss):
    await Send(to=boss, body=(await Recv()).body)


async def crashers():
    ends = [await Wait(pid=await Spawn(program=name)) for name in ("crasher", "leaver", "unjson", "stray", "deep")]
    return [(e.reason, e.value, e.detail.partition(" (")[0]) for e in ends]


async def crasher():
    await Sleep(seconds=1)
    raise ValueError("boom")


async def leaver():
    raise SystemExit(3)


async def unjson():
    return [await errno(Send(to=1, body=object())), object()]


class Future:
    def __await__(self):
        return (yield self)


async def stray():
    return [await errno(Future()), await errno(Exec(program="nothing"))]


async def deep():
    async def leave():
        await Sleep(seconds=1)
        await Exit(value="from a branch")

    async def dig():
        await gather(leave(), Recv())

    await gather(dig(), Recv())


async def relay(rounds=3, text=""):
    text += (await Think(prompt="round", max_tokens=3)).text
    if not rounds:
        return [text, len(await Pages())]
    return await Exec(program="relay", args=[rounds - 1, text], fresh=rounds == 2)


async def piper():
    await Spawn(program="producer", fds={1: "pipe:a"})
    await Spawn(program="filter", fds={0: "pipe:a", 1: "pipe:b"})
    got = ""
    while text := await Read(fd="pipe:b", limit=1000):
        got += text
    await Spawn(program="deaf", fds={0: "pipe:c"})
    await Write(fd="pipe:c", text="hello")
    reasons = sorted([(await Wait()).reason for _ in range(3)])
    broken = await errno(Write(fd="pipe:c", text="anybody?"))
    return [len(got), got[:3], got[-3:], reasons, broken, await errno(Read(fd="pipe:none"))]


async def producer():
    for i in range(4):
        await Write(text=f"{i}" * 30_000)  # more than the pipe holds: it has to wait
    await Write(text="", close=True)
    return await errno(Write(text="more"))


async def filter():
    while text := await Read():
        await Write(text=text.replace("2", "two"))
    await Think(prompt="to the pipe", max_tokens=5, stream=True)


async def deaf():
    return await Read()


async def guarded():
    me = await GetPid()
    jailed = await Spawn(program="jailed", args=[me], caps=["call:web.*"])
    await Recv(sender=jailed)
    await Grant(pid=jailed, caps=["think"])
    await Send(to=jailed, body="go")
    too_much = await errno(Drop(keep=["think", "kill:*"]))
    end = await Wait(pid=jailed)
    return [end.value, end.detail, too_much, await errno(Spawn(program="echo1")), await errno(Kill(pid=1))]


async def jailed(boss):
    refused = [
        await errno(call)
        for call in (
            Think(prompt="may I"),
            Call(device="bank", op="pay", args={"bill": "evil"}),
            Spawn(program="echo1"),
            Send(to=1, body="hi"),
            Kill(pid=boss),
            Drop(keep=["*"]),
            Grant(pid=boss, caps=["think"]),
            Renice(pid=await GetPid(), nice=-20),
            SetLimit(limit="messages", value=None),
        )
    ]
    page = await Call(device="web", op="get", args={"url": "mine"})
    await Send(to=boss, body="ready")
    await Recv(sender=boss)
    said = await Think(prompt="may I", max_tokens=4)
    await Drop()
    return [refused, page, said.text, await errno(Think(prompt="again"))]


async def limited():
    spent = await Wait(pid=await Spawn(program="spender", limits=Limits(tokens=60, children=1)))
    slow = await Wait(pid=await Spawn(program="sleeper", limits=Limits(seconds=5)))
    await SetLimit(limit="children", value=1)
    again = await Wait(pid=await Spawn(program="spender", limits=Limits(tokens=30, children=0)))
    return [spent.value, (slow.reason, slow.detail), again.value, await errno(Append(text="x" * 10_000, pinned=True))]


async def spender():
    first = await Think(prompt="spend", max_tokens=5)
    child = await errno(Spawn(program="sleeper", limits=Limits(seconds=1)))
    second = await errno(Spawn(program="sleeper"))
    rest = await errno(Think(prompt="all", max_tokens=1000))
    rest = getattr(rest, "tokens", rest)
    return [first.text, isinstance(child, int), second, len(rest), await errno(Think(prompt="one more"))]


async def sleeper():
    await Sleep(seconds=1e9)


async def observer():
    me = await GetPid()
    await Renice(pid=me, nice=5)
    [info] = await Stat(pid=me)
    everyone = {p.program for p in await Stat(dead=True)}
    return [
        (info.program, info.nice, info.state, info.on),
        {"init", "observer"} <= everyone,
        [d.name for d in await Devices()],
        await Count(text="twelve bytes"),
        0 <= await Random() < 1,
        await errno(Stat(pid=10_000)),
        await errno(Wait(pid=1)),
        [entry.call.partition("{")[0] for entry in await Journal(pid=me)][:2],
        (await Sched(policy="RR")).policy,
        [process.pid == me for process in (await Sysinfo(pid=me)).processes],
    ]


async def streamer():
    await Write(text="begin\n", fd=2)
    one = await Think(prompt="stream", max_tokens=40, stream=True, stop=["e", "qq"])
    two = await Think(
        messages=[ChatMessage(role="user", text="hot")], max_tokens=20, temperature=1.5, top_p=0.9, top_k=20
    )
    three = await Think(messages=[ChatMessage(role="user", text="hot")], max_tokens=20, temperature=1.5, seed=7)
    four = await Think(prompt="more", max_tokens=30, stream=True, temperature=0.7)
    both = await errno(Think(prompt="a", messages=[ChatMessage(role="user", text="b")]))
    large = await errno(Think(messages=[ChatMessage(role="user", text="y" * 5000)]))
    return [[(c.text, c.reason) for c in (one, two, three, four)], both, large, len(await Pages())]


async def reader():
    got = []
    while line := await Read():
        got.append(line)
    return got


async def orphaner():
    await Spawn(program="orphan")
    await Exit(value="gone")


async def orphan():
    await Sleep(seconds=6)
    return "adopted"


async def selector():
    async def fails():
        await Sleep(seconds=2)
        raise LookupError("in a branch")

    first = await select(Recv(), Sleep(seconds=2), Think(prompt="slow", max_tokens=300))
    nested = await select(gather(Recv(), Sleep(seconds=1)), select(Recv(), Sleep(seconds=1)))
    try:
        await gather(Recv(), fails(), Think(prompt="never", max_tokens=300))
    except LookupError as error:
        failed = str(error)
    empty = await gather()
    child = await errno(gather(Fork(), Sleep(seconds=1)))
    me = await GetPid()
    await gather(*[Send(to=me, tag=tag) for tag in "abcd"])
    kept = sorted([(await select(*[Recv(tag=tag) for tag in "abcd"]))[1].tag for _ in range(4)])
    return [kept, first[0], nested, failed, empty, child, (await Think(prompt="clean", max_tokens=6)).text]


async def postbox():
    me = await GetPid()
    box = await Spawn(program="box", args=[me], limits=Limits(messages=2))
    await Recv(sender=box)
    full = [await errno(Send(to=box, body=i, block=False)) for i in range(3)]
    a, b = await gather(Send(to=box, body="waits 1"), Send(to=box, body="waits 2", tag="now"))
    await Send(to=box, body="last")
    end = await Wait(pid=box)
    return [full, a, b, end.value, await errno(Send(to=box, body="too late"))]


async def box(boss):
    await Send(to=boss, body="ready")
    await Sleep(seconds=5)
    first = (await Recv(tag="now")).body  # it waits at the door: the box is full of other mail
    return [first, *[(await Recv(sender=boss)).body for _ in range(4)]]


async def sleepers():
    await gather(*(Sleep(seconds=i / 4) for i in range(8)))
    return sorted([(await Wait(pid=await Spawn(program="orphan"))).value, await errno(Wait(pid=1))])


def programs_of(module):
    """Give the functions of a module by name."""
    return {
        name: f for name, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__ and callable(f)
    }


PROGRAMS = programs_of(sys.modules[__name__]) | programs_of(corpus_memory)
USED_ERRORS = (EAGAIN, ECHILD, EDQUOT, EINTR, EINVAL, ENOENT, ENOMEM, EPERM, EPIPE, ESRCH, ETIMEDOUT, EUNKNOWN)
