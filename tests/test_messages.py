"""Send and Recv: order, full mailboxes, and what a message is."""

from harness import always, ends_with, errno, lives, receiver, run, sleeper
from tokix.syscalls import GetPid, Limits, Now, Recv, Send, SetLimit, Sleep, Spawn, Wait, gather


def test_recv_selects_by_sender_and_by_tag():
    async def sender(boss, name):
        for n, tag in enumerate(("a", "b", "a")):
            await Send(to=boss, tag=tag, body=f"{name}{n}")

    async def main():
        me = await GetPid()
        one, two = [await Spawn(program="sender", args=[me, name]) for name in ("x", "y")]
        await Sleep(seconds=1)
        wants = [Recv(sender=two, tag="b"), Recv(tag="b"), Recv(sender=two), Recv(sender=two), Recv(), Recv(tag="a")]
        got = [await want for want in wants]
        return [
            [m.body for m in got],
            [m.sender - one for m in got],
            await errno(Recv(timeout=0)),
            await errno(Recv(tag="", timeout=1)),
        ]

    bodies = ["y1", "x1", "y0", "y2", "x0", "x2"]
    assert always(main, sender) == [bodies, [1, 0, 1, 1, 0, 0], "ETIMEDOUT", "ETIMEDOUT"]


def test_a_waiting_recv_takes_only_what_it_wants():
    async def main():
        me = await GetPid()

        async def send():
            for tag in ("no", "yes", "other"):
                await Send(to=me, tag=tag, body=tag)

        wanted, other, _ = await gather(Recv(tag="yes"), Recv(sender=me, tag="other"), send())
        return [wanted.body, other.body, (await Recv()).body]

    assert always(main) == ["yes", "other", "no"]


def test_mail_between_two_is_first_in_first_out_through_a_full_mailbox():
    async def sender(boss, name):
        for n in range(6):
            await Send(to=boss, body=[name, n])

    async def main():
        await SetLimit(limit="messages", value=2)
        me = await GetPid()
        for name in "abc":
            await Spawn(program="sender", args=[me, name])
        await Sleep(seconds=2)
        got = [(await Recv()).body for _ in range(18)]
        return {name: [n for who, n in got if who == name] for name in "abc"}

    assert always(main, sender) == {name: list(range(6)) for name in "abc"}


def test_who_waits_longest_at_a_full_mailbox_goes_first_over_two_restarts():
    async def sender(box, name):
        await Send(to=box, body=name)

    async def main():
        box = await Spawn(program="receiver", args=[4, 30], limits=Limits(messages=1))
        await Send(to=box, body="full")
        for _ in range(10):
            await Sleep(seconds=0)
        for name in "ABC":
            await Spawn(program="sender", args=[box, name])
            await Sleep(seconds=2)
        return (await Wait(pid=box)).value

    commits = lives([], main, sender, receiver).sim.store.commits
    for first in range(1, commits):
        for second in range(first + 1, min(first + 6, commits)):
            crashes = [(first, "after"), (second, "after" if second % 2 else "before")]
            assert lives(crashes, main, sender, receiver, away=0.0).value == ["full", "A", "B", "C"], crashes


def test_a_message_is_what_it_was_when_it_was_sent():
    async def main():
        box = await Spawn(program="receiver", args=[3, 5], limits=Limits(messages=1))
        shared = [1]
        await Send(to=box, body=shared)
        shared.append(2)

        async def send():
            await Send(to=box, body=shared)
            await Send(to=box, body=shared)

        async def change():
            shared.append(3)
            await Sleep(seconds=1)
            shared.append(4)

        await gather(send(), change())
        return (await Wait(pid=box)).value

    assert always(main, receiver) == [[1], [1, 2], [1, 2, 3, 4]]


def test_records_in_a_body_arrive_whole():
    """A record whose fields have their defaults is not shortened on the way, over a restart neither."""

    async def main():
        box = await Spawn(program="receiver", args=[2, 5], limits=Limits(messages=1))
        status = await Wait(pid=await Spawn(program="child"))
        await Send(to=box, body=status)
        await Send(to=box, body=[status])
        return (await Wait(pid=box)).value

    status = {"pid": 4, "program": "child", "reason": "exit", "value": None, "detail": ""}
    assert always(main, receiver, ends_with(None)) == [status, [status]]


def test_send_does_not_wait_if_it_is_told_so():
    async def main():
        await SetLimit(limit="messages", value=2)
        me = await GetPid()
        sent = [await errno(Send(to=me, body=n, block=False)) for n in range(4)]
        got = [(await Recv()).body for _ in range(2)]
        return [sent, got, await errno(Send(to=me, body="again", block=False)), (await Recv()).body]

    assert always(main) == [[None, None, "EAGAIN", "EAGAIN"], [0, 1], None, "again"]


def test_a_sender_learns_that_the_receiver_has_ended():
    async def child():
        await Sleep(seconds=3)

    async def main():
        pid = await Spawn(program="child", limits=Limits(messages=1))
        await Send(to=pid)
        waits = await errno(Send(to=pid))
        return [
            waits,
            await errno(Send(to=pid)),
            (await Wait(pid=pid)).reason,
            await errno(Send(to=pid)),
            await errno(Send(to=99)),
        ]

    assert always(main, child) == ["ESRCH", "ESRCH", "exit", "ESRCH", "ESRCH"]


def test_a_raised_limit_lets_the_senders_in_that_wait():
    async def main():
        box = await Spawn(program="receiver", args=[5, 9], limits=Limits(messages=1))
        await Send(to=box, body=0)
        done = []

        async def send(n):
            await Send(to=box, body=n)
            done.append([n, await Now()])

        async def enlarge():
            await Sleep(seconds=1)
            await SetLimit(limit="messages", value=3, pid=box)

        await gather(send(1), send(2), send(3), enlarge())
        await Send(to=box, body=4)
        return [done, (await Wait(pid=box)).value]

    done, got = run(main, receiver)
    assert done == [[1, 1.0], [2, 1.0], [3, 9.0]]
    assert got == [0, 1, 2, 3, 4]
    assert always(main, receiver, away=0)[1] == [0, 1, 2, 3, 4]


def test_mail_has_an_id_that_is_never_used_twice():
    async def main():
        me = await GetPid()
        for _ in range(2):
            await Send(to=me)
        first = [(await Recv()).id for _ in range(2)]
        await Sleep(seconds=1)

        async def branch():
            await Send(to=me)

        await gather(branch(), branch())
        return [*first, *[(await Recv()).id for _ in range(2)]]

    ids = always(main)
    assert len(set(ids)) == 4


def test_a_process_can_write_to_its_family_only():
    async def child(parent, stranger):
        below = await Spawn(program="receiver")
        found = [await errno(Send(to=pid)) for pid in (parent, below, stranger, 1)]
        await Wait()
        return found

    async def main():
        stranger = await Spawn(program="sleeper", args=[5])
        first = await Wait(pid=await Spawn(program="child", args=[await GetPid(), stranger], caps=["spawn:*"]))
        second = await Wait(
            pid=await Spawn(program="child", args=[await GetPid(), stranger], caps=["spawn:*", f"send:{stranger}"])
        )
        return [first.value, second.value]

    assert run(main, child, sleeper, receiver) == [[None, None, "EPERM", "EPERM"], [None, None, None, "EPERM"]]


def test_recv_with_a_timeout_keeps_its_deadline_over_a_restart():
    async def main():
        return [await errno(Recv(timeout=5)), await Now()]

    assert run(main) == ["ETIMEDOUT", 5.0]
    assert lives([(1, "after")], main, away=3.0).value == ["ETIMEDOUT", 5.0]
    assert lives([(1, "after")], main, away=30.0).value == ["ETIMEDOUT", 30.0]
