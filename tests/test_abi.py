"""The ABI without a kernel: calls as messages. What is written is read back, or it is refused."""

import json
import math
import re
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from samples import DEVICE, FULL, PAGE, PROCESS, REPLIES, SHORT, STATUS, wire
from tokix.kernel.trap import HANDLERS
from tokix.syscalls import (
    ABI,
    CALLS,
    EINVAL,
    AnySyscall,
    Call,
    Exit,
    ExitStatus,
    GetPid,
    Limits,
    Message,
    Recv,
    Send,
    Sleep,
    Spawn,
    Stat,
    Think,
    Wait,
    decode,
    decode_canonical,
    gather,
    select,
)
from tokix.syscalls.base import from_json, to_json

# ---- the union


def test_the_samples_have_every_call_and_every_field():
    assert {type(call) for call in FULL} == set(CALLS)
    assert set(typing.get_args(typing.get_args(AnySyscall)[0])) == set(CALLS)
    for call in FULL:
        left_out = set(type(call).model_fields) - {"call"} - set(call.model_dump(exclude_defaults=True))
        assert left_out <= ({"prompt"} if isinstance(call, Think) else set()), f"{call} does not say {left_out}"


@pytest.mark.parametrize("call", [*FULL, *SHORT], ids=str)
def test_a_call_survives_the_wire_and_the_journal(call):
    for text in (
        wire(call),
        wire(call).encode(),
        call.model_dump_json(exclude_defaults=True).replace("{", tag(call), 1),
    ):
        again = decode(text)
        assert type(again) is type(call)
        assert again == call
    text = call.canonical()
    again = decode_canonical(text)
    assert (type(again), again, again.canonical()) == (type(call), call, text)
    assert str(call) == text


def tag(call):
    """Begin the JSON of a call."""
    return f'{{"call":"{call.name}"' + ("," if call.model_dump(exclude_defaults=True) else "")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_call_is_described(call):
    assert call.__doc__
    assert call.name == call.model_fields["call"].default == call.__name__.lower()
    assert isinstance(call.reply, TypeAdapter)
    assert call in HANDLERS
    assert isinstance(call.observes, bool)


def test_names_are_different():
    assert len({call.name for call in CALLS}) == len(CALLS)


def test_the_schema_of_the_union_can_be_published():
    schema = ABI.json_schema()
    assert set(schema["discriminator"]["mapping"]) == {call.name for call in CALLS}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"call":"send","to":2,"subject":"x"}', "subject"),
        ('{"call":"send"}', "to"),
        ('{"call":"send","to":"you"}', "to"),
        ('{"call":"send","to":2.5}', "to"),
        ('{"call":"send","to":null}', "to"),
        ('{"call":"recv","timeout":-1}', "timeout"),
        ('{"call":"recv","timeout":NaN}', "timeout"),
        ('{"call":"kill","pid":1,"signal":"HUP"}', "signal"),
        ('{"call":"sleep","seconds":Infinity}', "seconds"),
        ('{"call":"sleep","seconds":"soon"}', "seconds"),
        ('{"call":"renice","pid":1,"nice":20}', "nice"),
        ('{"call":"spawn","program":"p","nice":-21}', "nice"),
        ('{"call":"spawn","program":"p","limits":{"tokens":-1}}', "limits.tokens"),
        ('{"call":"spawn","program":"p","limits":{"frames":1}}', "limits.frames"),
        ('{"call":"spawn","program":"p","fds":{"one":"tty"}}', "fds"),
        ('{"call":"think","max_tokens":0}', "max_tokens"),
        ('{"call":"think","messages":[]}', "messages"),
        ('{"call":"think","messages":[{"role":"user"}]}', "messages.0.text"),
        ('{"call":"think","messages":[{"role":"robot","text":""}]}', "messages.0.role"),
        ('{"call":"think","top_p":0}', "top_p"),
        ('{"call":"think","temperature":-0.1}', "temperature"),
        ('{"call":"setlimit","limit":"frames","value":1}', "limit"),
        ('{"call":"setlimit","limit":"tokens"}', "value"),
        ('{"call":"select","branches":0}', "branches"),
        ('{"call":"read","limit":0}', "limit"),
        ('{"call":"pin","page":"first"}', "page"),
        ('{"call":"grant","pid":1,"caps":"think"}', "caps"),
        ('{"call":"getpid","pid":1}', "pid"),
    ],
)
def test_a_wrong_argument_is_einval_and_is_named(text, named):
    with pytest.raises(EINVAL) as caught:
        decode(text)
    assert re.search(rf"(^|; ){json.loads(text)['call']}\.{re.escape(named)}\b[^:]*: \w", caught.value.detail)
    assert "\n" not in caught.value.detail
    assert "http" not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        '{"call":"reboot"}',
        "{}",
        '{"to":2}',
        "[]",
        "null",
        '"send"',
        "",
        "{",
        '{"call":"send","to":2,"body":"\\ud800"}',
        b"\xff",
    ],
)
def test_what_is_no_call_is_einval(text):
    with pytest.raises(EINVAL) as caught:
        decode(text)
    assert "call" in caught.value.detail


def test_several_mistakes_are_told_at_once():
    with pytest.raises(EINVAL) as caught:
        decode('{"call":"send","tag":1,"block":"perhaps"}')
    assert [part.partition(":")[0] for part in caught.value.detail.split("; ")] == ["send.to", "send.tag", "send.block"]


def test_a_deep_message_is_refused_and_not_a_crash():
    with pytest.raises(EINVAL):
        decode('{"call":"send","to":1,"body":' + "[" * 10_000 + "]" * 10_000 + "}")


# ---- the canonical text


@pytest.mark.parametrize("call", SHORT, ids=lambda call: call.name)
def test_the_journal_leaves_defaults_out(call):
    required = {name for name, field in type(call).model_fields.items() if field.is_required()}
    assert set(json.loads(call.canonical().removeprefix(call.name))) == required


def test_a_new_optional_field_breaks_no_old_journal():
    class Send2(Send):
        urgent: bool = False

    old, new = Send(to=2, body=[1], tag="t"), Send2(to=2, body=[1], tag="t")
    assert old.canonical() == new.canonical()
    assert Send2(to=2, urgent=True).canonical() == 'send{"to":2,"urgent":true}'


def test_equal_calls_have_one_text_and_different_ones_have_two():
    assert Send(to=2, body=None, tag="").canonical() == Send(to=2).canonical() == 'send{"to":2}'
    assert Recv(tag="").canonical() != Recv().canonical()
    assert Wait(timeout=0).canonical() != Wait().canonical()
    assert Exit(value=False).canonical() != Exit(value=None).canonical() != Exit(value=0).canonical()
    assert Stat(pid=0).canonical() != Stat().canonical()
    texts = [call.canonical() for call in (*FULL, *SHORT)]
    assert len(set(texts)) == len(texts)


def test_the_coroutines_of_a_gather_stay_out_of_the_journal():
    async def branch():
        return 1

    coros = branch(), branch()
    for call in (gather(*coros), select(*coros)):
        assert call.canonical() == f'{call.name}{{"branches":2}}'
        assert call._coros == coros
    for coro in coros:
        coro.close()
    wrapped = gather(GetPid(), Sleep(seconds=1))
    assert [type(coro).__name__ for coro in wrapped._coros] == ["coroutine"] * 2
    for coro in wrapped._coros:
        coro.close()


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("body", [object(), {1: object()}, b"\xff", "\ud800", lambda: 0, CIRCLE], ids=range(6))
def test_what_is_not_json_is_refused_when_it_is_written(body):
    for write in (Send(to=1, body=body).canonical, lambda: to_json(body)):
        with pytest.raises(ValueError):  # noqa: PT011  (a PydanticSerializationError and a ValidationError both are)
            write()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_value_survives(value):
    assert from_json(to_json(value)) == value
    sent = decode_canonical(Send(to=1, body=value).canonical())
    assert (sent.body, repr(sent.body)) == (value, repr(value))
    assert decode(Exit(value=value).model_dump_json()).value == value


def test_nan_and_infinities_survive():
    body = [math.nan, math.inf, -math.inf, {"x": math.nan}, -0.0]
    for again in (
        decode_canonical(Send(to=1, body=body).canonical()).body,
        decode(wire(Send(to=1, body=body))).body,
        from_json(to_json(body)),
        Call.reply.validate_json(Call.reply.dump_json(body)),
        Recv.reply.validate_json(Recv.reply.dump_json(Message(id="", sender=1, tag="", body=body))).body,
        ExitStatus.model_validate_json(STATUS.model_copy(update={"value": body}).model_dump_json()).value,
    ):
        assert repr(again) == repr(body)
    assert Send(to=1, body=body).canonical() == decode_canonical(Send(to=1, body=body).canonical()).canonical()


def nest(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [nest(150), 10**4000, "x" * 5000], ids=["deep", "big", "long"])
def test_what_can_be_written_can_be_read(value):
    assert from_json(to_json(value)) == value
    assert decode_canonical(Send(to=1, body=value).canonical()).body == value


@pytest.mark.parametrize("value", [nest(199), nest(230), nest(3000), 10**5000], ids=["199", "230", "3000", "big"])
def test_what_could_not_be_read_back_is_not_written(value):
    # A body is inside a message, which is inside a reply: what is on the edge here is over it there.
    for write in (lambda: to_json(value), Send(to=1, body=value).canonical):
        with pytest.raises(ValueError):  # noqa: PT011
            write()


# ---- frozen


@pytest.mark.parametrize("call", FULL, ids=lambda call: call.name)
def test_a_call_is_frozen(call):
    for field in type(call).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(call, field, getattr(call, field))


@pytest.mark.parametrize(
    "value",
    [PAGE, STATUS, PROCESS, DEVICE, REPLIES[Think], REPLIES[Recv], Limits(), FULL[11].messages[0]],  # type: ignore[index]
)
def test_a_record_is_frozen_and_closed(value):
    name = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, name, 1)
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(value)(**value.model_dump(), surprise=1)


def test_defaults_are_not_shared():
    one, two = Spawn(program="p"), Spawn(program="p")
    one.args.append(1)
    one.fds[1] = "tty"
    assert (two.args, two.fds, Spawn(program="p").args) == ([], {}, [])
