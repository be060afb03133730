"""pingpong ROUNDS: two processes and their mailboxes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tokix.syscalls import Recv, Send, Spawn, Wait, Write, program


@program(caps=["spawn::*"])
async def main(rounds: Annotated[int, Field(ge=0)] = 5) -> dict[str, int]:
    """Send a number to another process and back, again and again."""
    partner = await Spawn(program=":pong", args=[rounds])
    for number in range(1, rounds + 1):
        await Send(to=partner, body=number)
        answer = await Recv(sender=partner)
        await Write(text=f"ping {number}, pong {answer.body}\n")
    await Wait(pid=partner)
    return {"rounds": rounds}


async def pong(rounds: int) -> None:
    for _ in range(rounds):
        message = await Recv()
        await Send(to=message.sender, body=message.body)
