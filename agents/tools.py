"""Devices as tools of a model: which it may pick from, the form for its choice, and what came of it.

The form has a branch for each tool, with the tool's own parameters, and one for the end: whatever the model says is a
call that the device understands, or that it has seen enough. A device may say more in its schema than a grammar can
hold to; what is left out here, the driver checks again, and what it says then is the tool's result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tokix.agents import forms
from tokix.agents.forms import Schema
from tokix.agents.words import clip
from tokix.syscalls import EINTR, EINVAL, Call, DeviceInfo, OpInfo, SyscallError
from tokix.syscalls.base import to_json

#: Characters of a result that a model sees.
RESULT = 600
#: What the model picks if it has seen enough.
ENOUGH = "answer"
#: The most that a model may put into an argument: characters, items, and how big a number.
TEXT, ITEMS, NUMBER = 200, 8, 1_000_000
#: What is kept of a schema as it is.
_KEPT = ("type", "enum", "const", "minLength", "minItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class Tool(NamedTuple):
    """An op of a device, by the name that a model knows."""

    device: str
    op: OpInfo

    @property
    def name(self) -> str:
        return f"{self.device}.{self.op.name}"

    @property
    def manual(self) -> str:
        """Say in one line how it is used; arguments that can be left out have a question mark."""
        schema = self.op.parameters
        required = schema.get("required", [])
        names = [name if name in required else f"{name}?" for name in schema.get("properties", {})]
        return f"{self.name}({', '.join(names)}): {self.op.doc}"


def offered(devices: Iterable[DeviceInfo], named: str = "") -> list[Tool]:
    """Give the tools that are named, such as `calc,files.write`; a device alone is those of its ops that are pure.

    Without names, the pure ops of all devices. Raises EINVAL for a name that is none.
    """
    tools = [Tool(device.name, op) for device in devices for op in device.ops]
    wanted = [name for name in (part.strip() for part in named.split(",")) if name]
    pure = [tool for tool in tools if tool.op.effect == "pure"]
    if not wanted:
        return pure
    found: dict[str, Tool] = {}
    for name in wanted:
        ours = [tool for tool in tools if tool.name == name or name == f"{tool.device}.*"]
        ours += [tool for tool in pure if tool.device == name]
        if not ours:
            there = ", ".join(tool.name for tool in tools) or "none: no device is mounted"
            raise EINVAL(f"no tool {name}; there is {there}")
        found |= {tool.name: tool for tool in ours}
    return [*found.values()]


def choice(tools: Iterable[Tool], thought: int = 0, *, enough: bool = True) -> Schema:
    """Make the form of a decision: a tool with its arguments, or that it is `enough`; a thought before, if wanted."""
    before = {"thought": forms.text(thought)} if thought else {}
    calls = (
        forms.record(**before, tool={"const": tool.name}, args=bounded({"type": "object", **tool.op.parameters}))
        for tool in tools
    )
    return {"anyOf": [*calls, *([forms.record(**before, tool={"const": ENOUGH})] if enough else ())]}


async def use(name: str, args: dict[str, Any]) -> str:
    """Use a tool; gives what a model is told of the outcome, an error too."""
    device, _, op = name.partition(".")
    try:
        value = await Call(device=device, op=op, args=args)
    except EINTR:
        raise
    except SyscallError as error:
        return clip(f"error: {error}", RESULT)
    return clip(value if isinstance(value, str) else to_json(value), RESULT)


# ---- schemas


def bounded(schema: Schema) -> Schema:
    """Give a schema of which every text, list and number has a bound, and nothing refers to another place."""
    return _bounded(schema, schema.get("$defs", {}), 0)


def _bounded(schema: Schema | bool, places: Mapping[str, Schema], depth: int) -> Schema:
    if not isinstance(schema, dict) or depth > 8:  # anything, or a record that holds itself
        return forms.text(TEXT)
    if "$ref" in schema:
        return _bounded(places.get(schema["$ref"].rpartition("/")[2], True), places, depth + 1)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return {"anyOf": [_bounded(branch, places, depth + 1) for branch in branches]}
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if "enum" in kept or "const" in kept:
        return kept
    match schema.get("type"):
        case [*kinds]:
            return {"anyOf": [_bounded({**schema, "type": kind}, places, depth + 1) for kind in kinds]}
        case "object":
            return kept | dict(_record(schema, places, depth))
        case "array":
            items = _bounded(schema.get("items", True), places, depth + 1)
            return kept | {"items": items, "maxItems": _most(schema, "Items", ITEMS)}
        case "string":
            return kept | {"maxLength": _most(schema, "Length", TEXT)}
        case "integer" | "number":
            return kept | _range(kept)
        case "boolean" | "null":
            return kept
    return forms.text(TEXT)


def _most(schema: Schema, what: str, bound: int) -> int:
    most: int = max(schema.get(f"min{what}", 0), min(schema.get(f"max{what}", bound), bound))
    return most


def _range(kept: Schema) -> Schema:
    """Give the bounds that a number lacks, far enough from those that it has."""
    low = kept.get("minimum", kept.get("exclusiveMinimum"))
    high = kept.get("maximum", kept.get("exclusiveMaximum"))
    below = {"minimum": min(-NUMBER, 2 * (high or 0))} if low is None else {}
    above = {"maximum": max(NUMBER, 2 * (low or 0))} if high is None else {}
    return below | above


def _record(schema: Schema, places: Mapping[str, Schema], depth: int) -> Iterator[tuple[str, Any]]:
    """Leave out what may be left out, but for texts: a small model that may say a number or a flag says any."""
    required = schema.get("required", [])
    fields = {name: _bounded(field, places, depth + 1) for name, field in schema.get("properties", {}).items()}
    yield "properties", {k: field for k, field in fields.items() if k in required or field.get("type") == "string"}
    yield "required", [name for name in required if name in fields]
    yield "additionalProperties", False
