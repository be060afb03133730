"""The one yield between programs and the kernel."""

import ast
from pathlib import Path

import pytest

from tokix.syscalls import EINTR, GetPid, Now, Sleep, Syscall

ROOT = Path(__file__).parents[1]


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
