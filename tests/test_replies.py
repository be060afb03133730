"""The ABI without a kernel: replies and errors as messages."""

import re

import pytest
from pydantic import ValidationError

from samples import REPLIES
from tokix import syscalls
from tokix.syscalls import (
    CALLS,
    EINTR,
    EINVAL,
    EUNKNOWN,
    Now,
    Read,
    Recv,
    Sleep,
    Spawn,
    Stat,
    SyscallError,
    Think,
    Wait,
    errors,
)
from tokix.syscalls.errors import ERRNO, decode_error, encode_error

# ---- replies


def test_there_is_a_reply_for_each_call():
    assert set(REPLIES) == set(CALLS)


@pytest.mark.parametrize(("call", "value"), REPLIES.items(), ids=lambda x: getattr(x, "name", ""))
def test_a_reply_survives_json(call, value):
    text = call.reply.dump_json(value)
    again = call.reply.validate_json(text)
    assert (again, type(again)) == (value, type(value))
    assert call.reply.dump_json(again) == text


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Spawn, '"x"'),
        (Wait, "null"),
        (Think, "{}"),
        (Read, "1"),
        (Recv, "{}"),
        (Sleep, "0"),
        (Stat, "{}"),
        (Now, '"x"'),
    ],
)
def test_a_reply_of_another_type_is_refused(call, text):
    with pytest.raises(ValidationError):
        call.reply.validate_json(text)


# ---- errors


def test_the_tree_is_complete():
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, SyscallError) and value is not SyscallError
    }
    assert set(ERRNO.values()) == classes
    assert all(cls.__name__ == cls.errno == errno and cls.__bases__ == (SyscallError,) for errno, cls in ERRNO.items())


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"[├└]── (\w+) +(\S.*)", errors.__doc__)
    assert [name for name, _ in drawn] == sorted(ERRNO)
    assert all(text for _, text in drawn)
    assert set(ERRNO) <= set(syscalls.__all__)


@pytest.mark.parametrize("cls", ERRNO.values(), ids=list(ERRNO))
def test_an_error_survives_json(cls):
    for detail, key in [("", ""), ('what "it" is\né', "1/2:0:3"), ("null", "\x00")]:
        again = decode_error(encode_error(cls(detail, key)))
        assert (type(again), again.detail, again.key, str(again)) == (cls, detail, key, str(cls(detail, key)))
    assert str(cls()) == cls.errno
    assert str(cls("why")) == f"{cls.errno}: why"
    assert repr(cls("why", "k")) == f"{cls.errno}('why', 'k')"


class ERATE(SyscallError):
    errno = "ERATE"


@pytest.mark.parametrize("error", [SyscallError("x"), ERATE("x"), EINVAL(ValueError("x")), EINTR("TERM", None)])  # type: ignore[arg-type]
def test_what_a_driver_makes_up_can_be_read_back(error):
    """Drivers raise what they like; the journal must not have what no boot can read."""
    again = decode_error(encode_error(error))
    assert "x" in again.detail or again.detail == "TERM"
    assert isinstance(again.key, str)


def test_an_error_without_a_place_in_the_tree_is_a_key_error():
    with pytest.raises(KeyError):
        decode_error('{"errno":"EVIL","detail":"","key":""}')


def test_an_error_is_an_exception_that_can_be_caught_by_family():
    with pytest.raises(SyscallError, match="EUNKNOWN: gone"):
        raise EUNKNOWN("gone", "key")
