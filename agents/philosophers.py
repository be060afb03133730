"""philosophers SEATS MEALS: they think, get hungry, and eat with two forks each, of which there are too few.

A waiter has the forks and lends them by message, both forks of a seat or none: nobody holds one and waits for the
other, so there is no deadlock. Who comes later cannot take a fork that somebody waits for, so nobody starves.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tokix.syscalls import ChatMessage, GetPid, Recv, Send, Spawn, Think, Wait, Write, program


@program(caps=["think", "spawn::*"])
async def main(seats: Annotated[int, Field(ge=2)] = 5, meals: Annotated[int, Field(ge=0)] = 3) -> dict[str, int]:
    """Let philosophers think and eat, with too few forks."""
    waiter = await GetPid()
    for seat in range(seats):
        await Spawn(program=":philosopher", args=[seat, meals, waiter])
    forks, hungry, eaten = set(range(seats)), dict[int, int](), 0
    while eaten < seats * meals:
        message = await Recv()
        seat = message.body
        if message.tag == "hungry":
            hungry[seat] = message.sender
        else:
            forks |= both(seat, seats)
            eaten += 1
        free = set(forks)
        for seat, pid in list(hungry.items()):
            if both(seat, seats) <= free:
                del hungry[seat]
                forks -= both(seat, seats)
                await Send(to=pid, tag="forks")
            free -= both(seat, seats)
    for _ in range(seats):
        await Wait()
    return {"meals": eaten}


def both(seat: int, seats: int) -> set[int]:
    """Give the forks to the left and to the right of a seat."""
    return {seat, (seat + 1) % seats}


async def philosopher(seat: int, meals: int, waiter: int) -> None:
    for meal in range(1, meals + 1):
        question = f"Philosopher {seat}, what do you think before meal {meal}?"
        thought = await Think(messages=[ChatMessage(role="user", text=question)], max_tokens=8)  # nothing is remembered
        await Send(to=waiter, tag="hungry", body=seat)
        await Recv(sender=waiter, tag="forks")
        await Write(text=f"philosopher {seat} has meal {meal} and thinks of {thought.text!r}\n")
        await Send(to=waiter, tag="sated", body=seat)
