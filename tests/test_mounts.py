"""Mount specifications: what they mean, what is refused and how, and what a mount holds its callers to."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from typing import Any

import anyio
import pytest

from driven import call
from tokix import cli, mounts
from tokix.drivers import Calc, Clock, Driver, Files, Sqlite, Tty
from tokix.mounts import Constrained, Mount, MountError, mounted, parse
from tokix.syscalls import EINVAL, ENOENT

DICE = '''
from typing import Annotated

from pydantic import Field

from tokix.drivers import Driver, op


class Dice(Driver):
    """A die with so many sides."""

    def __init__(
        self, sides: Annotated[int, Field(ge=2)] = 6, colour="red", *, names: tuple[str, ...] = (), loaded: bool = False
    ) -> None:
        self.said = (sides, colour, names, loaded)

    @op(effect="pure", timeout=30, cost=2)
    def roll(self) -> int:
        """Roll it."""
        return 1

    @op(effect="unsafe")
    def throw(self) -> None:
        """Throw it away."""


def made(place: str, *, key: str) -> Dice:
    found = Dice()
    found.said = (place, key)
    return found


class Broken(Driver):
    def __init__(self) -> None:
        raise ZeroDivisionError("oh\\nno")


class Refuses(Driver):
    def __init__(self, word: str) -> None:
        raise ValueError(f"{word} is no good")


class Mute(Driver):
    def describe(self, name):
        raise KeyError(name)


class Other:
    pass


number = 3
'''


class Silent:
    """A person who is there and says nothing."""

    async def ask(self, question: str) -> str | None:
        return None

    async def say(self, text: str) -> None:
        pass


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "a,b").mkdir()
    (tmp_path / "dice.py").write_text(DICE)
    (tmp_path / "wrong.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "text").write_text("no database, and longer than the header of one " * 10)
    yield tmp_path
    for module in [name for name in sys.modules if name.startswith("tokix driver ")]:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("calc", Mount("calc", "calc")),
        ("sums=calc", Mount("sums", "calc")),
        ("files:./data", Mount("files", "files", "./data")),
        ("out=files:./data,write", Mount("out", "files", "./data", {"write": "true"})),
        ("out=files:a\\,b,write", Mount("out", "files", "a,b", {"write": "true"})),
        ("f=files:x=y:z", Mount("f", "files", "x=y:z")),
        ("db=sqlite:x.db,write,seconds=2", Mount("db", "sqlite", "x.db", {"write": "true", "seconds": "2"})),
        ("d=./dice.py:Dice", Mount("d", "./dice.py:Dice")),
        ("d=/a.py/dice.py:Dice:20,names=a|b", Mount("d", "/a.py/dice.py:Dice", "20", {"names": "a|b"})),
        ("c=calc,ops=a|b,timeout=1.5,cost=3", Mount("c", "calc", ops=("a", "b"), timeout=1.5, cost=3)),
        ("c=x,a=1\\,2, b", Mount("c", "x", None, {"a": "1,2", "b": "true"})),
    ],
)
def test_read(text: str, mount: Mount) -> None:
    assert Mount.read(text) == mount


@pytest.mark.parametrize(
    ("text", "kind", "ops"),
    [
        ("calc", Calc, ["eval"]),
        ("clock", Clock, ["now"]),
        ("tty", Tty, ["ask", "say"]),
        ("files:data", Files, ["read", "lines", "list", "stat", "search", "find"]),
        ("files:data,write=no", Files, ["read", "lines", "list", "stat", "search", "find"]),
        ("db=sqlite:new.db,write", Sqlite, ["tables", "query", "execute"]),
    ],
)
def test_the_drivers_that_come_with_tokix(text: str, kind: type, ops: list[str]) -> None:
    name, driver = parse(text, Silent())
    assert isinstance(driver, kind)
    assert name == Mount.read(text).name
    assert [op.name for op in driver.describe(name).ops] == ops


def test_files_are_read_only_unless_it_is_said(here: Path) -> None:
    (here / "data" / "a").write_text("text")
    for text, more in (("files:data", 0), ("files:data,write", 4)):
        _, driver = parse(text)
        assert call(driver, "read", path="a") == "text"
        assert len(driver.describe("f").ops) == 6 + more


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("d=dice.py:Dice", (6, "red", (), False)),
        ("d=dice.py:Dice:20", (20, "red", (), False)),
        ("d=./dice.py:Dice:2,loaded,names=a|b\\,c,colour=blue", (2, "blue", ("a", "b,c"), True)),
        ("d=dice.py:made:here,key=k", ("here", "k")),
    ],
)
def test_the_signature_of_a_constructor_is_what_can_be_said(text: str, said: tuple[Any, ...]) -> None:
    driver: Any = parse(text)[1]
    assert driver.said == said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a device needs a name of letters, digits, _ and -: write NAME=DRIVER"),
        ("=calc", "write NAME=calc"),
        ("a b=calc", "write NAME=calc"),
        ("1=calc", "write NAME=calc"),
        ("dice.py:Dice", "write NAME=dice.py:Dice"),
        ("x" * 40 + "=calc", "a device needs a name"),
        ("x=", "no driver ''; there is calc, clock, files, sqlite, tty, and file.py:CLASS"),
        ("x=nope", "no driver 'nope'; there is calc, clock, files, sqlite, tty, and file.py:CLASS"),
        ("calc,", "'' is no option: write NAME, or NAME=VALUE; a comma in a value is written \\,"),
        ("calc,ops=", "'ops=' is no option"),
        ("calc,a b", "'a b' is no option"),
        ("calc,cost=1,cost=2", "the option cost is there twice"),
        ("calc:3", "calc takes no argument: write calc=calc"),
        ("calc,write", "calc has no option 'write'; there is ops, timeout, cost"),
        ("calc,timeout", "timeout should be a valid number, unable to parse string as a number, not 'true'"),
        ("calc,timeout=0", "timeout should be greater than 0, not '0'"),
        ("calc,timeout=inf", "timeout should be a finite number, not 'inf'"),
        ("calc,cost=-1", "cost should be greater than or equal to 0, not '-1'"),
        ("calc,cost=1.5", "cost should be a valid integer"),
        ("calc,ops=eval|nope", "calc: calc has no op 'nope'; there is eval"),
        ("files", "files needs a folder: write files=files:FOLDER"),
        ("files:", "files needs a folder: write files=files:FOLDER"),
        ("f=files:none", "f: none: No such file or directory"),
        ("f=files:text", "f: text: Not a directory"),
        ("f=files:data,read", "files has no option 'read'; there is write, ops, timeout, cost"),
        ("f=files:data,write=perhaps", "write should be a valid boolean"),
        ("db=sqlite", "sqlite needs a file: write db=sqlite:FILE"),
        ("db=sqlite:none.db", "db: none.db: no such file; the option write makes it"),
        ("db=sqlite:text", "db: text: file is not a database"),
        ("db=sqlite:data", "db: data: a folder"),
        ("db=sqlite:x.db,seconds=0", "seconds should be greater than 0, not '0'"),
        ("tty", "tty needs somebody at a terminal, and here is none"),
        ("d=dice.py", "which class is the driver? write dice.py:CLASS"),
        ("d=none.py:Dice", "there is no file"),
        ("d=dice.py:Nope", "has no class Nope"),
        ("d=wrong.py:Dice", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("d=dice.py:Dice:1", "sides should be greater than or equal to 2, not '1'"),
        ("d=dice.py:Dice:x", "sides should be a valid integer"),
        ("d=dice.py:Dice,sides=3", "has no option 'sides'; there is colour, names, loaded, ops, timeout, cost"),
        ("d=dice.py:made", "dice.py:made needs a place: write d=dice.py:made:PLACE"),
        ("d=dice.py:made:x", "dice.py:made needs the option key: write key=VALUE after a comma"),
        ("d=dice.py:Broken", "d: dice.py:Broken failed: ZeroDivisionError: oh"),
        ("d=dice.py:Refuses:x", "d: x is no good"),
        ("d=dice.py:Mute", "d: dice.py:Mute failed: KeyError: 'd'"),
        ("d=dice.py:Other", "dice.py:Other is no driver: it has no describe and invoke"),
        ("d=dice.py:number", "number is no class, and makes no driver"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(text: str, complaint: str) -> None:
    with pytest.raises(MountError) as caught:
        parse(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_wrong_can_be_repaired(here: Path) -> None:
    with pytest.raises(MountError):
        parse("d=wrong.py:Dice")
    (here / "wrong.py").write_text(DICE)
    assert parse("d=wrong.py:Dice")[0] == "d"


def test_a_driver_of_another_package_is_an_entry_point(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "a_package_of_dice.py").write_text(dedent(DICE))
    monkeypatch.syspath_prepend(here)
    points = [EntryPoint(name, f"a_package_of_dice:{name.title()}", mounts.GROUP) for name in ("dice", "nope", "calc")]
    monkeypatch.setattr(mounts, "entry_points", lambda group: points if group == "tokix.drivers" else [])
    found: Any = parse("dice:12")[1]
    assert found.said[0] == 12
    assert isinstance(parse("calc")[1], Calc), "nobody takes the place of a driver that comes with tokix"
    with pytest.raises(MountError, match="cannot import nope: AttributeError"):
        parse("nope")
    with pytest.raises(MountError, match=r"tty, calc, dice, nope, and file\.py:CLASS"):
        parse("x=other")


def test_two_devices_cannot_have_one_name() -> None:
    assert list(mounted([Mount("a", "calc"), Mount("b", "calc")])) == ["a", "b"]
    with pytest.raises(MountError, match="two mounts named a: write another name before the ="):
        mounted([Mount("a", "calc"), Mount.read("a=clock")])


# ---- constraints


def test_constraints_change_what_the_kernel_holds_callers_to() -> None:
    def shape(text: str) -> list[tuple[str, float | None, int]]:
        name, driver = parse(text)
        assert driver.describe("elsewhere").name == "elsewhere"
        return [(op.name, op.timeout, op.cost) for op in driver.describe(name).ops]

    assert shape("d=dice.py:Dice") == [("roll", 30, 2), ("throw", None, 0)]
    assert shape("d=dice.py:Dice,ops=throw") == [("throw", None, 0)]
    assert shape("d=dice.py:Dice,timeout=40") == [("roll", 30, 2), ("throw", 40, 0)], "a mount gives no more time"
    assert shape("d=dice.py:Dice,timeout=5,cost=7") == [("roll", 5, 7), ("throw", 5, 7)]
    assert shape("d=dice.py:Dice,cost=0") == [("roll", 30, 0), ("throw", None, 0)]


def test_an_op_that_is_left_out_cannot_be_called() -> None:
    driver = Constrained(Files(Path("data"), write=True), ops=["read", "list"])
    assert call(driver, "list") == []
    with pytest.raises(ENOENT, match="no op write; there is list, read"):
        call(driver, "write", path="x", text="x")
    with pytest.raises(EINVAL, match="path is missing"):
        call(driver, "read")
    assert list(Path("data").iterdir()) == []


def test_a_constrained_driver_is_cancelled_like_any_other() -> None:
    class Slow(Calc):
        async def invoke(self, op: str, args: dict[str, Any], key: str) -> Any:
            await anyio.sleep_forever()

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(Constrained(Slow()).invoke, "eval", {}, "k")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        return scope.cancelled_caught

    assert anyio.run(main)


# ---- the command, and the document


def test_the_command_says_what_is_wrong_with_a_mount(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, complaint in (
        ("x y=calc", "argument --mount: a device needs a name"),
        ("f=files:none", "--mount: f: none: No such file or directory"),
        ("calc,ops=no", "--mount: calc: calc has no op 'no'; there is eval"),
    ):
        assert cli.main(["run", "--state", str(here / "state"), "--durable", "none", "--mount", text, "echo"]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert complaint in err


def test_the_command_mounts(here: Path) -> None:
    (here / "data" / "a.txt").write_text("text")
    (here / "program.py").write_text(
        "from tokix import Call\n"
        "async def main():\n"
        "    name = await Call(device='tty', op='ask', args={'question': 'Who?'})\n"
        "    text = await Call(device='docs', op='read', args={'path': 'a.txt'})\n"
        "    await Call(device='tty', op='say', args={'text': f'{name}: {text}'})\n"
    )
    words = ["run", "--state", "state", "--mount", "tty", "--mount", "docs=files:data,ops=read", "program.py"]
    done = subprocess.run([sys.executable, "-m", "tokix", *words], input="Ada\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Who?\n> Ada: text\n", "")


def test_the_example_of_the_document(here: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "drivers.md").read_text()
    (here / "roll.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    name, driver = parse("dice=roll.py:Dice:20,most=5")
    [roll] = driver.describe(name).ops
    assert (roll.doc, roll.effect, roll.cost, roll.timeout) == ("Roll dice, and give what each shows.", "pure", 1, 5)
    rolled = call(driver, "roll", dice=5)
    assert len(rolled) == 5
    assert all(1 <= number <= 20 for number in rolled)
    for dice, complaint in ((6, "dice should be at most 5, not 6"), (0, "roll: dice should be greater than or equal")):
        with pytest.raises(EINVAL, match=complaint):
            call(driver, "roll", dice=dice)
    for shown in re.findall(r"--mount (\S+)", text):
        Mount.read(shown)


def test_the_document_names_the_drivers_and_their_ops() -> None:
    text = (Path(__file__).parents[1] / "docs" / "drivers.md").read_text()
    rows = {row[0]: row[2] for row in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", text, re.MULTILINE)}
    kinds: dict[str, type[Driver]] = {"calc": Calc, "clock": Clock, "files": Files, "sqlite": Sqlite, "tty": Tty}
    assert rows.keys() == mounts.SHIPPED.keys() == kinds.keys()
    for name, kind in kinds.items():
        assert set(kind._ops) <= set(re.findall(r"`(\w+)`", rows[name]))
