"""watch LABEL,LABEL…: read lines, and write each behind the label that fits it best, with a tab between them.

The labels are all that the model can say. `LABEL=EXAMPLE` shows it a line that has a label, and a small model needs one
or two for each. Every line is judged by itself, so the stream may be endless.
"""

from __future__ import annotations

from tokix.agents import forms
from tokix.agents.forms import fill
from tokix.agents.words import Lines, clip
from tokix.syscalls import EINVAL, ChatMessage, Write, program
from tokix.syscalls.base import to_json

#: Characters of a line that the model sees.
LINE = 400


@program(caps=["think"])
async def main(*labels: str) -> dict[str, int]:
    """Sort lines into classes, named `LABEL,LABEL…`, with examples as `LABEL=LINE`; gives how many were in each."""
    names, examples = understood(labels)
    counts, lines = dict.fromkeys(names, 0), Lines()
    shown = [message for line, label in examples for message in (asked(names, line), answered(label))]
    while (line := await lines.next()) is not None:
        if line.strip():
            label = await fill(forms.one_of(names), messages=[*shown, asked(names, line)])
            label = names[-1] if label is None else label  # the machine was cut short
            counts[label] += 1
            await Write(text=f"{label}\t{line}\n")
    return counts


def understood(words: tuple[str, ...]) -> tuple[list[str], list[tuple[str, str]]]:
    """Give the labels, each once, and the examples as (line, label); raises EINVAL."""
    names: list[str] = []
    examples: list[tuple[str, str]] = []
    for word in words:
        label, is_example, line = word.partition("=")
        names += [label.strip()] if is_example else [name.strip() for name in word.split(",")]
        if is_example:
            examples.append((line.strip(), label.strip()))
    names = [*dict.fromkeys(filter(None, names))]
    if len(names) < 2:
        raise EINVAL(
            "watch needs two labels or more, such as `watch error,fine`, or `watch error='It fails' fine=Done`"
        )
    return names, examples


def asked(names: list[str], line: str) -> ChatMessage:
    question = f"Label the line: {', '.join(names[:-1])} or {names[-1]}.\nLine: {clip(line, LINE)}"
    return ChatMessage(role="user", text=question)


def answered(label: str) -> ChatMessage:
    return ChatMessage(role="assistant", text=to_json(label))
