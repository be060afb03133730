"""The line that is typed: pipelines, quotes, and what makes no sense."""

from __future__ import annotations

import pytest

from tokix.shell.line import Pipeline, parse
from tokix.shell.usage import Failure

QUOTED = """a '|&;' "it's" c\\ d '' "\\"\\n" x"y"z"""


@pytest.mark.parametrize(
    ("line", "pipelines"),
    [
        ("", []),
        ("  # nothing", []),
        ("a b", [Pipeline([["a", "b"]], "", False, "a b")]),
        ("a|b &", [Pipeline([["a"], ["b"]], "", True, "a|b")]),
        ("a;b&&c||d", [Pipeline([[x]], j, False, x) for x, j in zip("abcd", ("", "", "&&", "||"), strict=True)]),  # type: ignore[arg-type]
        ("a & b;", [Pipeline([["a"]], "", True, "a"), Pipeline([["b"]], "", False, "b")]),
        (QUOTED, [Pipeline([["a", "|&;", "it's", "c d", "", '"\\n', "xyz"]], "", False, QUOTED)]),
    ],
)  # fmt: skip
def test_lines_are_read_as_every_shell_does(line: str, pipelines: list[Pipeline]) -> None:
    assert parse(line) == pipelines


@pytest.mark.parametrize("line", ["a |", "| a", "a | | b", "a &&", "&& a", "; a", "a ;; b", "'a", 'a "b', "a \\"])
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises(Failure, match=r"a command is missing|has no partner"):
        parse(line)
