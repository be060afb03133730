"""mapreduce TEXT…: count the words of many texts, each in a process of its own, and say what they are about.

A text that begins with `file:` is read from the device `files`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from tokix.syscalls import Call, Spawn, Think, Wait, Write

SAMPLE = (
    "the kernel gives every process its turn",
    "a process is a program and its log",
    "the log is the process and the kernel keeps the log",
)


async def main(*texts: str) -> dict[str, Any]:
    for text in texts or SAMPLE:
        await Spawn(program=":count", args=[text])
    total = Counter[str]()
    for _ in texts or SAMPLE:
        status = await Wait()
        if status.reason != "exit":
            raise RuntimeError(f"a worker has {status.reason}: {status.detail}")
        total.update(status.value)
    ranking = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    for word, times in ranking[:5]:
        await Write(text=f"{times:5} {word}\n")
    summary = await Think(prompt="What is a text about that says " + ", ".join(dict(ranking[:5])), max_tokens=24)
    await Write(text=summary.text + "\n")
    return {"words": dict(ranking), "summary": summary.text}


async def count(text: str) -> dict[str, int]:
    if text.startswith("file:"):
        text = await read(text.removeprefix("file:"))
    return Counter(re.findall(r"\w+", text.lower()))


async def read(path: str) -> str:
    """Read a whole file, piece by piece."""
    parts = [""]
    while part := await Call(device="files", op="read", args={"path": path, "offset": sum(map(len, parts))}):
        parts.append(part)
    return "".join(parts)
