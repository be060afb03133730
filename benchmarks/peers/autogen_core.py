"""autogen-core: one request and its reply between two agents of a SingleThreadedAgentRuntime, in memory.

Agent "caller" awaits `send_message` to agent "echo" n times, one after the other, and gets the answer each time; the
clock starts and stops inside the caller's handler. Nothing is written to disk: the runtime keeps no journal.
Run it with `python -I`, as `venvs.run_peer` does: this file has the name of the package that it imports.
"""

import argparse
import asyncio
import json
from dataclasses import dataclass
from importlib.metadata import version
from time import perf_counter

from autogen_core import AgentId, MessageContext, RoutedAgent, SingleThreadedAgentRuntime, message_handler


@dataclass
class Number:
    """A request, and its reply."""

    value: float


class Echo(RoutedAgent):
    """Answers a number with that number."""

    @message_handler
    async def on_number(self, message: Number, ctx: MessageContext) -> Number:
        return Number(message.value)


class Caller(RoutedAgent):
    """Asks "echo" as often as it is told to, and answers with the time per round trip."""

    @message_handler
    async def on_number(self, message: Number, ctx: MessageContext) -> Number:
        echo, begin = AgentId("echo", "default"), perf_counter()
        for i in range(int(message.value)):
            reply: Number = await self.send_message(Number(i), echo)
            assert reply.value == i
        return Number((perf_counter() - begin) / message.value * 1e6)


async def measure(n: int, repeat: int) -> list[float]:
    runtime = SingleThreadedAgentRuntime()
    await Echo.register(runtime, "echo", lambda: Echo("echo"))
    await Caller.register(runtime, "caller", lambda: Caller("caller"))
    runtime.start()
    caller = AgentId("caller", "default")
    await runtime.send_message(Number(max(10, n // 10)), caller)
    runs = [await runtime.send_message(Number(n), caller) for _ in range(repeat)]
    await runtime.stop_when_idle()
    return [run.value for run in runs]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--n", type=int, default=2000)
parser.add_argument("--repeat", type=int, default=5)
options = parser.parse_args()
us = asyncio.run(measure(options.n, options.repeat))
what = "request and reply between two agents, in memory"
print(json.dumps({"peer": "autogen-core", "version": version("autogen-core"), "what": what, "us": us}))
