"""debate TOPIC [ROUNDS]: two processes argue by message, one for and one against, and a judge decides.

Each side may write to the other and to nobody else: the judge, their parent, hands out just that capability.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tokix.agents import forms
from tokix.agents.crew import take
from tokix.agents.forms import fill
from tokix.agents.words import one_line
from tokix.syscalls import Append, ChatMessage, Grant, Recv, Role, Send, Spawn, Think, Write, program

SIDES = ("for", "against")
#: What a small model needs to see once before it takes a side.
EXAMPLE: list[tuple[Role, str]] = [
    ("user", "Topic: Winter is nicer than summer.\nArgue for it."),
    ("assistant", "Winter is nicer because we can ski and play in the snow."),
    ("user", "Topic: Winter is nicer than summer.\nArgue against it."),
    ("assistant", "Summer is nicer because it is warm and the days are long."),
]


@program(caps=["think", "spawn::*", "send:*"])
async def main(topic: str, rounds: Annotated[int, Field(ge=1, le=20)] = 2) -> dict[str, Any]:
    """Let two processes argue about a topic, and judge."""
    pids = [await Spawn(program=":debater", args=[side, topic, rounds], caps=["think"]) for side in SIDES]
    for pid, other in zip(pids, reversed(pids), strict=True):
        await Grant(pid=pid, caps=[f"send:{other}"])
        await Send(to=pid, tag="opponent", body=other)
    said = {status.pid: status.value for status in [await take(pids), await take(pids)]}
    winner = await judge(topic, *(said[pid] for pid in pids))
    await Write(text=f"judge: {winner}\n")
    return {"winner": winner, "rounds": rounds}


async def judge(topic: str, *speeches: list[str]) -> str | None:
    """Decide which side was better; None if the machine would not say."""
    turns = (zip(SIDES, turn, strict=True) for turn in zip(*speeches, strict=True))
    lines = [f"{side}: {text}" for turn in turns for side, text in turn]
    question = "\n".join([f"Topic: {topic}", *lines, "Who argued better, for or against?"])
    winner: str | None = await fill(forms.one_of(SIDES), messages=[ChatMessage(role="user", text=question)])
    return winner


async def debater(side: str, topic: str, rounds: int) -> list[str]:
    """Speak in turn with the opponent; gives the speeches."""
    opponent = (await Recv(tag="opponent")).body
    for role, text in EXAMPLE:
        await Append(role=role, text=text, pinned=True)
    heard, speeches = "", list[str]()
    for turn in range(rounds):
        if side == "against" or turn:
            heard = f"They say: {(await Recv(sender=opponent)).body}\n"
        question = f"Topic: {topic}.\n{heard}Argue {side} it."
        said = await Think(prompt=question, max_tokens=48, temperature=0.6, top_p=0.9, stop=["\n"])
        speeches.append(one_line(said.text, 300))
        await Write(text=f"{side}: {speeches[-1]}\n")
        if side == "for" or turn < rounds - 1:  # the last word needs no answer
            await Send(to=opponent, body=speeches[-1])
    return speeches
