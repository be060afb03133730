"""Drivers: what the decorator promises, arithmetic against Python's own, and attacks on the root of `Files`."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError

from tokix.drivers import Calc, Driver, Files, base, files, op
from tokix.kernel import ports
from tokix.syscalls import EINVAL, EIO, ENOENT, EPERM, SyscallError

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=300)


def call(driver: ports.Driver, name: str, **args: Any) -> Any:
    return anyio.run(driver.invoke, name, args, "1:0:1")


# ---- the decorator


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Topping(BaseModel):
    name: str
    grams: Annotated[int, Field(gt=0)]


class Pizzeria(Driver):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    @op(effect="unsafe", timeout=30.0, cost=12)
    async def order(self, size: Size, toppings: list[Topping], rounds: int = 1, *, key: str) -> str:
        """Order a pizza.

        The rest of the text is for those who read the source.
        """
        self.seen.append((size, toppings, rounds))
        return f"{rounds} {size} with {', '.join(t.name for t in toppings)}, ticket {key}"

    @op(effect="pure", inline=True)
    def menu(self, schema: str = "en", json: float | None = None) -> dict[str, Any]:
        """Give the menu."""
        self.seen.append((schema, json))
        return {"schema": schema, "json": json, "best": Topping(name="basil", grams=3)}

    def bill(self) -> str:
        """Not an op."""
        return "no"


def test_the_example_of_the_documentation() -> None:
    example = dedent((base.__doc__ or "").partition("\n\n")[2].partition("\n\nThe decorator")[0])
    names: dict[str, Any] = {"Driver": Driver, "op": op, "Annotated": Annotated, "Field": Field, "secrets": secrets}
    exec(example, names)
    dice: Driver = names["Dice"]()
    assert dice.describe("dice").ops[0].doc == "Roll a die."
    assert call(dice, "roll", sides=2) in (1, 2)


def test_describe_is_derived_from_the_signature() -> None:
    device = Pizzeria().describe("luigi")
    assert device.name == "luigi"
    order, menu = device.ops
    assert (order.name, order.doc, order.effect) == ("order", "Order a pizza.", "unsafe")
    assert (order.timeout, order.cost) == (30.0, 12)
    assert order.parameters["required"] == ["size", "toppings"]
    assert order.parameters["additionalProperties"] is False
    assert order.parameters["properties"]["rounds"] == {"type": "integer", "default": 1}
    assert set(order.parameters["properties"]) == {"size", "toppings", "rounds"}  # no self, no key
    assert menu.parameters == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "schema": {"type": "string", "default": "en"},
            "json": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        },
    }
    assert (menu.effect, menu.timeout, menu.cost) == ("pure", None, 0)


def test_arguments_arrive_as_the_hints_say_and_values_leave_as_json() -> None:
    pizzeria = Pizzeria()
    text = call(pizzeria, "order", size="small", toppings=[{"name": "ham", "grams": 20}])
    assert text == "1 small with ham, ticket 1:0:1"
    assert pizzeria.seen == [(Size.SMALL, [Topping(name="ham", grams=20)], 1)]
    value = call(pizzeria, "menu", json=2)
    assert value == {"schema": "en", "json": 2.0, "best": {"name": "basil", "grams": 3}}
    assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ({}, "size is missing; toppings is missing; the arguments are (size, toppings, rounds?)"),
        (
            {"size": "small", "toppings": [], "extra": 1},
            "there is no extra; the arguments are (size, toppings, rounds?)",
        ),
        ({"size": "small", "toppings": [], "key": "mine"}, "there is no key; the arguments are"),
        ({"size": "small", "toppings": [], "self": 1}, "there is no self; the arguments are"),
        ({"size": "huge", "toppings": []}, "size should be 'small' or 'large', not \"huge\""),
        ({"size": "small", "toppings": [], "rounds": "2"}, 'rounds should be a valid integer, not "2"'),
        ({"size": "small", "toppings": [], "rounds": True}, "rounds should be a valid integer, not true"),
        (
            {"size": "small", "toppings": [], "rounds": 1.5},
            "rounds should be a valid integer, not 1.5",
        ),
        ({"size": "small", "toppings": "ham"}, 'toppings should be a valid array, not "ham"'),
        ({"size": "small", "toppings": [{"name": "ham", "grams": 0}]}, "toppings.0.grams should be greater than 0"),
        ({"size": "small", "toppings": [{"name": "ham"}]}, "toppings.0.grams is missing"),
        ({"size": "small", "toppings": [5] * 50}, "toppings.4 should be an object, not 5"),
        ({"size": "x" * 9000, "toppings": []}, "xxx…"),
        ({"size": "small", "toppings": [], "rounds": object()}, "Unable to serialize"),
        ({"size": "\ud800", "toppings": []}, "surrogates not allowed"),
    ],
)
def test_wrong_arguments_are_explained_and_never_seen_by_the_method(args: dict[str, Any], complaint: str) -> None:
    pizzeria = Pizzeria()
    with pytest.raises(EINVAL) as caught:
        anyio.run(pizzeria.invoke, "order", args, "k")
    assert caught.value.detail.startswith("order: ")
    assert complaint in caught.value.detail
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 400
    assert pizzeria.seen == []


@pytest.mark.parametrize("name", ["bill", "describe", "invoke", "__init__", "_ops", "seen", "", "Order"])
def test_only_ops_can_be_called(name: str) -> None:
    with pytest.raises(ENOENT, match="there is order, menu"):
        call(Pizzeria(), name)


def test_a_subclass_inherits_replaces_and_withdraws_ops() -> None:
    class Cheap(Pizzeria):
        @op(effect="pure", inline=True)
        def menu(self) -> str:  # type: ignore[override]
            """Give the only dish."""
            return "bread"

        async def order(self, *args: Any, **kwargs: Any) -> str:
            return "not an op any more"

    assert [info.name for info in Cheap().describe("x").ops] == ["menu"]
    assert call(Cheap(), "menu") == "bread"
    assert [info.name for info in Pizzeria().describe("x").ops] == ["order", "menu"]


def undocumented(self: Driver, x: int) -> int:
    return x


def unhinted(self: Driver, x: int) -> int:
    """Give x."""
    return x


del unhinted.__annotations__["x"]


def open_ended(self: Driver, *xs: int, **ys: int) -> int:
    """Give a sum."""
    return sum(xs) + sum(ys.values())


@pytest.mark.parametrize("method", [undocumented, unhinted, open_ended])
def test_a_method_that_cannot_be_described_is_refused_when_it_is_defined(method: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=method.__name__):
        op(effect="pure")(method)


class Threads(Driver):
    def __init__(self) -> None:
        self.door = threading.Event()
        self.left = False

    @op(effect="pure")
    async def awaited(self) -> int:
        """Tell the thread."""
        return threading.get_ident()

    @op(effect="pure", inline=True)
    def inline(self) -> int:
        """Tell the thread."""
        return threading.get_ident()

    @op(effect="pure")
    def blocking(self) -> int:
        """Tell the thread, when the door opens."""
        assert self.door.wait(timeout=10)
        self.left = True
        return threading.get_ident()

    @op(effect="pure")
    async def open(self) -> None:
        """Open the door."""
        self.door.set()

    @op(effect="pure")
    def broken(self, how: str) -> Any:
        """Fail."""
        match how:
            case "bug":
                raise ZeroDivisionError("a bug of the driver")
            case "errno":
                raise EPERM("not you")
        return object()


def test_a_blocking_method_does_not_stop_the_event_loop() -> None:
    driver, threads = Threads(), {}

    async def tell(name: str) -> None:
        threads[name] = await driver.invoke(name, {}, "k")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(tell, "blocking")
            await anyio.wait_all_tasks_blocked()
            for name in ("awaited", "inline", "open"):
                await tell(name)

    anyio.run(main)
    assert threads["awaited"] == threads["inline"] == threading.get_ident() != threads["blocking"]


def test_a_cancelled_call_ends_only_when_its_thread_has() -> None:
    driver = Threads()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(driver.invoke, "blocking", {}, "k")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                driver.door.set()
        assert driver.left

    anyio.run(main)


@pytest.mark.parametrize(
    ("how", "error"), [("bug", ZeroDivisionError), ("errno", EPERM), ("value", PydanticSerializationError)]
)
def test_failures_of_a_method_are_not_hidden(how: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        call(Threads(), "broken", how=how)


# ---- calc


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


# ---- files

SECRET = "the secret of the host"
#: Arguments for every op, so that each can be tried on each path.
CALLS: dict[str, dict[str, Any]] = {
    "read": {},
    "list": {},
    "stat": {},
    "lines": {},
    "search": {"text": "secret"},
    "find": {"pattern": "*"},
    "edit": {"old": "side", "new": "pwned"},
    "write": {"text": "pwned"},
    "append": {"text": "pwned"},
    "delete": {},
}


class World:
    """A root with a few files, and a host around it whose every change is seen."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "root", folder / "outside"
        for place, text in ((self.root, "inside"), (self.outside, SECRET)):
            (place / "sub" / "deep").mkdir(parents=True)
            (place / "file.txt").write_text(text)
            (place / "sub" / "file.txt").write_text(text)
            (place / "sub" / "deep" / "file.txt").write_text(text)
        self.files = Files(self.root, write=True)
        self.before = self.picture()

    def picture(self) -> dict[str, Any]:
        found = {p: p.lstat() for p in [self.outside, *self.outside.rglob("*")]}
        return {str(p): (s.st_mode, s.st_mtime_ns, p.is_file() and p.read_text()) for p, s in found.items()}

    def names(self) -> set[str]:
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*")}

    def attempt(self, name: str, path: str, around: AbstractContextManager[Any] | None = None) -> SyscallError | None:
        """Try an op; whatever it answers, nothing of the host may be in it, and nothing of the host changed."""
        error = None
        try:
            with around or nullcontext():
                answer = repr(getattr(self.files, name)(path=path, **CALLS[name]))
        except SyscallError as caught:
            error, answer = caught, caught.detail
        assert error is None or path in answer
        assert SECRET not in answer
        assert str(self.root.parent) not in answer
        assert self.picture() == self.before
        return error

    def check(self) -> None:
        assert not [name for name in self.names() if ".tokix-" in name]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.check()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside/file.txt",
        "sub/../../outside/file.txt",
        "sub/..",
        "./../outside",
        "sub/deep/../../../outside/file.txt",
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "/proc/self/root/etc/passwd",
        "OUTSIDE/file.txt",
    ],
)
def test_no_path_leaves_the_root(world: World, name: str, path: str) -> None:
    path = path.replace("OUTSIDE", str(world.outside))
    with pytest.raises(EPERM, match="outside of the device"):
        call(world.files, name, path=path, **CALLS[name])
    assert world.picture() == world.before


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("path", ["", "sub\0", "\0", "a" * 300, "x/" * 2000 + "x", "a" * 5000])
def test_paths_that_are_none(world: World, name: str, path: str) -> None:
    if name == "delete" and path.startswith("x/"):
        assert call(world.files, name, path=path) is None  # it is long, but it is not there
        return
    if path.startswith("x/") and name in ("write", "append"):
        return  # a thousand folders, if that is what the caller wants
    with pytest.raises((EINVAL, ENOENT)):
        call(world.files, name, path=path, **CALLS[name])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("link", "target", "path"),
    [
        ("link", "../outside/file.txt", "link"),
        ("link", "OUTSIDE/file.txt", "link"),
        ("link", "../outside", "link"),
        ("link", "../outside", "link/file.txt"),
        ("link", "../outside", "link/sub/file.txt"),
        ("link", "../outside", "link/new.txt"),
        ("link", "../outside", "link/new/new.txt"),
        ("sub/link", "../../outside/sub", "sub/link/deep/file.txt"),
        ("link", "../outside/new.txt", "link"),  # dangling
        ("link", "../outside/new", "link/new.txt"),
        ("link", "link", "link"),
        ("link", "link", "link/file.txt"),
        ("link", "/proc/self/cwd", "link/pyproject.toml"),
        ("link", "file.txt", "link"),  # harmless, but a link is a link
        ("link", "sub", "link/file.txt"),
        ("link", ".", "link/file.txt"),
    ],
)
def test_no_link_is_followed(world: World, name: str, link: str, target: str, path: str) -> None:
    (world.root / link).symlink_to(target.replace("OUTSIDE", str(world.outside)))
    error = world.attempt(name, path)
    if name == "stat" and path == link:
        assert error is None
        assert call(world.files, "stat", path=path)["kind"] == "link"
    else:
        assert isinstance(error, EPERM)
        assert "symbolic links are not followed" in error.detail
    assert (world.root / link).is_symlink()
    assert (world.root / "file.txt").read_text() == (world.root / "sub" / "file.txt").read_text() == "inside"


def test_a_search_passes_links_by(world: World) -> None:
    (world.root / "link").symlink_to("../outside")
    (world.root / "link.txt").symlink_to("../outside/file.txt")
    assert world.attempt("search", ".") is None
    assert [info["kind"] for info in call(world.files, "list") if "link" in info["name"]] == ["link", "link"]


class Saboteur:
    """Counts the calls into the host's file system, and does something just before the n-th."""

    NAMES = ("open", "mkdir", "lstat", "fstat", "replace", "unlink", "rmdir", "fsync", "fchmod", "scandir")

    def __init__(self, nth: int, act: Callable[[], None]) -> None:
        self.left, self.act = nth, act
        self.patch = pytest.MonkeyPatch()

    def __enter__(self) -> None:
        for name in self.NAMES:
            self.patch.setattr(os, name, self.wrap(getattr(os, name)))

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.act()
            return function(*args, **kwargs)

        return wrapped


def each_moment(act: Callable[[World], None], folder: Path) -> Iterator[tuple[World, Saboteur]]:
    """Give fresh worlds in which the act comes at the first call into the host, at the second, … until none is left."""
    for nth in range(1, 100):
        world = World(folder / str(nth))
        saboteur = Saboteur(nth, partial(act, world))
        yield world, saboteur
        world.check()
        if saboteur.left > 0:
            return
    pytest.fail("too many calls")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("victim", "target", "path"),
    [
        ("sub", "../outside/sub", "sub/file.txt"),
        ("sub", "../outside/sub", "sub/deep/file.txt"),
        ("sub/deep", "../../outside/sub/deep", "sub/deep/file.txt"),
        ("sub", "../outside/sub", "sub/new/new.txt"),
        ("sub", "../outside/sub", "sub"),
        ("sub/file.txt", "../../outside/sub/file.txt", "sub/file.txt"),
        ("sub/new.txt", "../../outside/sub/new.txt", "sub/new.txt"),
        ("sub", "../outside/sub", "."),
    ],
)
def test_a_link_put_in_place_at_any_moment_of_a_call(
    tmp_path: Path, name: str, victim: str, target: str, path: str
) -> None:
    def swap(world: World) -> None:
        here = world.root / victim
        if os.path.lexists(here):
            here.rename(world.root / "moved")
        here.symlink_to(target)

    moments = 0
    for world, saboteur in each_moment(swap, tmp_path):
        world.attempt(name, path, saboteur)
        moments += 1
    assert moments > 2 or (path == "." and name in ("read", "lines", "write", "append", "edit", "delete"))


def test_a_race_with_somebody_who_swaps_folders(world: World) -> None:
    sub, aside, link = world.root / "sub", world.root / "aside", world.root / "link"
    link.symlink_to("../outside/sub")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            sub.rename(aside)
            link.rename(sub)
            sub.rename(link)
            aside.rename(sub)

    racer = threading.Thread(target=swap)
    racer.start()
    try:
        for _ in range(150):
            for name, path in ("read", "sub/file.txt"), ("stat", "sub/file.txt"), ("list", "sub"), ("search", "sub"):
                world.attempt(name, path)
    finally:
        done.set()
        racer.join()


def test_the_root_may_move_and_something_else_take_its_name(world: World) -> None:
    world.root.rename(world.root.with_name("elsewhere"))
    world.root.symlink_to("outside")
    assert call(world.files, "read", path="file.txt") == "inside"


@pytest.mark.parametrize("name", ["read", "write", "append", "delete"])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_what_is_no_regular_file_is_refused_at_once(world: World, name: str, kind: int) -> None:
    os.mknod(world.root / "odd", kind | 0o600)
    assert isinstance(error := world.attempt(name, "odd"), EINVAL)
    assert "not a regular file" in error.detail
    assert call(world.files, "stat", path="odd")["kind"] == "other"
    assert call(world.files, "search", text="in", path="sub")


def test_a_fifo_that_somebody_reads_gets_nothing(world: World) -> None:
    os.mkfifo(world.root / "fifo")
    reader = os.open(world.root / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        for name in CALLS:
            world.attempt(name, "fifo")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["zero", "null", "tty", "full"])
def test_devices_of_the_host_are_not_read_or_written(name: str) -> None:
    for op_name in ("read", "append"):
        with pytest.raises(EINVAL, match=f"{name}: not a regular file"):
            call(Files(Path("/dev"), write=True), op_name, path=name, **CALLS[op_name])


@pytest.mark.parametrize("name", CALLS)
def test_no_call_leaves_a_descriptor_open(world: World, name: str) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    (world.root / "link").symlink_to("sub")
    gc.collect()  # the worlds of other tests
    before = len(list(descriptors.iterdir()))
    for path in ("file.txt", "sub/deep", "sub/deep/file.txt", "none", "no/ne", "file.txt/x", "link/x", "link", "."):
        world.attempt(name, path)
    assert len(list(descriptors.iterdir())) == before


def test_a_device_that_is_dropped_closes_its_root(tmp_path: Path) -> None:
    fd = Files(tmp_path)._root._fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_root_that_is_no_folder_cannot_be_mounted(world: World) -> None:
    with pytest.raises(NotADirectoryError):
        Files(world.root / "file.txt")
    with pytest.raises(FileNotFoundError):
        Files(world.root / "none")


@pytest.mark.parametrize(
    ("name", "path", "error", "complaint"),
    [
        ("read", "none.txt", ENOENT, "no such file or folder"),
        ("read", "no/ne.txt", ENOENT, "no such file or folder"),
        ("stat", "none.txt", ENOENT, "no such file or folder"),
        ("list", "none", ENOENT, "no such file or folder"),
        ("search", "none", ENOENT, "no such file or folder"),
        ("read", "sub", EINVAL, "a folder, not a file"),
        ("read", ".", EINVAL, "a folder, not a file"),
        ("write", "sub", EINVAL, "a folder, not a file"),
        ("write", ".", EINVAL, "a folder, not a file"),
        ("append", "sub", EINVAL, "a folder, not a file"),
        ("delete", ".", EINVAL, "a folder, not a file"),
        ("delete", "sub", EINVAL, "the folder is not empty"),
        ("list", "file.txt", EINVAL, "a file stands where a folder is needed"),
        ("read", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("write", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("delete", "file.txt/x", EINVAL, "a file stands where a folder is needed"),
        ("write", "n" * 300, EINVAL, "the name is too long"),
    ],
)
def test_files_says_what_is_wrong(
    world: World, name: str, path: str, error: type[SyscallError], complaint: str
) -> None:
    names = world.names()
    found = world.attempt(name, path)
    assert type(found) is error
    assert found.detail == f"{path}: {complaint}"
    assert world.names() == names


@pytest.mark.parametrize(
    ("code", "error", "complaint"),
    [
        (errno.EACCES, EPERM, "the host does not permit it"),
        (errno.EROFS, EPERM, "the host's file system is read-only"),
        (errno.EIO, EIO, os.strerror(errno.EIO)),
        (errno.ENOSPC, EIO, os.strerror(errno.ENOSPC)),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_any_call_into_the_host_may_fail(
    tmp_path: Path, name: str, code: int, error: type[SyscallError], complaint: str
) -> None:
    def fail(world: World) -> None:
        raise OSError(code, "host", str(world.outside))

    path = "." if name in ("list", "search", "find") else "sub/deep/file.txt"
    for world, saboteur in each_moment(fail, tmp_path):
        found = world.attempt(name, path, saboteur)
        text = (world.root / path).read_text() if path != "." and (world.root / path).exists() else None
        written = {"write": "pwned", "append": "insidepwned", "edit": "inpwned"}
        assert text in ("inside", written.get(name))
        if saboteur.left > 0:
            assert found is None
        elif name not in ("search", "find") or error is EIO:  # a search passes over what it may not read
            assert type(found) is error
            assert found.detail == f"{path}: {complaint}"


# ---- files: what they are for


@pytest.fixture
def device(tmp_path: Path) -> Files:
    return Files(tmp_path, write=True)


def test_write_read_append_delete(device: Files, tmp_path: Path) -> None:
    text = "Grüße, 世界 🌍\r\nline 2\n\0"
    for _ in range(2):
        assert call(device, "write", path="a/b/c.txt", text=text) is None
    assert (tmp_path / "a/b/c.txt").read_bytes() == text.encode()
    assert call(device, "read", path="./a//b/c.txt") == text
    call(device, "append", path="a/b/c.txt", text="more")
    assert call(device, "read", path="a/b/c.txt") == text + "more"
    call(device, "append", path="new/log.txt", text="first\n")
    assert call(device, "read", path="new/log.txt") == "first\n"
    for path in ("a/b/c.txt", "a/b/c.txt", "a/b", "a", "a", "never/was"):
        assert call(device, "delete", path=path) is None
    assert [info["name"] for info in call(device, "list")] == ["new"]


def test_read_in_pieces(device: Files) -> None:
    text = "".join(chr(0x20 + 37 * n) for n in range(100))
    call(device, "write", path="t", text=text)
    pieces = [call(device, "read", path="t", offset=offset, limit=7) for offset in range(0, 112, 7)]
    assert "".join(pieces) == text
    assert pieces[-1] == call(device, "read", path="t", offset=10**18) == ""
    for wrong in ({"offset": -1}, {"limit": 0}, {"limit": 1 << 21}):
        with pytest.raises(EINVAL):
            call(device, "read", path="t", **wrong)


def test_a_read_that_does_not_say_how_much_suits_a_small_window(device: Files) -> None:
    call(device, "write", path="t", text="x" * 100_000)
    assert len(call(device, "read", path="t")) == files.MAX_TEXT == 8000
    assert len(call(device, "read", path="t", limit=50_000)) == 50_000


@pytest.mark.parametrize(
    ("text", "first", "count", "expected"),
    [
        ("a\nb\nc\n", 1, 2, ("a\nb", 3, 3)),
        ("a\nb\nc\n", 3, 2, ("c", None, 3)),
        ("a\nb\nc", 2, 2, ("b\nc", None, 3)),
        ("a\nb\nc\n", 4, 1, ("", None, 3)),
        ("a\nb\nc\n", 10**9, 1, ("", None, 3)),
        ("\n\na", 1, 2, ("\n", 3, 3)),
        ("\r\nx\x0c\u2028y", 2, 9, ("x\x0c\u2028y", None, 2)),
        ("", 1, 5, ("", None, 0)),
        ("\n", 1, 5, ("", None, 1)),
    ],
)
def test_lines(device: Files, text: str, first: int, count: int, expected: tuple[str, int | None, int]) -> None:
    call(device, "write", path="t", text=text)
    found = call(device, "lines", path="t", first=first, count=count)
    assert (found["text"], found["next"], found["total"]) == expected
    assert found["note"] == ""


def test_lines_are_bounded_and_go_on_where_they_stopped(device: Files) -> None:
    lines = ["short", "x" * 7000, "y" * 7000, "z" * 20_000, "w" * 8000, "end"]
    call(device, "write", path="t", text="\n".join(lines))
    parts, first = [], 1
    while first:
        parts.append(call(device, "lines", path="t", first=first))
        first = parts[-1]["next"]
    assert [part["text"] for part in parts] == [
        "short\n" + "x" * 7000,
        "y" * 7000,
        "z" * 8000,
        "w" * 8000,
        "end",
    ]
    assert [part["note"] for part in parts if part["note"]] == [
        "line 4 is cut: it has 20000 characters, which `read` gives from an offset on"
    ]


def test_the_line_of_a_match_is_the_line_that_is_read(device: Files) -> None:
    call(device, "write", path="t", text="".join(f"line {n}\n" for n in range(1, 500)))
    [match] = call(device, "search", text="line 321")
    assert call(device, "lines", path="t", first=match["line"], count=1)["text"] == "line 321"


def test_edit(device: Files, tmp_path: Path) -> None:
    call(device, "write", path="t", text="one two\n two\n")
    call(device, "edit", path="t", old="one two\n", new="Grüße\n")
    assert (tmp_path / "t").read_text() == "Grüße\n two\n"
    call(device, "edit", path="t", old=" two\n", new="")
    assert (tmp_path / "t").read_text() == "Grüße\n"
    call(device, "write", path="t", text="a a a")
    with pytest.raises(EINVAL, match="t: old stands in the file 3 times; give more of the text around it"):
        call(device, "edit", path="t", old="a", new="b")
    with pytest.raises(EINVAL, match="t: old stands in the file 0 times; it has to be as in the file, space by space"):
        call(device, "edit", path="t", old="a  a", new="b")
    assert (tmp_path / "t").read_text() == "a a a"


def test_edits_at_the_same_time_lose_nothing(device: Files) -> None:
    call(device, "write", path="t", text="<>")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(device.invoke, "edit", {"path": "t", "old": "<", "new": f"<{n} "}, "k")
                group.start_soon(device.invoke, "append", {"path": "t", "text": f"{n};"}, "k")

    anyio.run(main)
    front, back = call(device, "read", path="t").strip("<").split(">")
    assert sorted(map(int, front.split())) == list(range(20))
    assert sorted(map(int, back.strip(";").split(";"))) == list(range(20))


def test_binary_files_are_not_text(device: Files, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"text\xff\xfe")
    with pytest.raises(EINVAL, match="b: not a text file; byte 4 is not UTF-8"):
        call(device, "read", path="b", limit=2)
    call(device, "append", path="b", text="still not")


def test_sizes_are_bounded(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE", 10)
    call(device, "write", path="t", text="0123456789")
    with pytest.raises(EINVAL, match="t: too large"):
        call(device, "append", path="t", text="x")
    with pytest.raises(EINVAL, match="t: a text of 12 bytes; 10 can be written"):
        call(device, "write", path="t", text="é" * 6)
    assert call(device, "read", path="t") == "0123456789"
    (tmp_path / "t").write_text("01234567890")
    with pytest.raises(EINVAL, match="t: too large"):
        call(device, "read", path="t", limit=1)
    assert call(device, "search", text="0") == []


def test_a_file_without_a_size_is_read_to_its_end() -> None:
    if not Path("/proc/version").exists():
        pytest.skip("needs /proc")
    assert call(Files(Path("/proc")), "read", path="version") == Path("/proc/version").read_text()


def test_modes_are_kept_and_respected(device: Files, tmp_path: Path) -> None:
    call(device, "write", path="t", text="1")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o666 & ~umask
    (tmp_path / "t").chmod(0o640)
    call(device, "write", path="t", text="2")
    assert (tmp_path / "t").stat().st_mode & 0o7777 == 0o640
    (tmp_path / "t").chmod(0o440)
    with pytest.raises(EPERM, match="t: the host does not permit it"):
        call(device, "write", path="t", text="3")
    assert call(device, "read", path="t") == "2"


def test_writing_beside_a_hard_link_leaves_the_other_name_alone(device: Files, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    os.link(tmp_path / "one", tmp_path / "two")
    call(device, "write", path="one", text="new")
    assert call(device, "read", path="two") == "old"


def test_a_read_only_device(world: World) -> None:
    device = Files(world.root)
    assert [info.name for info in device.describe("f").ops] == ["read", "lines", "list", "stat", "search", "find"]
    names = world.names()
    for name in ("write", "append", "delete", "edit"):
        for path in ("file.txt", "new/new.txt"):
            with pytest.raises(EPERM, match=f"{path}: the device is read-only"):
                call(device, name, path=path, **CALLS[name])
    assert world.names() == names
    assert call(device, "read", path="file.txt") == "inside"


def test_effect_classes() -> None:
    effects = {name: found.info.effect for name, found in Files._ops.items()}
    assert effects.pop("append") == effects.pop("edit") == "unsafe"
    assert effects.pop("write") == effects.pop("delete") == "idempotent"
    assert set(effects.values()) == {"pure"}


def test_list_and_stat(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("12345")
    (tmp_path / "c").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("")
    listing = call(device, "list")
    assert [(info["name"], info["kind"]) for info in listing] == [
        ("a", "file"),
        ("b", "folder"),
        ("c", "link"),
        ("caf\\xe9", "file"),
    ]
    assert listing[0] == call(device, "stat", path="a")
    assert listing[0]["size"] == 5
    assert listing[0]["modified"] == (tmp_path / "a").stat().st_mtime
    assert (call(device, "stat", path=".")["name"], call(device, "stat", path="b")["kind"]) == (".", "folder")
    assert call(device, "list", offset=1, limit=2) == listing[1:3]
    assert call(device, "list", offset=4) == []
    monkeypatch.setattr(files, "MAX_ENTRIES", 3)
    with pytest.raises(EINVAL, match="more than 3 entries"):
        call(device, "list")


def test_lists_of_the_root_at_the_same_time_do_not_share_a_position(device: Files, tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"{n:03}").touch()

    async def one() -> None:
        for _ in range(10):
            assert len(await device.invoke("list", {"limit": 1000}, "k")) == 300

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)

    anyio.run(main)


def test_search(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, text in {
        "b.txt": "x\nfind me\nno\nfind me too",
        "a/z.txt": "find",
        "a/b/c.txt": "x" * 500 + "find",
    }.items():
        call(device, "write", path=path, text=text)
    (tmp_path / "binary").write_bytes(b"find\xff")
    os.mkfifo(tmp_path / "fifo")
    found = [(m["path"], m["line"], m["text"]) for m in call(device, "search", text="find")]
    long = "x" * (files.MAX_LINE - 4) + "find"
    assert found == [
        ("a/b/c.txt", 1, long),
        ("a/z.txt", 1, "find"),
        ("b.txt", 2, "find me"),
        ("b.txt", 4, "find me too"),
    ]
    assert [m["path"] for m in call(device, "search", text="find", path="a/b")] == ["a/b/c.txt"]
    assert len(call(device, "search", text="find", limit=2)) == 2
    assert call(device, "search", text="nowhere") == []
    for bound, value in (("MAX_SEARCH_FILES", 3), ("MAX_SEARCH_BYTES", 100), ("MAX_SEARCH_DEPTH", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(files, bound, value)
            with pytest.raises(EINVAL, match=r"too much|nested"):
                call(device, "search", text="nowhere")


def test_find(device: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("b.txt", "a/z.txt", "a/b/c.md", "a/b.txt/d.txt", "C.TXT"):
        call(device, "write", path=path, text="")
    (tmp_path / "link.txt").symlink_to("b.txt")
    assert call(device, "find", pattern="*.txt") == ["a/b.txt/d.txt", "a/z.txt", "b.txt"]
    assert call(device, "find", pattern="?.txt", path="a/b.txt") == ["a/b.txt/d.txt"]
    assert call(device, "find", pattern="c.md") == ["a/b/c.md"]
    assert call(device, "find", pattern="*", limit=2) == ["C.TXT", "a/b/c.md"]
    assert call(device, "find", pattern="a/*") == []
    monkeypatch.setattr(files, "MAX_SEARCH_FILES", 3)
    with pytest.raises(EINVAL, match="too much to search through; search in a smaller folder"):
        call(device, "find", pattern="nothing")
