"""Which capability covers which: an order, in which nothing grows by being passed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokix.syscalls.rights import covers


@pytest.mark.parametrize(
    ("held", "wanted", "answer"),
    [
        ("*", "think", True),
        ("*", "*", True),
        ("think", "think", True),
        ("think", "thinking", False),
        ("think", "*", False),
        ("call:*", "call:web.get", True),
        ("call:web.*", "call:web.get", True),
        ("call:web.*", "call:web.*", True),
        ("call:web.*", "call:*", False),
        ("call:web.*", "call:webs.get", False),
        ("call:web.get", "call:web.*", False),
        ("call:web", "call:web.get", False),
        ("send:1*", "send:12", True),
        ("send:1", "send:12", False),
        ("", "think", False),
        ("", "", True),
        ("*x", "ax", False),
        ("spawn:*", "spawn:", True),
    ],
)
def test_covers(held, wanted, answer):
    assert covers(held, wanted) is answer


names = st.text("ab:.*", max_size=4)


@given(names, names, names)
def test_covers_is_an_order(a, b, c):
    assert covers(a, a)
    if covers(a, b) and covers(b, c):
        assert covers(a, c)
    if a != b and covers(a, b):
        assert not covers(b, a) or a.rstrip("*") == b.rstrip("*")


@given(names, names, names)
def test_what_is_passed_on_is_never_more(a, b, concrete):
    """Whatever an own capability allows, the one that covers it allows too."""
    if covers(a, b) and not concrete.endswith("*") and covers(b, concrete):
        assert covers(a, concrete)
