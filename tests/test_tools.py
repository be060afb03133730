"""The texts and tools of agents: texts fit, and what the machine may say has a bound."""

from __future__ import annotations

import json

from simulated import Tools, with_grammars
from tokix.agents.tools import bounded, choice, offered
from tokix.agents.words import packed, pieces
from tokix.drivers import Calc
from tokix.kernel.arch.toy import ToyMachine


def test_pieces_have_all_words_in_their_order_and_fit() -> None:
    text = "First paragraph, which is short.\n\nSecond one. It has two sentences.\n" + "word " * 100 + "x" * 150
    parts = pieces(text, 60)
    assert all(len(part) <= 60 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert parts[0] == "First paragraph, which is short."
    assert pieces("  \n ", 60) == []


def test_packing_makes_fewer() -> None:
    assert packed(["a" * 50, "b" * 50, "c", "d" * 90], 100) == ["a" * 50 + "\n" + "b" * 50, "c\n" + "d" * 90]
    texts = ["x" * 1000] * 9
    while len(texts) > 1:
        assert len(packed(texts, 10)) < len(texts)
        texts = packed(texts, 10)


def test_tools_are_the_pure_ones_unless_others_are_named() -> None:
    def names(named: str = "") -> list[str]:
        return [tool.name for tool in offered(Tools.devices, named)]

    assert names() == names("sums, broken") == ["sums.add", "broken.use"]
    assert names("sums.burn") == ["sums.burn"]
    assert names("sums.*,sums") == ["sums.add", "sums.burn"]


def test_a_schema_has_a_bound_for_all_that_could_go_on() -> None:
    schema = {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "x"},
            "long": {"type": "string", "minLength": 300},
            "kind": {"enum": ["a", "b"], "title": "Kind"},
            "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 99},
            "big": {"type": "number", "minimum": 10**9},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "either": {"type": ["integer", "null"]},
            "left_out": {"type": "integer"},
            "hint": {"type": "string"},
        },
        "required": ["text", "long", "kind", "items", "big", "maybe", "either"],
        "$defs": {"Item": {"type": "object", "properties": {"in": {"$ref": "#/$defs/Item"}}, "required": ["in"]}},
    }
    found = bounded(schema)
    assert found["properties"] | {"items": None} == {
        "text": {"type": "string", "maxLength": 200},
        "long": {"type": "string", "minLength": 300, "maxLength": 300},
        "kind": {"enum": ["a", "b"]},
        "items": None,
        "big": {"type": "number", "minimum": 10**9, "maximum": 2 * 10**9},
        "maybe": {"anyOf": [{"type": "string", "maxLength": 200}, {"type": "null"}]},
        "either": {"anyOf": [{"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000}, {"type": "null"}]},
        "hint": {"type": "string", "maxLength": 200},
    }
    assert "$" not in json.dumps(found)
    with_grammars()
    assert ToyMachine().refuse(json.dumps(found)) == ""


def test_the_machine_takes_the_form_of_every_device_that_comes_with_tokix() -> None:
    with_grammars()
    devices = [Calc().describe("calc"), *Tools.devices]
    assert ToyMachine().refuse(json.dumps(choice(offered(devices), 50))) == ""
