"""Send and Recv.

A mailbox is bounded. Mail from one branch arrives in the order of its sends: a sender that has to wait keeps its
place, over a restart too. A receiver that selects looks at the mailbox first, then at the senders that wait, so a full
mailbox of other mail cannot lock it out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tokix.kernel import taking
from tokix.kernel.outcome import BLOCKED, NULL, Encoded
from tokix.kernel.process import Mail
from tokix.syscalls import EAGAIN, Recv, Send
from tokix.syscalls.base import to_json

if TYPE_CHECKING:
    from tokix.kernel.kernel import Kernel
    from tokix.kernel.process import Branch, Process


def _mail(k: Kernel, sender: Branch, body: str) -> Mail:
    """Make a message of a Send."""
    k.next_mail += 1
    return Mail(k.next_mail - 1, sender.key, sender.proc.pid, sender.call.tag, body)


def send(k: Kernel, b: Branch, c: Send) -> object:
    target = k.living(c.to)
    body = to_json(c.body)
    receiver = next(
        (r for r in target.receivers or () if _wants(r.call, b.proc.pid, c.tag) and taking.may_take(r)), None
    )
    if receiver and target.receivers:
        target.receivers.remove(receiver)
        k.reply(receiver, _encoded(b.key, b.proc.pid, c.tag, body))
        return NULL
    if _full(target):
        return _queue(k, b, c, target, body)
    _deliver(k, target, _mail(k, b, body))
    return NULL


def _queue(k: Kernel, b: Branch, c: Send, target: Process, body: str) -> object:
    if not c.block:
        raise EAGAIN(f"the mailbox of process {c.to} is full")
    k.begin(b, order=next(k.serial))
    target.senders = target.senders or {}
    target.senders[b] = body
    return BLOCKED


def recv(k: Kernel, b: Branch, c: Recv) -> object:
    process = b.proc
    if mail := take(k, b, c):
        return _encoded(mail.id, mail.sender, mail.tag, mail.body)
    process.receivers = process.receivers or []
    process.receivers.append(b)
    return k.until(b, c.timeout)


def take(k: Kernel, b: Branch, c: Recv) -> Mail | None:
    """Take the first piece of mail that a call wants; a sender that waited for room goes on."""
    process = b.proc
    mailbox = process.mailbox
    for index, mail in enumerate(mailbox or ()):
        if _wants(c, mail.sender, mail.tag):
            if not taking.may_take(b):
                return None
            assert mailbox is not None
            del mailbox[index]
            k.erase("message", (mail.seq,))
            admit(k, process)
            return mail
    for sender, body in (process.senders or {}).items():
        if _wants(c, sender.proc.pid, sender.call.tag):
            if not taking.may_take(b):
                return None
            assert process.senders is not None
            del process.senders[sender]
            k.reply(sender, NULL)
            return _mail(k, sender, body)
    return None


def admit(k: Kernel, process: Process) -> None:
    """Let senders go on that waited for room, while there is some."""
    while process.senders and not _full(process):
        sender = next(iter(process.senders))
        _deliver(k, process, _mail(k, sender, process.senders.pop(sender)))
        k.reply(sender, NULL)


def _full(process: Process) -> bool:
    limit = process.limits.messages
    return limit is not None and len(process.mailbox or ()) >= limit


def _deliver(k: Kernel, target: Process, mail: Mail) -> None:
    target.mailbox = target.mailbox or deque()
    target.mailbox.append(mail)
    k.insert("message", (mail.seq,), (mail.seq, target.pid, mail.id, mail.sender, mail.tag, mail.body))


def _wants(c: Recv, sender: int, tag: str) -> bool:
    return (c.sender is None or c.sender == sender) and (c.tag is None or c.tag == tag)


def _encoded(id: str, sender: int, tag: str, body: str) -> Encoded:
    head = to_json(tag) if tag else '""'
    return Encoded(f'{{"id":"{id}","sender":{sender},"tag":{head},"body":{body}}}')


def withdraw_recv(k: Kernel, b: Branch) -> None:
    if b.proc.receivers and b in b.proc.receivers:
        b.proc.receivers.remove(b)


def withdraw_send(k: Kernel, b: Branch) -> None:
    target = k.procs.get(b.call.to)
    if target and target.senders:
        target.senders.pop(b, None)


HANDLERS = {Send: send, Recv: recv}
WITHDRAW = {Send: withdraw_send, Recv: withdraw_recv}
