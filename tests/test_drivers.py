"""Drivers: what the decorator promises."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from enum import StrEnum
from textwrap import dedent
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel, Field
from pydantic_core import PydanticSerializationError

from driven import call
from tokix.drivers import Driver, base, op
from tokix.syscalls import EINVAL, ENOENT, EPERM


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
