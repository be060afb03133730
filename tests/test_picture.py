"""What a person sees of a context: the picture of `pages`, its table, and `free`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from samples import SYSTEM
from tokix.shell import table, window
from tokix.shell.table import Result, render
from tokix.syscalls import PageInfo, ProcessUse, Recalled, SystemInfo


def page(id: int, tokens: int, start: int | None = None, **more: Any) -> PageInfo:
    given = {"role": "user", "pinned": False, "text": f"page {id}", "message": id, **more}
    return PageInfo(id=id, tokens=tokens, start=start, resident=start is not None, **given)


PAGES = [
    page(-1, 10, 20, role="system"),
    page(0, 20, 0, pinned=True, used=7),
    page(1, 100, used=3),
    page(2, 50),
    page(4, 20, 30),
    page(5, 10, 50),
    page(6, 5, 60, recalled=2),
]


def look(size: int = 100) -> SystemInfo:
    return SYSTEM.model_copy(update={"window": size, "low": size * 6 // 10, "high": size * 9 // 10})


def use(**more: Any) -> ProcessUse:
    given = {"window": 65, "computed": 60, "shared": 32, "pages": 5, "archived": 2, "evicted": 150, **more}
    return ProcessUse(pid=3, ppid=1, program="p", args=[], state="BLOCKED", **given)


def drawn(pages: Sequence[PageInfo], use: ProcessUse, system: SystemInfo, width: int = 100) -> list[str]:
    lines = window.picture(pages, use, system, width)
    return ["".join(text for _, text in line) for line in lines]


def test_the_window_is_to_scale_and_so_is_what_has_left():
    title, marks, inside, frames, _, archive, *left = drawn(PAGES, use(), look())
    assert title == "window: 65 of 100 tokens, 65 %; 5 pages"
    assert [marks.index("low 60 ▾") + 8, marks.index("high 90 ▾") + 9, len(marks)] == [60, 90, 100]
    assert inside == "P" * 20 + "S" * 10 + "▓" * 20 + "▒" * 10 + "R" * 5 + "·" * 35
    assert frames == "━" * 32 + "─" * 28
    assert archive == "archive: 150 tokens, 1.5 windows of text; 2 pages"
    assert left[:3] == ["░" * 100, "R" * 50, ""]


@pytest.mark.parametrize("width", [1, 7, 20, 39, 40, 80, 133, 300])
def test_at_every_width_no_line_is_longer_and_nothing_is_hidden(width: int):
    lines = drawn(PAGES, use(), look(), width)
    inside = lines[2]
    assert len(inside) == width
    assert all(len(line) <= width for line in lines[1:4])
    if width >= 7:
        assert {*inside} == {*"PS▓▒R·"}
    if width >= 20:
        assert abs(inside.count("P") - width / 5) <= 1
        assert abs(inside.count("·") - width * 0.35) <= 1


def test_what_is_small_is_seen_at_least_once():
    pages = [page(0, 90_000, 0), page(1, 5, 90_000, pinned=True), page(2, 5, 90_005, recalled=9)]
    inside = drawn(pages, use(window=90_010), look(131_072), 80)[2]
    assert (inside.count("P"), inside.count("R"), inside.count("▒")) == (1, 1, 0)
    assert inside.rstrip("·")[-3:] in ("▓PR", "▓RP", "RP▓")


def test_an_answer_that_is_being_made_and_what_stands_in_front_of_all_pages():
    inside = drawn([page(0, 30, 10)], use(window=60), look())[2]
    assert inside == "▓" * 10 + "▒" * 30 + "~" * 20 + "·" * 40


def test_more_than_a_few_windows_of_text_are_drawn_smaller():
    pages = [page(1, 9_000), page(2, 1_000), page(3, 5, 0, recalled=2)]
    *_, line, scale, _, _, _ = drawn(pages, use(), look())
    assert line == "░" * 90 + "R" * 10
    assert scale == "a character of this line is 100 tokens"


def test_a_few_windows_of_text_are_drawn_as_large_as_the_window():
    *lines, _, _, _ = drawn([page(1, 300), page(2, 5, 0)], use(), look())
    assert lines[-3:] == ["░" * 100] * 3


def test_an_empty_context():
    title, _, inside, frames, *rest = drawn([], use(window=0, computed=0, shared=0, pages=0, archived=0), look(), 40)
    assert (title, inside, frames) == ("window: 0 of 100 tokens, 0 %; 0 pages", "·" * 40, "")
    assert rest == ["", "· free", ""]


def test_copies_from_a_region_are_not_taken_for_those_of_the_archive():
    pages = [page(2, 50), page(3, 10, 0, recalled=2, region="notes"), page(4, 10, 10, recalled=2)]
    _, _, inside, _, _, _, archive, *_ = drawn(pages[:2], use(regions=["notes"]), look())
    assert inside.startswith("M" * 10 + "~")
    assert archive == "░" * 50
    lines = drawn(pages, use(regions=["notes", "more"]), look())
    assert "regions: notes, more" in lines
    marks = [row[4] for row in table.of_pages(pages, use(), look(), None).rows]
    assert marks == ["", "recalled notes/2 shared", "recalled 2 shared"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_on_a_terminal_there_is_the_picture_and_the_newest_pages(width: int):
    pages = [*PAGES, *(page(n, 1, 65, text="word " * 99) for n in range(7, 60))]
    result = Result(table.of_pages(pages, use(), look(), 30))
    text = re.sub(r"\x1b\[[0-9;]*m", "", render(result, json=False, width=width))
    assert all(len(line) <= width for line in text.split("\n"))
    assert "30 earlier rows are not shown: --all shows them" in " ".join(text.split())
    assert [int(line.split()[0]) for line in text.splitlines()[-30:]] == [*range(30, 60)]
    assert width == 40 or sum("word word" in line for line in text.splitlines()) == 30
    assert "earlier rows" not in render(Result(table.of_pages(pages, use(), look(), None)), json=False, width=width)


def test_elsewhere_there_is_a_line_for_each_page():
    header, *lines = render(Result(table.of_pages(PAGES, use(), look(), 3)), json=False, width=None).splitlines()
    assert header.split("\t") == ["PAGE", "ROLE", "TOKENS", "WHERE", "STATE", "USED BY", "TEXT"]
    assert [line.split("\t")[3:6] for line in lines] == [
        ["window", "stub shared", "-"],
        ["window", "pinned shared", "7"],
        ["archive", "", "3"],
        ["archive", "", "-"],
        ["window", "", "-"],
        ["window", "", "-"],
        ["window", "recalled 2", "-"],
    ]


def test_what_a_page_says_is_never_markup():
    """Square brackets mean something to rich, and what a model says may have any."""
    said = "[red]x[/] [/wrong] [1]"
    text = render(Result(table.of_pages([page(0, 1, 0, text=said)], use(), look(), None)), json=False, width=120)
    assert said in text
    found = [Recalled(id=0, role="tool", text=said, score=0.5, tokens=1)]
    assert said in render(Result(table.of_recalled(found)), json=False, width=120)


def test_what_is_taken_and_what_is_free():
    info = SYSTEM.model_copy(
        update={
            **{"frames": 256, "used": 24, "shared": 4, "cached": 43, "slots": 128, "swapped": 3, "frame": 16},
            "processes": [use(resident=65), use(resident=5)],
        }
    )
    made = table.of_memory(info, {"tokix.db": 90_000, "tokix.db-wal": 5_000_000})
    lines = [line.split("\t") for line in render(Result(made), json=False, width=None).splitlines()]
    assert lines == [
        ["WHERE", "OF", "TOTAL", "USED", "SHARED", "CACHED", "FREE", "TOKENS"],
        ["memory", "frames", "256", "24", "4", "43", "189", "384"],
        ["swap", "slots", "128", "3", "", "", "125", "48"],
        ["windows", "pages", "", "10", "", "", "", "70"],
        ["archive", "pages", "", "4", "", "", "", "300"],
        ["disk", "tokix.db", "", "88 KiB", "", "", "", ""],
        ["disk", "tokix.db-wal", "", "5 MiB", "", "", "", ""],
    ]
    assert made.data["disk"] == {"tokix.db": 90_000, "tokix.db-wal": 5_000_000}
    assert (made.data["free"], made.data["archived"], made.data["evicted"]) == (189, 4, 300)
