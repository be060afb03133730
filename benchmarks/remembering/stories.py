"""Stories: facts among small talk, with corrections, near duplicates and denials, and questions about them.

A story is a function of its templates and its seed. Nothing is asked that the story does not answer, but for questions
about nobody, and the judge is an exact comparison of pages.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from remembering.templates import Kind, Templates

#: Bytes of the window, each a token of the toy machine, with two marks a page; how many windows ago a fact was told.
WINDOW, DISTANCES = 2048, (1, 2, 4, 8, 16)
PEOPLE, FACTS = 30, 3


class Question(NamedTuple):
    """What is asked, the page that is right, those that were once, and how many windows ago the fact was told."""

    text: str
    right: int
    stale: tuple[int, ...]
    distance: int


class Story(NamedTuple):
    """What is told, page by page; questions; and questions about people of whom nothing was told."""

    told: list[str]
    questions: list[Question]
    nobody: list[str]


class Line(NamedTuple):
    """A page; what it is about, if it is a fact that is asked for."""

    text: str
    about: tuple[str, Kind] | None = None


def story(templates: Templates, seed: int) -> Story:
    r = random.Random(seed)
    names = r.sample(templates.names, len(templates.names))
    known, nobody = names[:PEOPLE], names[PEOPLE:]
    facts = [(name, kind, r.choice(kind.values)) for name in known for kind in r.sample(templates.kinds, FACTS)]
    r.shuffle(facts)
    lines = []
    for name, kind, value in facts:
        lines.append(Line(r.choice(kind.told).format(name=name, value=value), (name, kind)))
        lines += [Line(f"{r.choice(templates.talk)} ({r.randint(100, 999)})") for _ in range(r.randint(4, 12))]

    def others(count: int) -> list[tuple[str, Kind, str]]:
        """Give some facts, each with another value."""
        some = r.sample(facts, count)
        return [(name, kind, r.choice([v for v in kind.values if v != value])) for name, kind, value in some]

    for name, kind, value in others(len(facts) // 4):
        at = r.randint(len(lines) // 2, len(lines))
        lines.insert(at, Line(r.choice(kind.corrected).format(name=name, value=value), (name, kind)))
    for form in ("near", "denied"):
        for name, kind, value in others(len(facts) // 4):
            text = getattr(kind, form).format(name=name, value=value)
            lines.insert(r.randint(0, len(lines)), Line(text))
    told = [line.text for line in lines]
    left = [0] * (len(told) + 1)  # tokens from a page on
    for page in reversed(range(len(told))):
        left[page] = left[page + 1] + len(told[page]) + 2
    questions = []
    for name, kind, _ in facts:
        pages = [page for page, line in enumerate(lines) if line.about == (name, kind)]
        asked = r.choice(kind.asked).format(name=name)
        questions.append(Question(asked, pages[-1], tuple(pages[:-1]), distance(left[pages[-1] + 1] / WINDOW)))
    none = [r.choice(r.choice(templates.kinds).asked).format(name=name) for name in nobody for _ in range(3)]
    return Story(told, questions, none)


def distance(windows: float) -> int:
    """Give the distance that a fact counts for; 0 is in the window."""
    return max((d for d in (0, *DISTANCES) if d <= windows), default=0)
