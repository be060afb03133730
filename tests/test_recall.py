"""Recall: what comes back, to whom, and at what price."""

import pytest

from facts import FACTS, SMALL, learn
from harness import always, errno, run
from tokix.kernel.arch.toy import ToyEncoder
from tokix.syscalls import (
    Append,
    Drop,
    Embed,
    Evict,
    GetPid,
    Grant,
    Kill,
    Limits,
    Pages,
    Recall,
    Recv,
    Send,
    Spawn,
    Think,
    Wait,
)


def test_recall_finds_what_has_left_and_only_that():
    async def main():
        empty = await Recall(query="cat")
        ids = await learn()
        await Append(text="I have a cat, too.")
        found = await Recall(query="Has Ada got a cat?", k=2)
        return [
            empty,
            ids,
            [f.model_dump(exclude={"at", "region"}) for f in found],
            [f.id for f in await Recall(query="Turin", k=9)],
        ]

    empty, ids, found, ranked = always(main)
    assert empty == []
    assert ids == [0, 1, 2, 3]
    assert [f["text"] for f in found][:1] == [FACTS[0]]
    assert found[0] | {"score": 0} == {"id": 0, "role": "tool", "text": FACTS[0], "score": 0, "tokens": 38}
    assert 1 >= found[0]["score"] > found[1]["score"] >= 0
    assert ranked == [3, 2, 1, 0], "the same score: the newer page first"


def test_the_budget_holds_and_what_does_not_fit_is_passed_over():
    async def main():
        sizes = (100, 20, 60, 10)
        await Evict(pages=[await Append(text="cat " * (n // 4)) for n in sizes])
        return [
            [f.tokens for f in await Recall(query="cat", budget=n, how="dense")] for n in (0, 12, 80, 90, 110, 10**6)
        ]

    sizes = run(main)
    assert sizes == [[], [10], [10, 62], [10, 62], [10, 62, 22], [10, 62, 22, 102]]


def test_what_is_loaded_comes_behind_all_and_is_never_stored_again():
    async def main():
        await learn()
        await Append(text="now")
        found = [f.id for f in await Recall(query="Ada, cats, trains, noon", k=2, load=True)]
        again = [f.id for f in await Recall(query="train", k=1, load=True)]
        pages = [(p.text, p.recalled) for p in await Pages() if p.resident]
        thought = (await Think(prompt="so?", max_tokens=4)).prompt_tokens
        await Evict(pages=[p.id for p in await Pages() if p.recalled is not None])
        left = [(p.id, p.resident) for p in await Pages()]
        return [found, again, pages, thought, left, [f.id for f in await Recall(query="train", k=9)]]

    found, again, pages, thought, left, after = always(main)
    assert sorted(found) == [0, 3]
    assert again == [3]
    assert pages == [["now", None], [FACTS[0], 0], [FACTS[3], 3]], "in the order of the conversation, and once"
    assert thought == 5 + len(FACTS[0]) + len(FACTS[3]) + 4 + 5 + 1
    assert left == [[n, False] for n in range(4)] + [[4, True], [7, True], [8, True]]
    assert sorted(after) == [0, 1, 2, 3]


def test_what_is_loaded_takes_a_quarter_of_the_window_and_is_paid_for():
    async def child():
        await Evict(pages=[await Append(text=f"cat {n} " + "x" * 20) for n in range(12)])
        found = await Recall(query="cat", k=12, budget=10**6, load=True)
        poor = await errno(Recall(query="cat 11", k=12, budget=10**6, load=True))
        elsewhere = await errno(Recall(query="cat", load=True, pid=await GetPid()))
        return [sum(f.tokens for f in found), poor, elsewhere]

    async def main():
        paid = (12 * 28 + 2) + 56
        return (await Wait(pid=await Spawn(program="child", limits=Limits(tokens=paid)))).value

    size, poor, elsewhere = always(main, child, **SMALL)
    assert size == 56 <= 64
    assert poor == "EDQUOT"
    assert elsewhere == "EINVAL"


def test_a_process_reads_its_own_memory_and_that_of_its_children_and_others_with_a_capability():
    async def child(boss):
        await learn()
        await Append(text="here")
        await Send(to=boss, body="ready")
        await Recv()

    async def stranger(pid):
        async def look():
            return [await errno(Pages(pid=pid)), await errno(Recall(query="cat", k=1, pid=pid))]

        refused = await look()
        await Send(to=2, body="refused")
        await Recv()
        [pages, found] = await look()
        await Drop()
        return [refused, len(pages), found[0].text, await errno(Embed(texts=["x"])), await Recall(query="cat")]

    async def main():
        pid = await Spawn(program="child", args=[await GetPid()])
        await Recv(sender=pid)
        mine = [await Recall(query="cat"), (await Recall(query="cat", k=1, pid=pid))[0].text]
        seen = [p.resident for p in await Pages(pid=pid)]
        other = await Spawn(program="stranger", args=[pid], caps=["send:*", "think"])
        await Recv(sender=other)
        await Grant(pid=other, caps=["read:*"])
        await Send(to=other)
        theirs = (await Wait(pid=other)).value
        await Kill(pid=pid)
        await Wait(pid=pid)
        return [mine, seen, theirs, await errno(Pages(pid=pid)), await errno(Recall(query="cat", pid=pid))]

    mine, seen, theirs, *gone = always(main, child, stranger, step=3)
    assert mine == [[], FACTS[0]]
    assert seen == [False] * 4 + [True]
    assert theirs == [["EPERM", "EPERM"], 5, FACTS[0], "EPERM", []]
    assert gone == ["ESRCH", "ESRCH"]


def test_embed_gives_vectors_of_length_one():
    async def main():
        return [await Embed(texts=["a cat", "cats", ""]), await Embed(texts=[])]

    [a, b, empty], nothing = always(main)
    assert len(a) == len(b) == ToyEncoder.dimensions
    assert sum(x * x for x in a) == pytest.approx(1)
    assert sum(x * y for x, y in zip(a, b, strict=True)) == pytest.approx(2**-0.5)
    assert set(empty) == {0}
    assert nothing == []
