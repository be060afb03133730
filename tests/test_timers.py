"""Timers: who is due, in which order, and what is cleared out."""

from __future__ import annotations

from typing import Any

from tokix.kernel.timers import FEW, Timers


def made(*whens: float) -> tuple[Timers, dict[str, bool]]:
    """Give timers, called by their numbers, and which of them still mean something."""
    open: dict[str, bool] = {}
    timers = Timers(lambda who, path: open[path])
    for number, when in enumerate(whens):
        who: Any = str(number)
        open[who] = True
        timers.set(when, who, who)
    return timers, open


def test_the_earliest_comes_first_and_among_equals_who_began_first() -> None:
    timers, _ = made(3.0, 1.0, 2.0, 1.0)
    assert timers.first() == 1.0
    assert [*timers.passed(0.5)] == []
    assert [*timers.passed(2.0)] == ["1", "3", "2"]
    assert (timers.first(), len(timers)) == (3.0, 1)


def test_what_means_nothing_any_more_is_never_due() -> None:
    timers, open = made(1.0, 2.0, 2.0, 3.0)
    open["0"] = open["3"] = False
    assert timers.first() == 2.0
    due = timers.passed(9.0)
    assert next(due) == "1"
    open["2"] = False
    assert [*due] == [], "the end of one may be the end of others"
    assert timers.first() is None


def test_many_are_cleared_out_seldom() -> None:
    """Each is looked at a few times, however many are there."""
    looked = 0

    def means(who: object, path: str) -> bool:
        nonlocal looked
        looked += 1
        return path == "open"

    timers = Timers(means)
    who: Any = "somebody"
    for number in range(5000):
        timers.set(number, who, "open" if number % 2 else "over")
    assert 2500 <= len(timers) < 5000 + FEW
    assert looked < 5 * 5000
    for number in range(20_000):
        timers.set(number, who, "over")
    assert len(timers) <= 2 * 2500 + FEW
