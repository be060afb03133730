"""Foreign processes on the socket: what they can do, and what they cannot do to others."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream

from stage import Screen, play, until
from tokix.boot import System, boot
from tokix.control import MAX_CALLS
from tokix.shell.client import MAX_LINE, SOCKET, Gone, NoKernel, connect, reachable
from tokix.storage import MemoryStore
from tokix.syscalls import EINTR, ESRCH, GetPid, Kill, Read, Recv, Send, Signal, Spawn, Stat, Wait


@asynccontextmanager
async def raw(state: Path, hello: bytes = b'{"program":"raw"}\n') -> AsyncIterator[tuple[ByteStream, Any]]:
    """Connect without manners; gives the stream, and a function that reads a line."""
    async with await anyio.connect_unix(state / SOCKET) as stream:
        lines = BufferedByteReceiveStream(stream)

        async def line() -> Any:
            return json.loads(await lines.receive_until(b"\n", 1 << 30))

        if hello:
            await stream.send(hello)
            assert list(await line()) == ["pid"]
        yield stream, line


def served(screen: Screen, state: Path, talk: Callable[[System], Awaitable[Any]], **options: Any) -> Any:
    """Run a kernel with a socket, and let somebody talk with it."""

    async def main() -> Any:
        async with boot(state, durable="none", terminal=screen, **options) as system:
            result = await talk(system)
            async with connect(state, "last") as client:
                assert client.pid in {p.pid for p in await client.call(Stat())}, "the kernel lives"
            return result

    return play(main)


def test_a_process_on_the_socket_can_do_what_others_can(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "visitor") as client:
            pid = await client.call(Spawn(program="pingpong", args=[2], fds={1: "pipe:out"}))
            text = [await client.call(Read(fd="pipe:out")) for _ in range(2)]
            assert (await client.call(Wait(pid=pid))).value == {"rounds": 2}
            assert "".join(text).startswith("ping 1, pong 1\n")
            [me] = await client.call(Stat(pid=client.pid))
            assert (me.program, me.ppid) == ("visitor", 0)
            with pytest.raises(ESRCH, match="no process 99"):
                await client.call(Kill(pid=99))

    served(screen, tmp_path, talk)


def test_the_socket_is_for_its_owner_alone(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600

    served(screen, tmp_path, talk)
    assert not (tmp_path / SOCKET).exists()


def test_calls_of_one_client_wait_side_by_side(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        got: list[Any] = []

        async def receive(client: Any, tag: str) -> None:
            got.append((await client.call(Recv(tag=tag))).body)

        async with connect(tmp_path, "visitor") as client, anyio.create_task_group() as group:
            for tag in "abc":
                group.start_soon(receive, client, tag)
            while (await client.call(Stat(pid=client.pid)))[0].on != "recv stat":
                pass
            for tag in "bca":
                await client.call(Send(to=client.pid, tag=tag, body=tag))
        assert got == ["b", "c", "a"]

    served(screen, tmp_path, talk)


def test_a_waiting_call_that_is_given_up_does_not_block_the_others(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "visitor") as client:
            with anyio.move_on_after(0.01):
                await client.call(Recv(tag="never"))
            assert await client.call(GetPid()) == client.pid

    served(screen, tmp_path, talk)


async def interrupted(client: Any) -> None:
    """Wait for mail, and send oneself a signal."""
    problems: list[Exception] = []

    async def wait() -> None:
        try:
            await client.call(Recv())
        except EINTR as error:
            problems.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await client.call(Kill(pid=client.pid, signal=Signal.INT))
    raise problems[0]


def test_the_same_through_both_kinds_of_client(screen: Screen, tmp_path: Path) -> None:
    async def use(client: Any) -> list[Any]:
        results: list[Any] = [await client.call(GetPid()) == client.pid]
        with pytest.raises(ESRCH) as error:
            await client.call(Kill(pid=99, signal=Signal.INT))
        results.append(str(error.value))
        with pytest.raises(EINTR):
            await interrupted(client)
        await client.call(Send(to=client.pid, body={"a": [1, None, "é"]}))
        results.append((await client.call(Recv())).body)
        return results

    async def talk(system: System) -> None:
        async with system.attach("inside") as inside, connect(tmp_path, "outside") as outside:
            for client in (inside, outside):
                assert await use(client) == [True, "ESRCH: no process 99", {"a": [1, None, "é"]}]

    served(screen, tmp_path, talk)


@pytest.mark.parametrize("inside", [True, False])
def test_a_foreign_process_that_is_killed_learns_it(inside: bool, screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        victim: Any = system.attach("victim") if inside else connect(tmp_path, "victim")
        async with system.attach("killer") as killer, victim as client:
            await killer.call(Kill(pid=client.pid, signal=Signal.KILL))
            with pytest.raises(Gone, match="KILL"):
                await client.call(Recv())
            with pytest.raises(Gone):
                await client.call(GetPid())

    served(screen, tmp_path, talk)


def test_a_connection_that_ends_is_a_process_that_ends(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with connect(tmp_path, "parent") as client:
            child = await client.call(Spawn(program="catch", args=["wait", {}]))
        await until(lambda: client.pid not in system.kernel.procs)
        assert system.kernel.procs[child].ppid == 1, "init has the orphan"

    async def stay(op: str, args: Any) -> None:
        await Recv()

    served(screen, tmp_path, talk, programs={"catch": stay})


def test_when_the_kernel_stops_the_processes_on_the_socket_end(screen: Screen, tmp_path: Path) -> None:
    store = MemoryStore()

    async def main() -> None:
        visit = connect(tmp_path, "visitor")
        async with boot(tmp_path, store=store, terminal=screen):
            client = await visit.__aenter__()
        assert {row[3] for row in store.tables["process"].values()} == {"init"}
        with pytest.raises(Gone):
            await client.call(GetPid())
        await visit.__aexit__(None, None, None)

    play(main)


GARBAGE = [
    (b"\n", "EINVAL"),
    (b"hello\n", "EINVAL"),
    (b"{}\n", "EINVAL"),
    (b"[1, 2]\n", "EINVAL"),
    (b"\xff\xfe\x00\n", "EINVAL"),
    (b"[" * 100_000 + b"\n", "EINVAL"),
    (b'{"id": 1, "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "", "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "a.b", "call": {"call": "getpid"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "reboot"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "getpid", "x": 1}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "kill", "pid": "x"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "write", "text": "\\ud800"}}\n', "EINVAL"),
    (b'{"id": "a", "call": {"call": "gather", "branches": 3}}\n', "EINVAL"),
    (b'{"id": "b", "call": {"call": "fork"}}\n', "EINVAL"),
    (b'{"id": "c", "call": {"call": "exec", "program": "echo"}}\n', "EINVAL"),
    (b'{"id": "d", "call": {"call": "spawn", "program": "echo", "fds": {"0": "file"}}}\n', "EINVAL"),
    (b'{"id": "e", "call": {"call": "kill", "pid": 1000000000000000000000000}}\n', "ESRCH"),
    (b'{"id": "f", "call": {"call": "setlimit", "limit": "tokens", "value": 1.5}}\n', "EINVAL"),
]


def test_garbage_is_answered_and_harms_nobody(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            for garbage, errno in GARBAGE:
                await stream.send(garbage)
                reply = await line()
                assert (reply["ok"], reply["error"]["errno"]) == (False, errno), garbage[:100]
            await stream.send(b'{"id": "ok", "call": {"call": "getpid"}}\n')
            assert (await line())["ok"]

    served(screen, tmp_path, talk)


def test_an_error_names_the_call_that_it_is_about(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            await stream.send(b'{"id": "seven", "call": {"call": "kill"}}\nnonsense\n')
            assert [(await line())["id"], (await line())["id"]] == ["seven", None]

    served(screen, tmp_path, talk)


@pytest.mark.parametrize("hello", [b"\n", b"GET / HTTP/1.1\r\n\r\n", b'{"program": ""}\n', b'{"id": "1"}\n'])
def test_who_does_not_say_what_he_is_is_sent_away(hello: bytes, screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path, hello=b"") as (stream, line):
            await stream.send(hello)
            assert (await line())["error"]["errno"] == "EINVAL"
            with pytest.raises((anyio.IncompleteRead, anyio.BrokenResourceError)):
                await line()

    served(screen, tmp_path, talk)


def test_a_line_without_an_end_is_cut_off(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            with suppress(anyio.BrokenResourceError):  # it may hang up while we talk
                await stream.send(b"x" * (MAX_LINE + 1))
            assert f"at most {MAX_LINE} bytes" in (await line())["error"]["detail"]

    served(screen, tmp_path, talk)


def test_replies_come_in_the_order_of_the_decisions_and_a_repeated_call_has_one_outcome(
    screen: Screen, tmp_path: Path
) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, line):
            wait = b'{"id": "wait", "call": {"call": "recv"}}\n'
            await stream.send(wait + wait + b'{"id": "a", "call": {"call": "getpid"}}\n')
            pid = (await line())["value"]
            send = b'{"id": "send", "call": {"call": "send", "to": %d, "body": 1}}\n' % pid
            await stream.send(send + send)
            replies = [await line() for _ in range(3)]
            assert [reply["id"] for reply in replies] == ["wait", "send", "send"]
            await stream.send(b'{"id": "left", "call": {"call": "recv", "timeout": 0}}\n')
            assert (await line())["error"]["errno"] == "ETIMEDOUT", "it was sent once"

    served(screen, tmp_path, talk)


def test_who_only_stops_talking_gets_the_replies(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with await anyio.connect_unix(tmp_path / SOCKET) as stream:
            await stream.send(b'{"program":"sh"}\n{"id":"1","call":{"call":"getpid"}}\n')
            await stream.send_eof()
            text = b""
            with suppress(anyio.EndOfStream):
                while True:
                    text += await stream.receive()
            pid, reply, hangup = map(json.loads, text.splitlines())
            assert reply == {"id": "1", "ok": True, "value": pid["pid"]}
            assert hangup == {"hangup": "exit"}

    served(screen, tmp_path, talk)


def test_who_does_not_listen_is_not_heard_any_more(screen: Screen, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        async with raw(tmp_path) as (stream, _), anyio.create_task_group() as group:

            async def ask() -> None:
                for asked in range(1_000_000):
                    await stream.send(b'{"id":"%d","call":{"call":"recv"}}\n' % asked)

            group.start_soon(ask)
            [me] = [p for p in system.kernel.procs.values() if p.program == "raw"]
            await until(lambda: len(me.branches) > MAX_CALLS)  # the root is one of them
            await anyio.wait_all_tasks_blocked()
            assert len(me.branches) == MAX_CALLS + 1
            group.cancel_scope.cancel()

    served(screen, tmp_path, talk)


def test_a_long_path_is_no_obstacle(screen: Screen, tmp_path: Path) -> None:
    state = tmp_path / ("x" * 120) / "state"

    async def talk(system: System) -> None:
        with reachable(state / SOCKET) as path:
            assert len(path) < 60

    served(screen, state, talk)


def test_a_stale_socket_is_no_kernel_and_no_obstacle(screen: Screen, tmp_path: Path) -> None:
    async def dead_end() -> None:
        listener = await anyio.create_unix_listener(tmp_path / SOCKET)
        await listener.aclose()  # the file stays, as after a kill
        with pytest.raises(NoKernel, match=f"no kernel runs on {tmp_path}"):
            async with connect(tmp_path, "ps"):
                pass

    async def talk(system: System) -> None:
        pass

    play(dead_end)
    served(screen, tmp_path, talk)


def test_foreign_processes_of_the_last_kernel_are_gone(screen: Screen) -> None:
    store = MemoryStore()

    class Abrupt(Exception):
        pass

    async def die() -> None:
        async with boot(store=store, terminal=screen, programs={"stay": stay}) as system:
            client = system.attach("user")
            user = await client.__aenter__()
            await user.call(Spawn(program="stay"))
            async with anyio.create_task_group() as group:
                group.start_soon(user.call, Recv(timeout=1000))
                await until(lambda: system.kernel.started)
                group.cancel_scope.cancel()
            system.finish = lambda: None  # type: ignore[method-assign]
            raise Abrupt

    async def stay() -> None:
        await Recv()

    async def main() -> None:
        async with boot(store=store, terminal=screen, programs={"stay": stay}) as system, system.attach("user"):
            programs = Counter((p.program, p.ppid) for p in system.kernel.procs.values())
            assert programs == {("init", 0): 1, ("stay", 1): 1, ("user", 0): 1}
            system.kernel.check()

    with pytest.raises(Abrupt):
        play(die)
    assert {"user", "stay"} <= {row[3] for row in store.tables["process"].values()}
    play(main)
