"""Answers in JSON. A form is a schema that the machine holds the model to, so that even a small one fills it in right.

Every text and every list of a form has a bound: a small model that may go on does go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokix.syscalls import ChatMessage, Think

#: A JSON schema.
Schema = dict[str, Any]


async def fill(
    form: Schema, *, messages: list[ChatMessage] | None = None, max_tokens: int = 160, temperature: float = 0
) -> Any:
    """Let the model fill in a form, like `Think`; gives its JSON value, None if it did not come to an end."""
    said = await Think(messages=messages, json_schema=form, max_tokens=max_tokens, temperature=temperature, top_p=0.9)
    try:
        return _valid(json.loads(said.text))
    except (ValueError, RecursionError):
        return None


def one_of(choices: Iterable[str]) -> Schema:
    return {"type": "string", "enum": [*choices]}


def text(most: int, least: int = 0) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most}


def some(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def record(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}


def _valid(value: Any) -> Any:
    """Put a mark for what is no character: an escape in JSON may name half of one."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list():
            return [_valid(item) for item in value]
        case dict():
            return {_valid(key): _valid(item) for key, item in value.items()}
    return value
