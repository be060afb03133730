"""What a shell says of the end of a process."""

from __future__ import annotations

from typing import Any

import pytest

from tokix.shell.status import exit_code, one_line, sentence
from tokix.syscalls import ExitStatus


@pytest.mark.parametrize(
    ("reason", "value", "detail", "code", "text"),
    [
        ("exit", None, "", 0, ""),
        ("exit", 0, "", 0, "p (process 3) exited with 0"),
        ("exit", 7, "", 7, "p (process 3) exited with 7"),
        ("exit", 256, "", 0, "p (process 3) exited with 256"),
        ("exit", -1, "", 0, "p (process 3) exited with -1"),
        ("exit", True, "", 0, "p (process 3) exited with true"),
        ("exit", {"a": 1}, "", 0, 'p (process 3) exited with {"a":1}'),
        ("crashed", None, "ValueError: a\nb (p.py:3)", 1, "p (process 3) crashed: ValueError: a b (p.py:3)"),
        ("killed", None, "TERM", 143, "p (process 3) killed: TERM"),
        ("killed", None, "KILL", 137, "p (process 3) killed: KILL"),
        ("killed", None, "limit of 3 seconds", 137, "p (process 3) killed: limit of 3 seconds"),
    ],
)
def test_the_end_of_a_process(reason: Any, value: Any, detail: str, code: int, text: str) -> None:
    status = ExitStatus(pid=3, program="p", reason=reason, value=value, detail=detail)
    assert (exit_code(status), sentence(status)) == (code, text)


def test_what_is_not_seen_is_spelled_out() -> None:
    """What an agent says may be made to look like something else on a terminal."""
    assert one_line("a\x1b[31m b\u202egnp.exe c\u200bd \U000e0041") == (
        "a\\x1b[31m b\\u202egnp.exe c\\u200bd \\U000e0041"
    )
    assert one_line("naïve 東京 🙂") == "naïve 東京 🙂"
