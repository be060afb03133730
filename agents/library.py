"""library {FILE: QUESTION…}: a planner has files read by workers, each of which answers one question about its file.

The planner spawns a worker for each file, hears their answers as messages, and writes a report. A worker reads its file
passage by passage through the device `files` and notes what each says; that is more than its window holds, so passages
leave for the archive while it reads. In the end it recalls what belongs to its question, and answers from that alone.

`library:summaries FILE…` writes a line on each file, one after the other; it is meant to run with low priority.
"""

from __future__ import annotations

from typing import Any

from tokix.syscalls import (
    Append,
    Call,
    ChatMessage,
    GetPid,
    Pages,
    Recall,
    Recv,
    Send,
    Spawn,
    Think,
    Wait,
    Write,
    select,
)

ASK = "\n\nWhat happened? Answer in one short sentence."


async def main(questions: dict[str, str]) -> dict[str, Any]:
    me = await GetPid()
    workers = {path: await Spawn(program=":worker", args=[path, question, me]) for path, question in questions.items()}
    answers = {}
    for path, worker in workers.items():
        which, heard = await select(Recv(sender=worker), Wait(pid=worker))
        if which == 1:  # it has ended without an answer
            raise RuntimeError(f"the worker on {path} has {heard.reason}: {heard.detail}")
        answers[path] = heard.body["answer"]
        await Write(text=f"{path}: {questions[path]}\n    {answers[path]}\n")
    for worker in workers.values():
        await Wait(pid=worker)
    report = await Think(
        messages=[
            ChatMessage(role="system", text="You write one short sentence."),
            ChatMessage(role="user", text="Write a headline for this news:\n" + "\n".join(answers.values())),
        ],
        max_tokens=32,
        stop=["\n"],
    )
    await Write(text=f"headline: {report.text}\n")
    return {"answers": answers, "headline": report.text}


async def worker(path: str, question: str, boss: int) -> dict[str, int]:
    await Append(role="system", text="You read a text piece by piece and note what happened.", pinned=True)
    for passage in await passages(path):
        await Think(prompt=passage + ASK, max_tokens=16, stop=["\n"])
    found = await Recall(query=question, k=5, budget=800)
    source = next((hit for hit in found if hit.role == "user"), None)  # the others are notes
    known = source.text.removesuffix(ASK) if source else ""
    answer = await Think(
        messages=[
            ChatMessage(role="system", text="Answer the question from the text, in one short sentence."),
            ChatMessage(role="user", text=f"{known}\n\nQuestion: {question}"),
        ],
        max_tokens=40,
        stop=["\n"],
    )
    await Send(to=boss, body={"answer": answer.text, "page": source.id if source else None})
    pages = await Pages()
    resident = [page.tokens for page in pages if page.resident]
    return {"tokens": sum(page.tokens for page in pages), "resident": sum(resident), "pages": len(pages)}


async def summaries(*paths: str) -> list[str]:
    """Say of each file in a line what it is."""
    lines = []
    for path in paths:
        start = (await passages(path))[0]
        said = await Think(
            messages=[ChatMessage(role="user", text=f"{start}\n\nWhat kind of text is this? One short sentence.")],
            max_tokens=32,
            stop=["\n"],
        )
        lines.append(said.text)
        await Write(text=f"{path} is: {said.text}\n")
    return lines


async def passages(path: str) -> list[str]:
    """Read a file piece by piece; gives its paragraphs, without the title."""
    text = ""
    while part := await Call(device="files", op="read", args={"path": path, "offset": len(text)}):
        text += part
    return [paragraph.strip() for paragraph in text.split("\n\n")[1:]]
