"""What the verbs do: each takes a client of a kernel and what was typed, and gives a `Result`."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from shutil import get_terminal_size

from tokix.shell import columns, table
from tokix.shell.client import Client
from tokix.shell.table import Result
from tokix.shell.usage import FAILED, REGION, WRONG, Failure, argument
from tokix.syscalls import (
    DeviceInfo,
    Devices,
    Journal,
    Kill,
    Map,
    Pages,
    Recall,
    Regions,
    Renice,
    Save,
    Sched,
    Send,
    Stat,
    Syscall,
    SyscallError,
    Sysinfo,
    Unlink,
)

#: Lines of a terminal that the picture of a window takes; the least of pages beneath it, if there are more.
ABOVE, LEAST = 15, 8
#: The files of a state directory that grow with what is in it.
STORE = ("tokix.db", "tokix.db-wal", "index")


async def ps(client: Client, options: Namespace) -> Result:
    found = await client.call(Stat(dead=options.all))
    return Result(table.of_processes(p for p in found if options.all or p.pid != client.pid))


async def kill(client: Client, options: Namespace) -> Result:
    return await each(client, options.pids, lambda pid: Kill(pid=pid, signal=options.signal))


async def nice(client: Client, options: Namespace) -> Result:
    return await each(client, options.pids, lambda pid: Renice(pid=pid, nice=options.nice))


async def each(client: Client, pids: Iterable[int], call: Callable[[int], Syscall[None]]) -> Result:
    """Make a call for each process; one that fails does not keep the others from theirs."""
    result = Result(data=[])
    for pid in pids:
        try:
            await client.call(call(pid))
        except SyscallError as error:
            result.complaints.append(str(error))
            result.code = FAILED
            result.data.append({"pid": pid, "ok": False, "error": str(error)})
        else:
            result.data.append({"pid": pid, "ok": True})
    return result


async def send(client: Client, options: Namespace) -> Result:
    words = options.words
    body = argument(words[0]) if len(words) == 1 else " ".join(words)
    await client.call(Send(to=options.pid, body=body, tag=options.tag, block=False))
    return Result(data={"pid": options.pid, "body": body, "tag": options.tag})


async def logs(client: Client, options: Namespace) -> Result:
    entries = await client.call(Journal(pid=options.pid, last=options.last))
    return Result(table.of_journal(entries, not options.full, options.times))


async def devices(client: Client, options: Namespace) -> Result:
    return chosen(await client.call(Devices()), options.names)


def chosen(found: list[DeviceInfo], names: list[str]) -> Result:
    """Give the devices that somebody asks for, or all; raises Failure."""
    known = {device.name: device for device in found}
    for name in names:
        if name not in known:
            raise Failure(f"no device {name}; there is {', '.join(known) or 'none'}")
    return Result(table.of_devices([known[name] for name in names] or found))


async def sched(client: Client, options: Namespace) -> Result:
    if options.quantum and options.policy in (None, "FCFS", "SJF"):
        raise Failure("--quantum needs a policy with turns, RR or PRIORITY for example", WRONG)
    return Result(table.of_schedule(await client.call(Sched(policy=options.policy, quantum=options.quantum))))


async def pages(client: Client, options: Namespace) -> Result:
    pages = await client.call(Pages(pid=options.pid))
    system = await client.call(Sysinfo(pid=options.pid))
    most = None if options.all else max(LEAST, get_terminal_size().lines - ABOVE)
    return Result(table.of_pages(pages, system.processes[0], system, most))


async def free(client: Client, options: Namespace) -> Result:
    disk = {name: taken(path) for name in STORE if (path := options.state / name).exists()}
    return Result(table.of_memory(await client.call(Sysinfo()), disk))


def taken(path: Path) -> int:
    """Give the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


async def top(client: Client, options: Namespace) -> Result:
    if options.batch or options.json or not (os.isatty(0) and os.isatty(1)) or os.environ.get("TERM") in ("", "dumb"):
        return Result(columns.of_use(await client.call(Sysinfo()), client.pid))
    from tokix.shell.top import watch  # which loads prompt_toolkit

    await watch(client, options.delay)
    return Result()


async def recall(client: Client, options: Namespace) -> Result:
    search = Recall(
        pid=options.pid,
        query=" ".join(options.words),
        k=options.k,
        budget=options.budget,
        how=options.how,
        roles=options.role,
        since=options.since,
        until=options.until,
    )
    return Result(table.of_recalled(await client.call(search)))


async def regions(client: Client, options: Namespace) -> Result:
    name = options.region
    if name is None:
        if options.delete:
            raise Failure("--delete needs the name of a region", WRONG)
        return Result(table.of_regions(await client.call(Regions())))
    if not re.fullmatch(REGION, name):
        raise Failure(f"{name!r} is no name of a region: letters, digits and _ . - are allowed", WRONG)
    if options.delete and options.words:
        raise Failure("--delete deletes a whole region: leave the query out", WRONG)
    if options.delete:
        await client.call(Unlink(region=name))
        return Result(data={"deleted": name})
    await client.call(Map(region=name))
    if options.words:
        return Result(table.of_recalled(await client.call(Recall(query=" ".join(options.words), k=10, region=name))))
    found = await client.call(Pages(region=name))
    while found and (more := await client.call(Pages(region=name, start=found[-1].id + 1))):
        found += more
    return Result(table.of_shared(found))


async def save(client: Client, options: Namespace) -> Result:
    saved = await client.call(Save(path=options.file, pid=options.pid))
    return Result(table.of_saved(options.pid, options.file, saved))


ACTS: dict[str, Callable[[Client, Namespace], Awaitable[Result]]] = {
    "ps": ps,
    "kill": kill,
    "nice": nice,
    "send": send,
    "logs": logs,
    "devices": devices,
    "sched": sched,
    "pages": pages,
    "free": free,
    "top": top,
    "regions": regions,
    "recall": recall,
    "save": save,
}
