"""A state directory, and beside it the programs that commands and shells are asked to run."""

from __future__ import annotations

from pathlib import Path

import pytest

#: What commands run.
PROGRAMS = '''
import os
from tokix.syscalls import *

async def step(n):
    """Say a number and wait for a line, n times."""
    total = 0
    for i in range(n):
        await Write(text=f"step {i}\\n")
        total += len(await Read())
    return {"total": total}

async def mixture(n):
    """Everything that a kill could spoil, without a pause."""
    child = await Spawn(program=f"{__file__}:double", args=[n])
    seen = []
    for i in range(n):
        thought = await Think(prompt=f"number {i}", max_tokens=5, temperature=1.0)
        await Send(to=child, body=i)
        message = await Recv(sender=child)
        if i % 4 == 0:
            await Sleep(seconds=0.002)
        value = await Call(device="calc", op="eval", args={"expression": f"{message.body} + 1"})
        seen.append([thought.text, value, round(await Random(), 6)])
        await Write(text=f"line {i} {seen[-1]}\\n")
    await Write(text="an error\\n", fd=2)
    return {"last": seen[-1], "child": (await Wait(pid=child)).value}

async def double(n):
    for _ in range(n):
        message = await Recv()
        await Send(to=message.sender, body=2 * message.body)
    return n

async def crash():
    await Write(text="before\\n")
    raise ValueError("bad\\nluck")

async def value(what):
    return what

async def nap():
    await Sleep(seconds=60)
    raise ValueError("awake")

async def spin():
    await Sleep(seconds=0)
    while True:
        pass

async def poison():
    await Write(text="before\\n")
    await Sleep(seconds=0)
    os._exit(9)

async def listener():
    await Append(role="system", text="You listen.", pinned=True)
    await Write(text="listening\\n")
    while True:
        await Recv()

async def flood():
    for i in range(10_000):
        await Write(text=f"{i}\\n" * 10)
'''

#: What a person runs in a shell.
JOBS = '''
from tokix.syscalls import *

async def step(n):
    """Say a number and wait for a line, n times."""
    lines = []
    for i in range(n):
        await Write(text=f"step {i}\\n")
        lines.append((await Read()).strip())
    return lines

async def ask():
    await Write(text="name? ")
    await Write(text=f"hello {(await Read()).strip()}\\n")

async def heard():
    """Say what the mail says."""
    while True:
        await Write(text=f"heard {(await Recv()).body}\\n")

async def family():
    """A parent and a child that both wait."""
    await Spawn(program=":heard")
    await Write(text="a family\\n")
    await Recv()

async def polite():
    await Write(text="ready\\n")
    try:
        await Recv()
    except EINTR as error:
        await Write(text=f"{error.detail}, and goodbye\\n")

async def value(what):
    return what

async def shout():
    await Write(text="what?\\n", fd=2)
    while text := await Read():
        await Write(text=text.upper())

async def silent():
    """Never read what is typed."""
    await Write(text="not listening\\n")
    await Recv()

async def colour():
    answer = await Call(device="tty", op="ask", args={"question": "which colour?"})
    await Write(text=f"it is {answer}\\n")

async def spin():
    await Write(text="spinning\\n")
    await Sleep(seconds=0)
    while True:
        pass

async def mutter(code):
    await Write(text="no end of the line")
    return code

async def count(n):
    for i in range(n):
        await Write(text=f"number {i}\\n")
'''


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "programs.py").write_text(PROGRAMS)
    (tmp_path / "p.py").write_text(JOBS)
    return tmp_path / "state"
