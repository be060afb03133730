"""Programs that behave like agents, made from a seed: rounds, growing prompts, heavy-tailed answers, waits, forks.

The shapes are those of published traces of agents: most answers are calls of tools of 16 to 48 tokens, three of ten
have 64 to 128, one of ten thinks for 400; observations have 50 to 200 tokens; tools take half a second (log-normal).
Beside them are persons who read along and take their time, batches of long texts, and parents whose children work side
by side. Most programs belong to one of four tenants. How long an answer will be is known to the trace alone: every
`Think` asks for up to MOST tokens, and the machine is stopped by a `Script`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

from tokix.kernel.costs import Costs
from tokix.syscalls import Sleep, Spawn, Think, Wait

#: The largest answer that a program allows for, and the tokens around a message and its answer.
MOST, MARKS = 512, 4
TENANTS = (0.5, 0.25, 0.15, 0.1)


class Cost(NamedTuple):
    """Seconds of a tick of SmolLM2-135M (docs/log.md): for itself, a row, its context, a prompt, a frame swapped."""

    tick: float = 12.8e-3
    row: float = 1.3e-3
    context: float = 4.6e-6
    prompt: float = 1.36e-3
    frame: float = 0.45e-3

    def of(self, rows: int, context: int, prompt: int, moved: int = 0) -> float:
        """Give the seconds of a tick: rows of one token, context behind all, tokens of prompts, frames out or in."""
        return self.tick + self.row * rows + self.context * context + self.prompt * prompt + self.frame * moved


@dataclass(slots=True)
class Round:
    """A prompt of so many words, the tokens of the answer, and what follows: a wait, or children."""

    number: int
    prompt: int
    answer: int
    wait: float = 0.0
    children: list[Agent] = field(default_factory=list)


@dataclass(slots=True)
class Agent:
    """A program, when it comes, and what it will do."""

    number: int
    kind: str
    tenant: int
    arrival: float
    rounds: list[Round]


class Trace:
    """So many agents, from a seed, in the order in which they come; children are in `agents` too."""

    def __init__(self, programs: int, seed: int, load: float, cost: Cost, lanes: int) -> None:
        """`load` is the share of the machine's capacity that they ask for; with 0 all come at once."""
        self.random = random.Random(seed)
        self.agents: list[Agent] = []
        self.rounds: list[Round] = []
        self.roots = [self.root() for _ in range(programs)]
        demand = sum(self.work(agent, cost, lanes) for agent in self.agents) / programs
        now = 0.0
        for agent in self.roots:
            now += self.random.expovariate(load / demand) if load else 0.0
            agent.arrival = now

    def root(self) -> Agent:
        [kind] = self.random.choices(["react", "person", "batch", "mapreduce"], [60, 20, 10, 10])
        [tenant] = self.random.choices(range(len(TENANTS)), TENANTS)
        return self.agent(kind, tenant)

    def agent(self, kind: str, tenant: int) -> Agent:
        agent = Agent(len(self.agents), kind, tenant, 0.0, [])
        self.agents.append(agent)
        agent.rounds = [*getattr(self, kind)(tenant)]
        return agent

    def round(self, prompt: tuple[int, int], answer: int, median: float = 0.0) -> Round:
        wait = median * self.random.lognormvariate(0.0, 0.7) if median else 0.0
        self.rounds.append(Round(len(self.rounds), self.random.randint(*prompt), answer, wait))
        return self.rounds[-1]

    def react(self, tenant: int) -> Iterator[Round]:
        for number in range(self.random.randint(4, 8)):
            low, high = self.random.choices([(16, 48), (64, 128), (400, 400)], [6, 3, 1])[0]
            yield self.round((50, 200) if number else (300, 500), self.random.randint(low, high), 0.5)

    def person(self, tenant: int) -> Iterator[Round]:
        for _ in range(self.random.randint(3, 6)):
            yield self.round((10, 60), self.random.randint(20, 80), 5.0)

    def batch(self, tenant: int) -> Iterator[Round]:
        for _ in range(self.random.randint(2, 3)):
            yield self.round((200, 800), self.random.randint(200, 400))

    def mapreduce(self, tenant: int) -> Iterator[Round]:
        plan = self.round((100, 300), self.random.randint(16, 48))
        plan.children = [self.agent("mapper", tenant) for _ in range(self.random.randint(3, 6))]
        yield plan
        yield self.round((100, 300), self.random.randint(64, 128))

    def mapper(self, tenant: int) -> Iterator[Round]:
        yield self.round((200, 400), self.random.randint(64, 128))

    def work(self, agent: Agent, cost: Cost, lanes: int) -> float:
        """Give the seconds of the machine that an agent takes while all lanes are in use."""
        seconds, have = 0.0, 0
        for step in agent.rounds:
            have += step.prompt + MARKS
            each = cost.tick / lanes + cost.row + cost.context * have
            seconds += cost.prompt * (step.prompt + MARKS) + each * step.answer
            have += step.answer
        return seconds


def alone(agent: Agent, cost: Cost, prefill: int) -> float:
    """Give the seconds that an agent takes on a machine of its own, with its waits."""
    seconds, have = 0.0, 0
    for step in agent.rounds:
        seconds, have = seconds + answered(have, step, cost, prefill), have + step.prompt + MARKS + step.answer
        if step.children:
            seconds += together(step.children, cost, prefill)
        seconds += step.wait
    return seconds


def answered(have: int, step: Round, cost: Cost, prefill: int) -> float:
    """Give the seconds of one answer behind so much context."""
    prompt = step.prompt + MARKS
    starts = range(0, prompt, prefill)
    seconds = sum(cost.of(0, have + start, min(prefill, prompt - start)) for start in starts)
    have += prompt
    return seconds + sum(cost.of(1, have + said, 0) for said in range(1, step.answer + 1))


def together(children: list[Agent], cost: Cost, prefill: int) -> float:
    """Give the seconds of children that have one round each, side by side, with a lane each: prompts first."""
    steps = [child.rounds[0] for child in children]
    seconds = sum(answered(0, Round(0, step.prompt, 0), cost, prefill) for step in steps)
    for said in range(1, max(step.answer for step in steps) + 1):
        left = [step.prompt + MARKS + said for step in steps if step.answer >= said]
        seconds += cost.of(len(left), sum(left), 0)
    return seconds


class Script:
    """A machine whose answers end when the trace says so, and never before."""

    ahead = False

    def __init__(self, machine: Any, trace: Trace) -> None:
        self.machine = machine
        self.left = {f"={step.number}": step.answer for step in trace.rounds}
        self.end = min(machine.stops)
        self.other = next(token for token in range(1000) if token not in machine.stops)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine, name)

    def run(self, tick: Any) -> list[int | None]:
        tokens = self.machine.run(tick)
        for place, row in enumerate(tick.rows):
            if row.sampling:
                left = self.left[row.sampling.stream]
                self.left[row.sampling.stream] = left - 1
                if left <= 0:
                    tokens[place] = self.end
                elif tokens[place] in self.machine.stops:
                    tokens[place] = self.other
        return tokens


class Still:
    """A machine that says nothing, at once: what it would say changes no schedule.

    The toy machine hashes all that a token depends on, which is a thousand tokens for each of some millions; it is for
    finding out whether frames are right, and this is about when.
    """

    name = "still"
    stops = frozenset({0})

    def __init__(self, frames: int, slots: int, window: int, cost: Cost) -> None:
        self.frames, self.slots, self.window = frames, slots, window
        self.costs = Costs((cost.tick + cost.row) * 1e6, cost.prompt * 1e6, cost.frame * 1e6)

    def preamble(self) -> list[int]:
        return []

    def refuse(self, schema: str) -> str:
        return ""

    def render(self, role: str, text: str) -> list[int]:
        return [1 + crc32(text[:20].encode()), *[1] * (text.count(" ") + 1)]  # no two begin alike

    def opening(self) -> list[int]:
        return [1]

    def closing(self) -> list[int]:
        return [1]

    def encode(self, text: str) -> list[int]:
        return [1] * text.count(" ")

    def piece(self, token: int) -> bytes:
        return b"x"

    def run(self, tick: Any) -> list[int | None]:
        return [1 if row.sampling else None for row in tick.rows]


class Play:
    """The programs of a trace. They note on the way when they asked and when they ended, by a clock from outside."""

    def __init__(self, trace: Trace, clock: Callable[[], float]) -> None:
        self.trace, self.clock = trace, clock
        self.asked: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self.ended: dict[int, float] = {}
        self.programs = dict.fromkeys(("react", "person", "batch", "mapreduce", "mapper"), self.program)

    async def program(self, number: int) -> None:
        agent = self.trace.agents[number]
        for step in agent.rounds:
            self.asked[step.number] = self.clock()
            text, stream = f" {step.number}" + " word" * (step.prompt - 1), agent.kind == "person"
            await Think(prompt=text, max_tokens=MOST, seed=step.number, stream=stream)
            self.answered[step.number] = self.clock()
            for pid in [await spawn(child) for child in step.children]:
                await Wait(pid=pid)
            if step.wait:
                await Sleep(seconds=step.wait)
        self.ended[number] = self.clock()


def spawn(agent: Agent) -> Spawn:
    """Give the call that starts an agent."""
    return Spawn(program=agent.kind, args=[agent.number], fds={1: "null"})
