"""The screen of the shell: whole lines, and nothing is called shown before it is."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from tokix.shell.screen import Output, Screen


class Wall:
    """Somewhere to write."""

    def __init__(self) -> None:
        self.text = ""

    async def put(self, fd: int, text: str) -> None:
        self.text += text


def written(work: Callable[[Screen], None]) -> str:
    async def main() -> str:
        wall = Wall()
        screen = Screen(wall.put, tidy=True)
        async with anyio.create_task_group() as group:
            group.start_soon(screen.write)
            work(screen)
            await screen.drained()
            group.cancel_scope.cancel()
        return wall.text

    return anyio.run(main)


def test_nothing_is_called_shown_before_it_is() -> None:
    shown: list[str] = []

    def work(screen: Screen) -> None:
        output = Output(screen, "[1]")
        output.show(1, "a", lambda: shown.append("a"))
        output.show(1, "b\nc", lambda: shown.append("bc"))
        output.show(2, "x\n", lambda: shown.append("x"))

    assert written(work) == "[1] ab\n[1] x\n"
    assert shown == ["a", "x"]


def test_a_job_that_comes_to_the_front_shows_what_it_had_begun() -> None:
    def work(screen: Screen) -> None:
        front, behind = Output(screen, "[1]"), Output(screen, "[2]")
        front.show(1, "name")
        front.front(True)
        behind.show(1, "one\ntwo\nthr")
        front.show(1, "? ")
        front.front(False)
        screen.begin()
        behind.close()

    assert written(work) == "name? \n[2] one\n[2] two\n[2] thr\n"


def test_a_line_without_an_end_is_shown_at_last() -> None:
    def work(screen: Screen) -> None:
        output = Output(screen, "[1]")
        output.show(1, "x" * 5000)
        output.close()

    assert written(work) == f"[1] {'x' * 5000}\n"


def test_lines_do_not_wait_for_ever_for_the_job_in_front() -> None:
    def work(screen: Screen) -> None:
        screen.show("name? ")
        Output(screen, "[1]").show(1, "line\n" * 5000)

    assert written(work) == "name? \n" + "[1] line\n" * 5000
