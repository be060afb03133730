"""react QUESTION [--tools A,B]: answer with the help of devices.

The model decides under a grammar, so that every decision is a call that the device understands. It has to begin with
one, for a small model thinks that it knows. What a tool says goes into the context, its errors too. When the model has
seen enough, has all rounds behind it, or makes a call again that it has made, it has to answer.

A decision is made in a branch, on a copy of the context that goes with it: only what is done leaves a page.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tokix.agents.forms import fill
from tokix.agents.tools import ENOUGH, Tool, choice, offered, use
from tokix.agents.words import one_line
from tokix.syscalls import Append, Devices, Think, Write, gather, program
from tokix.syscalls.base import to_json


@program(caps=["think", "call:*"])
async def main(
    question: str,
    *,
    tools: str = "",
    rounds: Annotated[int, Field(ge=1, le=100)] = 6,
    thought: Annotated[int, Field(ge=0, le=1000)] = 0,
) -> str:
    """Answer a question with tools; `thought` is how many characters the model may think before each."""
    mine = offered(await Devices(), tools)
    if mine:
        await Append(role="system", text=manual(mine), pinned=True)
        await Append(role="user", text=question, pinned=True)
        await look(mine, rounds, thought)
    said = await Think(prompt=f"{'So, ' if mine else ''}{question} Answer in one sentence.", max_tokens=64)
    answer = one_line(said.text)
    await Write(text=f"{answer}\n")
    return answer


def manual(tools: list[Tool]) -> str:
    return "\n".join(["You can use these tools:", *(tool.manual for tool in tools)])


async def look(tools: list[Tool], rounds: int, thought: int) -> None:
    """Let the model use tools."""
    made = set[str]()
    for _ in range(rounds):
        [step] = await gather(fill(choice(tools, thought, enough=bool(made))))
        if step is None:  # cut short: the same again would be cut short again
            return
        if step.get("thought"):
            await Write(text=f"… {one_line(step['thought'])}\n")
        if step["tool"] == ENOUGH:
            return
        call = f"{step['tool']} {to_json(step['args'])}"
        if call in made:
            return
        made.add(call)
        await Write(text=f"→ {call}\n")
        await Append(role="assistant", text=to_json(step))
        result = await use(step["tool"], step["args"])
        await Write(text=f"← {one_line(result)}\n")
        await Append(role="tool", text=result)
