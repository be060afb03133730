"""plan GOAL [FILE…]: make a plan of a few steps, have each done by a worker of its own, and sum up what they found.

The workers run at the same time. Each has the files in its archive, recalls what belongs to its step, and sends what it
found by message.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from tokix.agents import forms
from tokix.agents.forms import fill
from tokix.agents.words import contents, one_line, pieces
from tokix.syscalls import (
    EINTR,
    Append,
    ChatMessage,
    Evict,
    GetPid,
    Recall,
    Recv,
    Send,
    Spawn,
    SyscallError,
    Think,
    Wait,
    Write,
    program,
    select,
)
from tokix.syscalls.base import to_json

#: What a step looks like: plain words, or a small model ends in signs and numbers.
STEP = "^[A-Z][A-Za-z' ]{8,70}$"
#: Characters of a passage of a file, and of what a worker found.
PASSAGE, FOUND = 600, 300


@program(caps=["think", "spawn::*", "call:files.read"])
async def main(goal: str, *files: str, steps: Annotated[int, Field(ge=1, le=20)] = 3) -> dict[str, Any]:
    """Plan, have the steps done by workers, and sum up."""
    plan = await planned(goal, steps)
    boss = await GetPid()
    workers: dict[int, int] = {}
    for number, step in enumerate(plan, 1):
        await Write(text=f"{number}. {step}\n")
        workers[await Spawn(program=":work", args=[boss, goal, step, *files])] = number
    found = await results(workers)
    notes = "\n".join(f"{number}. {step}: {found[number]}" for number, step in enumerate(plan, 1))
    question = f"Goal: {goal}\nNotes:\n{notes}\nSum up in two sentences."
    said = await Think(messages=[ChatMessage(role="user", text=question)], max_tokens=96)
    summary = one_line(said.text)
    await Write(text=f"{summary}\n")
    return {"steps": plan, "summary": summary}


async def planned(goal: str, steps: int) -> list[str]:
    """Give the steps to a goal: the goal itself, if no plan came to an end."""
    example = [
        ChatMessage(role="user", text="Goal: Bake a cake\nList 3 steps."),
        ChatMessage(role="assistant", text=to_json(["Buy flour and sugar", "Mix the dough", "Bake it for an hour"])),
    ]
    question = ChatMessage(role="user", text=f"Goal: {goal}\nList {steps} steps.")
    said = await fill(
        forms.some({"type": "string", "pattern": STEP}, min(2, steps), steps),
        messages=[*example, question],
        max_tokens=40 * steps,
        temperature=0.5,
    )
    return [*dict.fromkeys(one_line(step) for step in said or [goal])]


async def results(workers: dict[int, int]) -> dict[int, str]:
    """Give what each worker has found, by its number; of one that ended without a word, how."""
    found: dict[int, str] = {}
    left = set(workers)
    while left:
        which, news = await select(Recv(tag="found"), Wait())
        if which == 0:
            await note(found, workers[news.sender], news.body)
        else:
            left.discard(news.pid)
            if news.reason != "exit":
                await note(found, workers[news.pid], f"nothing: the worker has {news.reason}: {news.detail}")
    while len(found) < len(workers):  # what was sent before the sender's end, and not yet taken
        news = await Recv(tag="found")
        await note(found, workers[news.sender], news.body)
    return found


async def note(found: dict[int, str], number: int, text: str) -> None:
    """Keep the first that a worker says, and show it."""
    if number not in found:
        found[number] = text
        await Write(text=f"   {number}: {text}\n")


async def work(boss: int, goal: str, step: str, *files: str) -> None:
    """Do one step."""
    try:
        await remember(files, f"{goal}. {step}")
        said = await Think(prompt=f"{goal}.\n{step}. Answer in one sentence.", max_tokens=64)
        result = one_line(said.text, FOUND)
    except EINTR:
        raise
    except SyscallError as error:
        result = f"nothing: {error}"
    await Send(to=boss, tag="found", body=result)


async def remember(files: tuple[str, ...], question: str) -> None:
    """Put all passages of the files into the archive, and bring those back that belong to a question."""
    passages = [piece for path in files for piece in pieces(await contents(path), PASSAGE)]
    if passages:
        await Evict(pages=[await Append(role="user", text=passage) for passage in passages])
        await Recall(query=question, k=2, budget=PASSAGE, load=True)
