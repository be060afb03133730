"""Calc: arithmetic against Python's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driven import call
from tokix.drivers import Calc
from tokix.syscalls import EINVAL

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=300)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", 14),
        (" (2 + 3) * 4\n", 20),
        ("-2 ** 2", -4),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512),
        ("7 // 2 - -7 // 2", 7),
        ("-7 % 3", 2),
        ("1e3 + .5 + 0x10 + 1_000", 2016.5),
        ("sqrt(16) + abs(-2) + floor(2.7) + ceil(2.1)", 11.0),
        ("log(8, 2)", 3.0),
        ("log(e)", 1.0),
        ("cos(pi)", -1.0),
        ("round(2.567, 2)", 2.57),
        ("round(1234, -2)", 1200),
        ("min(3, 1, 2) + max(1, 2)", 3),
        ("factorial(5)", 120),
        ("factorial(170) // factorial(169)", 170),
        ("2 ** 1023 + (2 ** 1023 - 1)", 2**1024 - 1),
        ("1 ** 10 ** 300", 1),
        ("(-1) ** (10 ** 300 + 1)", -1),
        ("0 ** 10 ** 300", 0),
        ("2 ** -10 ** 300", 0.0),
        ("+".join(["1"] * 500), 500),
        ("exp(0) + sin(0) + tan(0)", 1.0),
    ],
)
def test_calc_works_out(expression: str, value: float) -> None:
    result = call(Calc(), "eval", expression=expression)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("1 / 0", "/: division by zero"),
        ("1 // 0.0", "//: division by zero"),
        ("1 % 0", "%: division by zero"),
        ("0 ** -1", "**: division by zero"),
        ("log(5, 1)", "log: division by zero"),
        ("sqrt(-1)", "sqrt: "),
        ("log(0)", "log: "),
        ("(-8) ** (1 / 3)", "**: the result is not a real number"),
        ("2j", "2j is not a real number"),
        ("True + 1", "True is not a real number"),
        ("...", "Ellipsis is not a real number"),
        ("9 ** 9 ** 9", "**: too large; the bound is 2**1024"),
        ("9 ** 9 ** 9 ** 9 ** 9", "**: too large"),
        ("-9 ** 9 ** 9", "**: too large"),
        ("2 ** 1024", "**: too large"),
        ("(2 ** 1023) * 2", "*: too large"),
        ("(2 ** 512) ** 512", "**: too large"),
        ("1e308 * 10", "*: too large"),
        ("1e999", "a number: too large"),
        ("9" * 999, "a number: too large"),
        ("exp(1000)", "exp: too large"),
        ("(2 ** 1024 - 1) / 1", "**: too large"),
        ("(2 ** 1023 + (2 ** 1023 - 1)) * 1.0", "*: too large"),
        ("factorial(171)", "factorial: needs a whole number from 0 to 170"),
        ("factorial(10 ** 9)", "factorial: needs a whole number"),
        ("factorial(-1)", "factorial: needs a whole number"),
        ("factorial(2.5)", "factorial: needs a whole number"),
        ("round(5, -10 ** 9)", "round: the number of digits"),
        ("round(5, 1.0)", "round: the number of digits"),
        ("round(1.7e308, -308)", "round: too large"),
        ("sqrt()", "sqrt does not take 0 arguments"),
        ("max(1)", "max does not take 1 argument"),
        ("sqrt(x=4)", "'=' has no meaning in arithmetic"),
        ("", "at column"),
        ("1 +", "invalid syntax at column"),
        ("(1", "never closed"),
        ("1, 2", "Tuple at column 1 is not arithmetic"),
        ("2 ^ 3", "a power is written **"),
        ("x + 1", "no constant x; there is pi, e"),
        ("pi(2)", "no function pi; there is sqrt"),
        ("open(1)", "no function open"),
        ("pi.real", "Attribute at column 1 is not arithmetic"),
        ("(1).__class__", "Attribute"),
        ("abs(*pi)", "Starred"),
        ("max(**pi)", "Call"),
        ("abs(1)(2)", "Call"),
        ("1 if pi else 2", "IfExp"),
        ("not 1", "UnaryOp"),
        ("1 and 2", "BoolOp"),
        ("1 or 2", "BoolOp"),
        ("1or 2", "'1or' is not a number"),
        ("0x1for x in pi", "'0x1for' is not a number"),
        ("lambda: 1", "':' has no meaning"),
        ("'a' * 9", '"\'" has no meaning'),
        ("[1] * 9", "'[' has no meaning"),
        ("1 << 99", "'<' has no meaning"),
        ("１ + 1", "has no meaning"),
        ("1\0", "has no meaning"),
        ("__import__(1)", "no function __import__"),
        ("yield 1", "invalid syntax"),
        ("(yield 1)", "Yield"),
        ("await e", "Await"),
        ("(" * 300 + "1" + ")" * 300, "too many nested parentheses"),
        ("-" * 60 + "1", "nested more than 50 deep"),
        ("-" * 999 + "1", "nested more than 50 deep"),
        ("2**" * 300 + "1", "nested more than 50 deep"),
        ("abs(" * 60 + "1" + ")" * 60, "nested more than 50 deep"),
        ("1+" * 500 + "1", "at most 1000 characters"),
    ],
)
def test_calc_says_what_is_wrong(expression: str, complaint: str) -> None:
    with pytest.raises(EINVAL) as caught:
        call(Calc(), "eval", expression=expression)
    assert complaint in caught.value.detail


def combined(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(
        ["{} + {}", "{} - {}", "{} * {}", "({}) / ({})", "{}//{}", "{} % {}", "min({}, {})", "max({}, {})"]
    )
    unary = st.sampled_from(
        ["-{}", "+{}", "({})", "({}) ** 2", "{} ** 3", "{} ** -1", "2 ** -({})", "({}) ** 0.5", "abs({})", "log({})"]
        + [f"{name}({{}})" for name in ("sqrt", "floor", "ceil", "round", "sin", "cos")]
    )
    return st.builds(str.format, binary, part, part) | st.builds(str.format, unary, part)


NUMBERS = st.integers(0, 99).map(str) | st.floats(0, 1e6).map(repr) | st.sampled_from(["pi", "e"])
EXPRESSIONS = st.recursive(NUMBERS, combined, max_leaves=8)
NAMES = {name: getattr(math, name, None) for name in ("sqrt", "floor", "ceil", "sin", "cos", "log", "pi", "e")} | {
    name: __builtins__[name] if isinstance(__builtins__, dict) else getattr(__builtins__, name)
    for name in ("abs", "round", "min", "max")
}


@FIXED
@given(EXPRESSIONS)
def test_calc_agrees_with_python(expression: str) -> None:
    try:
        mine: Any = Calc().eval(expression)
    except EINVAL as error:
        mine = error
    try:
        python = eval(expression, {"__builtins__": {}}, NAMES)
    except (ArithmeticError, ValueError, TypeError) as error:  # TypeError: a complex number on the way
        python = error
    if isinstance(mine, EINVAL):
        refused = isinstance(python, (Exception, complex)) or not math.isfinite(python)
        assert refused or "too large" in mine.detail
    else:
        assert mine == python
        assert type(mine) is type(python)


@FIXED
@given(
    st.lists(st.sampled_from([*"0123456789+-*/%.,()e^ _", "**", "//", "abs(", "round(", "log(", "factorial(", "max("]))
)
def test_calc_gives_a_number_or_einval_whatever_the_text(parts: list[str]) -> None:
    try:
        value = Calc().eval("".join(parts))
    except EINVAL:
        return
    assert type(value) in (int, float)
    assert abs(value) < 2**1024
