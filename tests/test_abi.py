"""The ABI without a kernel: calls, replies and errors as messages. What is written is read back, or it is refused."""

import ast
import json
import math
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tokix import syscalls
from tokix.kernel.trap import HANDLERS
from tokix.syscalls import (
    ABI,
    CALLS,
    EINTR,
    EINVAL,
    EUNKNOWN,
    AnySyscall,
    Append,
    Call,
    ChatMessage,
    Completion,
    Count,
    DeviceInfo,
    Devices,
    Drop,
    Embed,
    Evict,
    Exec,
    Exit,
    ExitStatus,
    Forget,
    Fork,
    Gather,
    GetPid,
    Grant,
    Journal,
    Kill,
    Limits,
    LogEntry,
    Message,
    Now,
    OpInfo,
    PageInfo,
    Pages,
    Pin,
    ProcessInfo,
    Random,
    Read,
    Recall,
    Recalled,
    Recv,
    Renice,
    Restore,
    Restored,
    Save,
    Saved,
    Sched,
    SchedInfo,
    Select,
    Send,
    SetLimit,
    Signal,
    Sleep,
    Spawn,
    Stat,
    Syscall,
    SyscallError,
    Think,
    Wait,
    Write,
    decode,
    decode_canonical,
    errors,
    gather,
    select,
)
from tokix.syscalls.base import from_json, to_json
from tokix.syscalls.errors import ERRNO, decode_error, encode_error
from tokix.syscalls.rights import covers

ROOT = Path(__file__).parents[1]

#: A call of each class with every argument, and the shortest one that is legal.
FULL = (
    Spawn(program="p", args=[1, {"a": None}], nice=-20, caps=["think"], limits=Limits(tokens=5), fds={1: "pipe:x"}),
    Exit(value=[1.5, "é", {"k": [True]}]),
    Wait(pid=3, timeout=0.5),
    Kill(pid=3, signal=Signal.STOP),
    GetPid(),
    Stat(pid=4, dead=True),
    Sleep(seconds=0.25, ticks=3),
    Renice(pid=3, nice=19),
    SetLimit(limit="seconds", value=1.5, pid=3),
    Fork(),
    Exec(program="q", args=["x"], fresh=True),
    Think(
        messages=[ChatMessage(role="system", text="s"), ChatMessage(role="user", text="u")],
        max_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        json_schema={"type": "string"},
        seed=-1,
        stop=["a", "b"],
        stream=True,
    ),
    Count(text="ü"),
    Append(role="tool", text="t", pinned=True),
    Pages(pid=3),
    Pin(page=2, pinned=False),
    Evict(pages=[3, 1]),
    Recall(query="ü", k=2, budget=9, load=True, pid=3),
    Forget(page=2),
    Embed(texts=["a", ""]),
    Save(path="/ü x", pid=3),
    Restore(path="/ü x"),
    Devices(),
    Call(device="d", op="o", args={"a": [1]}, timeout=3),
    Read(fd="pipe:x", limit=5, timeout=2),
    Write(text="w", fd=2, close=True),
    Send(to=2, body={"n": math.inf}, tag="t", block=False),
    Recv(sender=2, tag="", timeout=0),
    Gather(branches=2),
    Select(branches=1),
    Grant(pid=2, caps=["call:web.*"]),
    Drop(keep=["think"]),
    Now(),
    Random(),
    Sched(policy="RR", quantum=8),
    Journal(pid=3, last=20),
)
SHORT = (
    Spawn(program="p"),
    Exit(),
    Wait(),
    Kill(pid=3),
    Stat(),
    SetLimit(limit="tokens", value=None),
    Exec(program="q"),
    Think(),
    Append(text=""),
    Pages(),
    Pin(page=0),
    Evict(pages=[]),
    Recall(query=""),
    Forget(page=0),
    Embed(texts=[]),
    Save(path=""),
    Restore(path=""),
    Call(device="d", op="o"),
    Read(),
    Write(text=""),
    Send(to=2),
    Recv(),
    Drop(),
    Sched(),
    Journal(pid=3),
)

PAGE = PageInfo(id=5, role="user", tokens=3, pinned=False, text="x", resident=False, message=4, recalled=2)
STATUS = ExitStatus(pid=3, program="p", reason="exit", value=[math.inf, "é"], detail="d")
PROCESS = ProcessInfo(pid=3, ppid=1, program="p", args=[1, None], state="ZOMBIE", status=STATUS)
DEVICE = DeviceInfo(name="d", ops=[OpInfo(name="o", doc="", effect="pure", parameters={"type": "object"}, timeout=1.5)])
#: A reply of each call that has one.
REPLIES = {
    Spawn: 7,
    Exit: None,
    Wait: STATUS,
    Kill: None,
    GetPid: 7,
    Stat: [PROCESS],
    Sleep: None,
    Renice: None,
    SetLimit: None,
    Fork: 0,
    Exec: None,
    Think: Completion(text="a\n\x00é", tokens=[1, 2], reason="stop", prompt_tokens=3),
    Count: 12,
    Append: 0,
    Pages: [PAGE],
    Pin: None,
    Evict: None,
    Recall: [Recalled(id=2, role="tool", text="é", score=0.25, tokens=3)],
    Forget: None,
    Embed: [[0.6, -0.8]],
    Save: Saved(tokens=3, computed=2, bytes=999),
    Restore: Restored(tokens=3, computed=2, image="[[1],[],[],0]"),
    Devices: [DEVICE],
    Call: {"rows": [1, 2.5, None, True, "é", {"deep": []}], "inf": -math.inf},
    Read: "line\n\x00",
    Write: None,
    Send: None,
    Recv: Message(id="1/2:0:3", sender=2, tag="t", body={"a": [1]}),
    Gather: [1, "a", None],
    Select: (1, "b"),
    Grant: None,
    Drop: None,
    Now: 1234.5678901234567,
    Random: 0.1,
    Sched: SchedInfo(policy="FCFS", quantum=None, lanes=8, running=2, waiting=0),
    Journal: [LogEntry(epoch=0, seq=1, path="2.0.1", call="now", ok=True, value="1.5")],
}


def wire(call):
    """Give what a foreign process would send, with nothing left out."""
    return call.model_dump_json()


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


# ---- capabilities


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


# ---- the one yield


def generators(tree):
    """Give (line, name of the function) of every yield."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for inner in own(node):
                if isinstance(inner, (ast.Yield, ast.YieldFrom, ast.Await)):
                    yield inner, node


def own(function):
    """Walk a function without the functions inside it."""
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def test_there_is_one_yield_between_programs_and_the_kernel():
    found = []
    for folder in ("syscalls", "kernel"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node, function in generators(ast.parse(path.read_text())):
                place = f"{path.relative_to(ROOT)}:{function.name}"
                if isinstance(node, ast.Await):
                    assert place == "syscalls/concurrency.py:_await", f"{place} awaits"
                elif "Iterator" not in ast.unparse(function.returns or ast.Constant("")):
                    found.append((place, ast.unparse(node)))
    assert found == [("syscalls/base.py:__await__", "(yield self)")]


def test_an_awaited_call_yields_itself_and_gives_what_is_sent():
    async def program():
        return await GetPid() + await GetPid()

    coro = program()
    assert coro.send(None) == GetPid()
    assert coro.send(1) == GetPid()
    with pytest.raises(StopIteration) as stop:
        coro.send(2)
    assert stop.value.value == 3


def test_an_error_reply_is_raised_on_the_line_of_the_caller():
    async def program():
        try:
            await Sleep(seconds=1)
        except EINTR as error:
            return error.detail

    coro = program()
    coro.send(None)
    with pytest.raises(StopIteration) as stop:
        coro.throw(EINTR("TERM"))
    assert stop.value.value == "TERM"


def test_a_call_is_hashable_by_value_or_not_at_all():
    assert hash(GetPid()) == hash(GetPid())
    assert GetPid() == GetPid() != Now()
    assert isinstance(GetPid(), Syscall)
