"""Clock and terminal; and every driver through `Call`, as a process has it, in a kernel with a real edge."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from driven import call
from stage import TTY, Screen, launch, play, until
from tokix.boot import boot
from tokix.drivers import Clock, Tty
from tokix.mounts import Mount, mounted
from tokix.person import Guest
from tokix.syscalls import (
    EINVAL,
    EPIPE,
    Call,
    Devices,
    Kill,
    Limits,
    Read,
    Signal,
    Sleep,
    Spawn,
    Stat,
    SyscallError,
    Wait,
    gather,
    select,
)

# ---- clock


def test_the_clock_says_one_moment_in_three_ways() -> None:
    before = time.time()
    now = call(Clock(), "now")
    assert before - 0.001 <= now["epoch"] <= time.time() + 0.001
    moment = datetime.fromisoformat(now["utc"])
    assert moment.timestamp() == int(now["epoch"])
    assert now["utc"].endswith("Z")
    assert now["weekday"] == ("Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun")[moment.weekday()] + "day"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, {"utc": "1970-01-01T00:00:00Z", "weekday": "Thursday", "epoch": 0.0}),
        (951_782_400.9996, {"utc": "2000-02-29T00:00:00Z", "weekday": "Tuesday", "epoch": 951782401.0}),
        (4_102_444_799.25, {"utc": "2099-12-31T23:59:59Z", "weekday": "Thursday", "epoch": 4102444799.25}),
    ],
)
def test_the_clock_is_in_utc(seconds: float, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: seconds)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert call(Clock(), "now") == expected
    finally:
        monkeypatch.undo()
        time.tzset()


# ---- the person


class Ada:
    """A person who answers what she is told to."""

    def __init__(self, answer: str | None) -> None:
        self.answer = answer
        self.heard: list[str] = []

    async def ask(self, question: str) -> str | None:
        self.heard.append(question)
        return self.answer

    async def say(self, text: str) -> None:
        self.heard.append(text)


def test_ask_and_say() -> None:
    ada = Ada("yes, why not")
    assert call(Tty(ada), "ask", question="Shall I?\n") == "yes, why not"
    assert call(Tty(ada), "say", text="Thanks") is None
    assert ada.heard == ["Shall I?\n> ", "Thanks\n"]
    with pytest.raises(EPIPE, match="ask: nobody answers; the input of the terminal has ended"):
        call(Tty(Ada(None)), "ask", question="Shall I?")
    assert call(Tty(Ada("")), "ask", question="Shall I?") == ""


def test_a_text_cannot_command_the_terminal() -> None:
    ada = Ada("")
    call(Tty(ada), "say", text="a\x1b[2Jb\x07\rc\x9b31m\td\u202ee\nGrüße 💩")
    assert ada.heard == ["a�[2Jb��c�31m\td�e\nGrüße 💩\n"]


@pytest.mark.parametrize("text", ["", "x" * 4001])
def test_a_text_has_a_length(text: str) -> None:
    for name, argument in (("ask", "question"), ("say", "text")):
        with pytest.raises(EINVAL, match=f"{name}: {argument} should have at"):
            call(Tty(Ada("")), name, **{argument: text})


# ---- through the kernel


async def told(device: str, name: str, **args: Any) -> Any:
    try:
        return await Call(device=device, op=name, args=args)
    except SyscallError as error:
        return str(error)


def devices(folder: Path, *more: str) -> list[Mount]:
    with closing(sqlite3.connect(folder / "x.db")) as db:
        db.execute("CREATE TABLE IF NOT EXISTS t (a)")
    texts = ["calc", "clock", "tty", f"files=files:{folder},write", f"db=sqlite:{folder / 'x.db'}", *more]
    return [Mount.read(text) for text in texts]


def run(screen: Screen, main: Callable[..., Any], mounts: list[Mount], **programs: Callable[..., Any]) -> Any:
    """Run a program with devices; gives its value."""

    async def whole() -> Any:
        person = Guest()
        drivers = mounted(mounts, person)
        async with boot(drivers=drivers, programs={"main": main, **programs}, terminal=screen) as system:
            person.sit(system)
            status = await launch(system, "main")
            assert status.reason == "exit", status.detail
            system.kernel.check()
            return status.value

    return play(whole)


@pytest.fixture
def typed(tmp_path: Path) -> Callable[[str], Screen]:
    return lambda text: Screen(tmp_path, text)


def test_every_driver_through_a_call(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    async def main() -> Any:
        names = {device.name: [op.name for op in device.ops] for device in await Devices()}
        return [
            names,
            await told("calc", "eval", expression="6 * 7"),
            (await told("clock", "now"))["weekday"][-3:],
            await told("files", "write", path="a/b.txt", text="one\ntwo\n"),
            await told("files", "lines", path="a/b.txt", first=2),
            await told("db", "query", sql="SELECT count(*) AS n FROM t"),
            await told("tty", "say", text="Hello"),
            await told("tty", "ask", question="Who is there?"),
            await told("tty", "ask", question="And who else?"),
        ]

    screen = typed("Ada\nGrace \n")
    names, *values = run(screen, main, devices(folder))
    assert sorted(names) == ["calc", "clock", "db", "files", "tty"]
    assert names["db"] == ["tables", "query"]
    assert values == [
        42,
        "day",
        None,
        {"text": "two", "next": None, "total": 2, "note": ""},
        {"rows": [{"n": 0}], "note": ""},
        *(None, "Ada", "Grace "),
    ]
    assert screen.shown == "Hello\nWho is there?\n> And who else?\n> "


def test_what_is_wrong_comes_back_as_the_reply_in_one_line(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    async def main() -> Any:
        return [
            await told("calc", "eval", expr="1"),
            await told("calc", "evaluate"),
            await told("clock", "now", zone="UTC"),
            await told("files", "read", path="none.txt"),
            await told("files", "lines", path="x.db", first=0),
            await told("db", "query", sql="DELETE FROM t"),
            await told("db", "execute", sql="DELETE FROM t"),
            await told("tty", "ask", question="Is anybody there?"),
            await told("calc", "eval", expression="1 / 0"),
        ]

    errors = run(typed(""), main, devices(tmp_path, "few=calc,ops=eval"))
    there = ", ".join(
        ["calc.eval", "clock.now", "tty.ask", "tty.say"]
        + [f"files.{op}" for op in ("read", "lines", "list", "stat", "search", "find")]
        + [f"files.{op}" for op in ("write", "edit", "append", "delete")]
        + ["db.tables", "db.query", "few.eval"]
    )
    assert errors == [
        "EINVAL: eval: expression is missing; there is no expr; the arguments are (expression)",
        f"ENOENT: no op calc.evaluate; there are: {there}",
        "EINVAL: now: there is no zone; the arguments are ()",
        "ENOENT: none.txt: no such file or folder",
        "EINVAL: lines: first should be greater than or equal to 1, not 0",
        "EPERM: no DELETE here; a query only reads",
        f"ENOENT: no op db.execute; there are: {there}",
        "EPIPE: ask: nobody answers; the input of the terminal has ended",
        "EINVAL: /: division by zero",
    ]


def test_the_kernel_holds_callers_to_the_constraints_of_a_mount(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    async def main() -> Any:
        pid = await Spawn(program="spender", limits=Limits(cost=8))
        status = await Wait(pid=pid)
        return [status.value, await told("quick", "query", sql=endless), await told("few", "tables")]

    async def spender() -> Any:
        return [await told("dear", "eval", expression="1 + 1") for _ in range(3)] + [await told("clock", "now") != ""]

    mounts = devices(
        tmp_path,
        "dear=calc,cost=4",
        f"quick=sqlite:{tmp_path / 'x.db'},seconds=3600,timeout=0.05",
        f"few=sqlite:{tmp_path / 'x.db'},ops=query",
    )
    spent, quick, few = run(typed(""), main, mounts, spender=spender)
    assert spent == [2, 2, "EDQUOT: dear.eval costs 4, and 0 is left of the limit of 8 for this process", True]
    assert quick == "ETIMEDOUT: quick.query took too long"
    assert few.startswith("ENOENT: no op few.tables")


def test_questions_take_turns_and_each_gets_its_line(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    async def main() -> Any:
        return await gather(*(told("tty", "ask", question=f"{n}?") for n in range(3)))

    screen = typed("a\nb\nc\n")
    assert sorted(run(screen, main, devices(tmp_path))) == ["a", "b", "c"]
    assert sorted(screen.shown.split("\n> ")) == ["", "0?", "1?", "2?"]


def test_a_program_reads_on_where_a_question_stopped(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    async def main() -> Any:
        first = await Read(limit=2)
        return [first, await told("tty", "ask", question="?"), await Read(), await told("tty", "ask", question="?")]

    ended = "EPIPE: ask: nobody answers; the input of the terminal has ended"
    assert run(typed("1\n2\r\n3\n4"), main, devices(tmp_path)) == ["1\n", "2", "3\n4", ended]


def test_a_question_that_is_given_up_takes_no_line_and_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> Any:
        _, first = await select(told("tty", "ask", question="Quick?"), Sleep(seconds=0.01))
        return [first, await told("tty", "ask", question="And now?")]

    async def whole() -> Any:
        person, screen = Guest(), Screen(tmp_path)
        keyboard = anyio.Event()
        original = screen.read

        async def read(give: Any) -> None:
            await keyboard.wait()  # nobody has typed yet
            await original(give)

        screen.read = read  # type: ignore[method-assign]
        (tmp_path / "typed").write_text("yes\n")
        drivers = mounted(devices(tmp_path), person)
        async with boot(drivers=drivers, programs={"main": main}, terminal=screen) as system:
            person.sit(system)
            async with system.attach("test") as client:
                pid = await client.call(Spawn(program="main", fds=TTY))
                await until(lambda: "And now?" in screen.shown)
                asking = [p.program for p in await client.call(Stat())].count("tty")
                keyboard.set()
                status = await client.call(Wait(pid=pid))
                left = [p.program for p in await client.call(Stat())].count("tty")
        return status.value, asking, left

    assert play(whole) == ([None, "yes"], 1, 0)


def test_a_kernel_stops_while_somebody_is_asked_and_the_next_asks_again(tmp_path: Path) -> None:
    async def main() -> Any:
        return await told("tty", "ask", question="Still there?")

    async def life(number: int, typed: str | None) -> Any:
        (tmp_path / str(number)).mkdir()
        person, screen = Guest(), Screen(tmp_path / str(number), typed or "")
        if typed is None:
            screen.read = lambda give: anyio.sleep_forever()  # type: ignore[method-assign,assignment]
        drivers = mounted(devices(tmp_path), person)
        state = tmp_path / "state"
        async with boot(state, drivers=drivers, programs={"main": main}, terminal=screen) as system:
            person.sit(system)
            if typed is None:
                async with system.attach("test") as client:
                    await client.call(Spawn(program="main", fds=TTY))
                    await until(lambda: "Still there?" in screen.shown)
                return None
            await until(lambda: not system.unfinished())
            async with system.attach("test") as client:
                return [p.status.value for p in await client.call(Stat(dead=True)) if p.program == "main" and p.status]

    assert play(life, 1, None) is None
    assert play(life, 2, "yes\n") == ["yes"]


def test_a_killed_process_stops_its_query(tmp_path: Path, typed: Callable[[str], Screen]) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    async def child() -> Any:
        return await told("long", "query", sql=endless)

    async def main() -> Any:
        pid = await Spawn(program="child")
        await Sleep(seconds=0.01)
        await Kill(pid=pid, signal=Signal.KILL)
        return [(await Wait(pid=pid)).reason, await told("long", "query", sql="SELECT 1 AS a")]

    # The kernel ends only when its threads have: an endless query would keep this test from ending.
    mounts = devices(tmp_path, f"long=sqlite:{tmp_path / 'x.db'},seconds=3600")
    assert run(typed(""), main, mounts, child=child) == ["killed", {"rows": [{"a": 1}], "note": ""}]
