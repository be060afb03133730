"""Random programs against a plain model of the ABI: no schedule and no kill may change what a program sees.

A program is a script. Mail is received by its sender's name, so that the network of processes is deterministic (Kahn
1974): the model runs the scripts one after the other with queues and an oracle for the machine, without any kernel.
"""

from collections import defaultdict
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokix.kernel.arch.toy import END, ToyMachine
from tokix.kernel.events import Sampling
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.sim import Simulation, World
from tokix.syscalls import (
    ESRCH,
    Append,
    Exec,
    ExitStatus,
    Fork,
    GetPid,
    Pages,
    Random,
    Recv,
    Send,
    Sleep,
    Spawn,
    Think,
    Wait,
    Write,
    gather,
    select,
)
from torture import Killed, Mortal

WINDOW = 512

# ---- scripts

words = st.text("abc ", max_size=6)
think = st.tuples(st.just("think"), words, st.integers(1, 24))
plain = st.one_of(
    think,
    st.tuples(st.just("append"), words),
    st.tuples(st.just("sleep"), st.integers(0, 7)),
    st.tuples(st.just("write"), words),
    st.tuples(st.just("random")),
    st.tuples(st.just("pages")),
)
branches = st.lists(st.lists(st.one_of(think, st.tuples(st.just("append"), words)), max_size=3), max_size=3)
mail = st.one_of(
    st.tuples(st.just("up"), words),
    st.tuples(st.just("down"), st.integers(0, 2), words),
    st.tuples(st.just("hear up")),
    st.tuples(st.just("hear down"), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.integers(0, 2)),
)
flat = st.one_of(plain, mail, st.tuples(st.just("gather"), branches), st.tuples(st.just("first"), words))


def scripts(depth):
    steps = flat if not depth else st.one_of(flat, flat, st.tuples(st.just("spawn"), scripts(depth - 1)))
    last = st.one_of(
        st.just(()),
        st.tuples(st.just("exec"), st.lists(plain, max_size=4), st.booleans()),
        st.tuples(st.just("fork"), st.lists(plain, max_size=3), st.lists(plain, max_size=3)),
    )
    return st.tuples(st.lists(steps, max_size=6), last).map(
        lambda parts: [*parts[0], *([parts[1]] if parts[1] else [])]
    )


# ---- the program that runs a script


async def actor(name, script, parent, seen=()):
    seen, children, waited = list(seen), [], set()
    for number, step in enumerate(script):
        match step:
            case ["spawn", inner]:
                args = [f"{name}.{number}", inner, await GetPid()]
                children.append(await Spawn(program="actor", args=args))
            case ["up", body]:
                await post(parent, body)
            case ["down", i, body] if i < len(children):
                await post(children[i], body)
            case ["hear up"]:
                seen.append((await Recv(sender=parent)).body)
            case ["hear down", i] if i < len(children):
                seen.append((await Recv(sender=children[i])).body)
            case ["wait", i] if i < len(children) and i not in waited:
                seen.append((await Wait(pid=children[i])).value)
                waited.add(i)
            case ["gather", inner]:
                seen.append(await gather(*(branch(steps) for steps in inner)))
            case ["first", word]:
                seen.append((await select(Recv(tag="never"), branch([["think", word, 3]])))[1])
            case ["fork", mine, theirs]:
                child = await Fork()
                return await actor(name if child else f"{name}'", mine if child else theirs, parent, seen)
            case ["exec", rest, fresh]:
                await Exec(program="actor", args=[name, rest, parent, seen], fresh=fresh)
            case _:
                await simple(step, seen)
    return [name, seen]


async def post(pid, body):
    with suppress(ESRCH):  # whether it still lives depends on the schedule, but nobody can see the difference
        await Send(to=pid, body=body)


async def branch(steps):
    seen = []
    for step in steps:
        await simple(step, seen)
    return seen


async def simple(step, seen):
    match step:
        case ["think", prompt, n]:
            seen.append((await Think(prompt=prompt, max_tokens=n)).text)
        case ["append", text]:
            seen.append(await Append(text=text))
        case ["sleep", seconds]:
            await Sleep(seconds=seconds / 2)
        case ["write", text]:
            await Write(text=text)
        case ["random"]:
            seen.append(0 <= await Random() < 1)
        case ["pages"]:
            seen.append([[p.role, p.tokens, p.text] for p in await Pages()])


async def sink(script):
    """The parent of the first actor: it takes what comes up, and waits."""
    await Wait(pid=await Spawn(program="actor", args=["0", script, await GetPid()]))
    await Recv(tag="never")


PROGRAMS = {"actor": actor, "sink": sink}

# ---- the model


class Model:
    """What must come out, computed without a kernel."""

    def __init__(self, script):
        self.machine = ToyMachine(1, WINDOW)
        self.queues = defaultdict(list)  # by (sender, receiver)
        self.ends, self.said = {}, defaultdict(str)
        self.running = [self.actor("0", script, "", [], [])]
        while sum(self.advance(process) for process in list(self.running)):
            pass

    def advance(self, process):
        """Run a process until it has to wait; True if it did anything."""
        moved = False
        for progress in process:
            if not progress:
                return moved
            moved = True
        self.running.remove(process)
        return True

    def think(self, tokens, pages, prompt, n):
        head = self.machine.render("user", prompt)
        tokens += head + self.machine.opening()
        new = [t for t in self.machine.continuation(tokens, Sampling(""), n) if t != END]
        tokens += new + self.machine.closing()
        text = bytes(new).decode()
        pages += [["user", len(head), prompt], ["assistant", len(new) + 2, text]]
        return text

    def simple(self, name, step, tokens, pages, seen):
        match step:
            case ["think", prompt, n]:
                seen.append(self.think(tokens, pages, prompt, n))
            case ["append", text]:
                page = self.machine.render("user", text)
                tokens += page
                pages.append(["user", len(page), text])
                seen.append(len(pages) - 1)
            case ["write", text]:
                self.said[name] += text
            case ["random"]:
                seen.append(True)
            case ["pages"]:
                seen.append([list(page) for page in pages])

    def forked(self, name, steps, tokens, pages):
        seen, tokens, pages = [], tokens.copy(), pages.copy()
        for step in steps:
            self.simple(name, step, tokens, pages, seen)
        return seen

    def actor(self, name, script, parent, tokens, pages, seen=()):
        """Yield True after a step, False while it has to wait."""
        seen, children, waited = list(seen), [], set()
        for number, step in enumerate(script):
            match step:
                case ["spawn", inner]:
                    children.append(f"{name}.{number}")
                    self.running.append(self.actor(children[-1], inner, name, [], []))
                case ["up", body]:
                    self.queues[name, parent].append(body)
                case ["down", i, body] if i < len(children):
                    self.queues[name, children[i]].append(body)
                case ["hear up"] | ["hear down", _]:
                    sender = parent if step[0] == "hear up" else children[step[1]] if step[1] < len(children) else None
                    if sender is not None:
                        while not self.queues[sender, name]:
                            yield False
                        seen.append(self.queues[sender, name].pop(0))
                case ["wait", i] if i < len(children) and i not in waited:
                    while children[i] not in self.ends:
                        yield False
                    seen.append(self.ends[children[i]])
                    waited.add(i)
                case ["gather", inner]:
                    seen.append([self.forked(name, steps, tokens, pages) for steps in inner])
                case ["first", word]:
                    seen.append(self.forked(name, [["think", word, 3]], tokens, pages))
                case ["fork", mine, theirs]:
                    twin = self.actor(f"{name}'", theirs, parent, tokens.copy(), pages.copy(), seen)
                    self.running.append(twin)
                    yield from self.actor(name, mine, parent, tokens, pages, seen)
                    return
                case ["exec", rest, fresh]:
                    yield from self.actor(name, rest, parent, [] if fresh else tokens, [] if fresh else pages, seen)
                    return
                case _:
                    self.simple(name, step, tokens, pages, seen)
            yield True
        self.ends[name] = [name, seen]
        yield True


# ---- the comparison


def execute(script, policy, kills, **shape):
    """Run a script in a kernel, killed after some of its commits; gives how every actor ended, and what it said."""
    store, world = Mortal(), World()
    for store.crash in [*((n, "after") for n in sorted(kills)), (0, "")]:
        machine = ToyMachine(shape["frames"], WINDOW)
        shape_ = {key: value for key, value in shape.items() if key != "frames"}
        with suppress(Killed):
            sim = Simulation(PROGRAMS, store, world, machine, policy, init=("sink", [script]), **shape_)
            sim.run(20_000)
    ends, said = {}, {}
    for pid, process in sim.kernel.procs.items():
        if process.status:
            keep(pid, process.status, world, ends, said)
    for row in store.dead():
        keep(row[0], ExitStatus.model_validate_json(row[-2]), world, ends, said)
    return ends, said


def keep(pid, status, world, ends, said):
    assert status.reason == "exit", status
    name = status.value[0]
    ends[name], said[name] = status.value, world.output(pid)


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    scripts(2),
    st.sampled_from([FCFS, RR, Priority, lambda: RR(2)]),
    st.sets(st.integers(1, 40), max_size=3),
    st.fixed_dictionaries(
        {
            "lanes": st.integers(1, 4),
            "prefill": st.integers(1, 40),
            "frames": st.integers(34, 80),
            "budget": st.sampled_from([1, 3, 1000]),
        }
    ),
)
def test_a_kernel_does_what_the_model_says(script, policy, kills, shape):
    model = Model(script)
    ends, said = execute(script, policy(), kills, **shape)
    assert ends == model.ends
    assert said == {name: model.said[name] for name in model.ends}
