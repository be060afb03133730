"""A chat template, taken apart into what stands before and after the text of each role.

Pages are rendered once, one by one, so that the tokens of a conversation never change when it grows. That is only
right if the template puts every message between marks that depend on nothing but its role. Whether it does is found
out at load, by rendering small conversations. A system prompt that a template would add on its own is left out: what a
program did not say is not in its context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokix.syscalls import Role

#: Renders messages of {"role", "content"}; the flag asks for the opening of an answer. It may raise anything.
Render = Callable[[list[dict[str, str]], bool], str]

_A, _B, _C, _D = "Qaz1", "Wsx2", "Edc3", "Rfv4"


class Marks(NamedTuple):
    """What stands around a text."""

    before: str
    after: str


@dataclass
class Template:
    """The marks of the roles, and what opens a context."""

    preamble: str
    marks: dict[Role, Marks]
    #: What asks for an answer; what ends one.
    opening: str
    #: Roles that the template does not know; they are written as the user's.
    missing: list[Role] = field(default_factory=list)


PLAIN = Template(
    "",
    {
        "system": Marks("", "\n\n"),
        "user": Marks("User: ", "\n"),
        "assistant": Marks("Assistant:", "\n"),
        "tool": Marks("Tool: ", "\n"),
    },
    "Assistant:",
)


def take_apart(render: Render, bos: str) -> Template:
    """Find the marks of a template; raises ValueError if a conversation is more than its messages."""
    user = _said(render, "u")
    answer = _said(render, "ua")
    again = _said(render, "uau")
    opening = _said(render, "u", opening=True).removeprefix(user)
    if not answer.startswith(user.rstrip()) or not again.startswith(answer.rstrip()):
        raise ValueError("a longer conversation changes what came before")
    after_user = _between(user, _A, None)
    before_user = _between(again, _B, _C)
    after_answer = _between(answer, _B, None)
    # What stands between an answer and the next question belongs to both: the end of the answer is known.
    if not before_user.startswith(after_answer) and before_user.startswith(after_answer.rstrip()):
        after_answer = after_answer.rstrip()
    if not before_user.startswith(after_answer):
        raise ValueError("an answer ends differently when the conversation goes on")
    before_user = before_user[len(after_answer) :]
    head = _between(user, None, _A)
    if not head.endswith(before_user):
        raise ValueError("the first question is written differently from the next")
    # In some vocabularies the first mark of every message goes by the name of a beginning.
    preamble = bos if bos and head.startswith(bos) and bos not in before_user else ""
    before_answer = _between(answer, _A, _B).removeprefix(after_user)
    template = Template(
        preamble,
        {"user": Marks(before_user, after_user), "assistant": Marks(opening or before_answer, after_answer)},
        opening or before_answer,
    )
    _add_system(template, render)
    _add_tool(template, render)
    _compare(template, render)
    return template


def _add_system(template: Template, render: Render) -> None:
    user = template.marks["user"]
    try:
        said = _said(render, "su")
        head = _between(said, None, _D).removeprefix(template.preamble)
        tail = _between(said, _D, _A)
        if not tail.endswith(user.before) or not said.endswith(_A + user.after):
            raise ValueError("no marks of its own")
        template.marks["system"] = Marks(head, tail[: len(tail) - len(user.before)])
    except Exception:  # templates raise what they like for a role that they do not know
        template.marks["system"] = Marks(user.before, user.after)
        template.missing.append("system")


def _add_tool(template: Template, render: Render) -> None:
    user = template.marks["user"]
    try:
        said, before = _said(render, "uat"), _said(render, "ua")
        if not said.startswith(before):
            raise ValueError("it changes what came before")
        template.marks["tool"] = Marks(_between(said[len(before) :], None, _C), _between(said, _C, None))
    except Exception:  # as above
        template.marks["tool"] = Marks(f"{user.before}Tool result:\n", user.after)
        template.missing.append("tool")


def _compare(template: Template, render: Render) -> None:
    """Raise ValueError if the marks do not give what the template gives."""
    for letters in ("ua", "uaua", "sua") if "system" not in template.missing else ("ua", "uaua"):
        whole = _said(render, letters)
        marks = [(template.marks[role], text) for role, text in _conversation(letters)]
        ours = "".join(f"{before}{text}{after}" for (before, after), text in marks)
        # A template may add a system prompt of its own in front, and differ in blanks at the end.
        if not whole.rstrip().endswith(ours.rstrip()):
            raise ValueError(f"its messages, one after the other, are not what it gives for {letters!r}")


_ROLES: dict[str, Role] = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}


def _conversation(letters: str) -> list[tuple[Role, str]]:
    """Give a conversation in which every text is another word; the system's is always the same."""
    words = iter((_A, _B, _C, "Tgb5"))
    return [(_ROLES[letter], _D if letter == "s" else next(words)) for letter in letters]


def _said(render: Render, letters: str, opening: bool = False) -> str:
    return render([{"role": role, "content": text} for role, text in _conversation(letters)], opening)


def _between(text: str, start: str | None, end: str | None) -> str:
    """Give what stands between two words, each of which is there once; raises ValueError."""
    for word in (start, end):
        if word is not None and text.count(word) != 1:
            raise ValueError("it repeats a message, or leaves one out")
    left = text.index(start) + len(start) if start else 0
    right = text.index(end) if end else len(text)
    return text[left:right]
