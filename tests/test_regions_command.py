"""`tokix regions`: what processes share, looked at from outside."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from tokix.boot import boot
from tokix.shell.status import one_line
from tokix.shell.table import Result
from tokix.shell.usage import VERBS, Failure, moment, verb_parser
from tokix.shell.verbs import ACTS
from tokix.syscalls import Append, Map, SyscallError


def outcomes(*commands: str, state: Path | None = None) -> list[Any]:
    """Give what commands say after a process has written into a region, or how they fail."""

    async def typed(client: Any, command: str) -> Any:
        name, *words = command.split()
        options = verb_parser(name, VERBS[name]).parse_args(words)
        try:
            result: Result = await ACTS[name](client, options)
        except (Failure, SyscallError) as error:
            return str(error)
        return result.table.rows if result.table else result.data

    async def main() -> list[Any]:
        async with boot(state) as system:
            async with system.attach("writer") as writer:
                await writer.call(Map(region="facts", append=True))
                for text in ("Ada has a cat.", "The train\nleaves at noon."):
                    await writer.call(Append(role="tool", text=text, region="facts"))
            async with system.attach("reader") as reader:
                return [await typed(reader, command) for command in commands]

    return anyio.run(main)


def test_regions_their_pages_and_what_is_found() -> None:
    start = datetime.now().strftime("%Y-%m-%d")
    all_of_them, pages, found, gone, after = outcomes(
        "regions", "regions facts", "regions facts which cat", "regions --delete facts", "regions"
    )
    assert [row[:2] for row in all_of_them] == [["facts", "2"]]
    assert [[row[0], row[1], row[4]] for row in pages] == [
        ["0", "tool", "Ada has a cat."],
        ["1", "tool", one_line("The train\nleaves at noon.")],
    ]
    assert all(row[3] >= start for row in pages), "they were said today"
    assert found[0][-1] == "Ada has a cat."
    assert gone == {"deleted": "facts"}
    assert after == []


def test_wrong_names() -> None:
    assert outcomes("regions other", "regions --delete other", "regions --delete", "regions a/b") == [
        *["ENOENT: no region other: the first that maps it to append makes it"] * 2,
        "--delete needs the name of a region",
        "'a/b' is no name of a region: letters, digits and _ . - are allowed",
    ]


def test_a_region_is_there_after_a_restart(tmp_path: Path) -> None:
    outcomes(state=tmp_path / "state")

    async def again() -> Any:
        async with boot(tmp_path / "state") as system, system.attach("reader") as reader:
            await reader.call(Map(region="facts", append=True))
            return await reader.call(Append(text="more", region="facts"))

    assert anyio.run(again) == 2


def test_times() -> None:
    now = time.time()
    assert [round((now - moment(word)) / 10) for word in ("90s", "5m", "2h ago", "1.5d")] == [9, 30, 720, 12960]
    assert moment("2026-11-22T09:30") - moment("2026-11-22") == 9.5 * 3600
    for word in ("", "2", "h", "2026-99-01", "yesterday", "99999999999-01-01"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no time"):
            moment(word)
