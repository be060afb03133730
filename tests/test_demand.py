"""Demand paging: what a Think is about comes back before it."""

import pytest

from facts import FACTS, SMALL, learn, listed, small
from harness import Ended, always, boot, told
from tokix.archive import Archive
from tokix.kernel.arch.toy import ToyEncoder
from tokix.syscalls import Advise, Append, ChatMessage, Evict, Forget, Map, Pages, Pin, Recall, Think, Unlink, gather


async def window():
    return [(p.role, p.text, p.recalled) for p in await listed() if p.resident]


def test_pages_come_back_in_front_of_the_prompt():
    async def main():
        await Advise(demand=0.25)
        await learn()
        await Append(role="system", text="be good")
        reply = await Think(prompt="When does the train to Turin leave?", max_tokens=5)
        return [[p.id for p in reply.recalled], reply.prompt_tokens, await window()]

    machine = small(2048, 200)
    recalled, tokens, pages = always(main, machine=machine)
    assert recalled[0] == 3
    assert pages[0] == ["system", "be good", None]
    assert [page for page in pages if page[2] is not None] == [["tool", FACTS[n], n] for n in sorted(recalled)]
    assert [page[0] for page in pages[-2:]] == ["user", "assistant"]
    read = [(role, text) for role, text, _ in pages[:-1]]
    assert tokens == sum(len(machine.render(role, text)) for role, text in read) + len(machine.opening())


def test_not_without_advice_not_for_messages_and_not_if_nothing_is_archived():
    async def main():
        await Advise(demand=0.25)
        nothing = (await Think(prompt="train?", max_tokens=2)).recalled
        await learn()
        talk = (await Think(messages=[ChatMessage(role="user", text="train?")], max_tokens=2)).recalled
        await Advise(demand=0)
        return [nothing, talk, (await Think(prompt="train?", max_tokens=2)).recalled]

    assert always(main) == [[], [], []]


def test_by_the_last_page_of_the_user_if_there_is_no_prompt():
    async def main():
        await Advise(demand=0.25)
        await learn()
        await Append(text="which cat has Ada?")
        await Append(text="I do not know.", role="assistant")
        return (await Think(max_tokens=2)).recalled[0].id

    assert always(main) == 0


def test_a_copy_of_what_the_user_said_is_no_question():
    async def main():
        await Advise(demand=0.25)
        await Evict(pages=[await Append(text=fact) for fact in FACTS])
        await Append(text="which cat has Ada?")
        await Recall(query="train to Turin", k=1, load=True)
        return (await Think(max_tokens=2)).recalled[0].id

    assert always(main) == 0


@pytest.mark.parametrize("region", ["", "facts"])
def test_what_was_found_again_stays_and_what_was_not_makes_room(region):
    async def main():
        await Advise(demand=0.03)
        if region:
            await Map(region=region, append=True)
        ids = [await Append(text=f"fact {n}: {word}", role="tool", region=region) for n, word in enumerate(WORDS)]
        if not region:
            await Evict(pages=ids)
        lacking, pinned, kept = [], None, []
        for word in (*WORDS, *reversed(WORDS)):
            found = [[page.region, page.id] for page in (await Think(prompt=f"{word}?", max_tokens=1)).recalled]
            copies = [page for page in await Pages() if page.recalled is not None and page.resident]
            here = [[page.region, page.recalled] for page in copies]
            lacking += [page for page in found if page not in here]
            if pinned is None:
                pinned = here[0]
                await Pin(page=copies[0].id)
            kept.append(pinned in here)
        if region:
            await Unlink(region=region)
        return [lacking, all(kept)]

    assert always(main, step=7, machine=small(2048, 200)) == [[], True]


def test_what_is_there_comes_no_second_time_and_is_never_stored_again():
    async def main():
        await Advise(demand=0.5)
        await learn()
        for _ in range(3):
            await Think(prompt="which cat has Ada?", max_tokens=2)
        copies = [p.recalled for p in await Pages() if p.recalled is not None]
        await Evict(pages=[p.id for p in await Pages() if p.recalled is not None])
        return [copies, sorted(p.id for p in await Recall(query="cat", k=99) if p.text in FACTS)]

    copies, stored = always(main)
    assert len(copies) == len(set(copies)) > 0
    assert stored == [0, 1, 2, 3]


def test_all_copies_together_have_their_part_of_the_window():
    async def main():
        await Advise(demand=0.25, stub=False)
        ids = [await Append(text=f"fact {n} of {word}", role="tool") for n, word in enumerate(WORDS)]
        await Evict(pages=ids)
        seen = []
        for word in WORDS:
            reply = await Think(prompt=f"{word}?", max_tokens=1)
            pages = await Pages()
            copies = [(p.tokens, p.text) for p in pages if p.recalled is not None and p.resident]
            seen.append([sum(n for n, _ in copies), any(word in text for _, text in copies), len(reply.recalled)])
        return seen

    for tokens, there, count in always(main, **SMALL):
        assert 0 < tokens <= 64
        assert there
        assert count > 0


WORDS = ("apples", "bridges", "castles", "dragons", "engines", "forests")


def test_a_branch_finds_what_is_around_it():
    async def main():
        await Advise(demand=0.25)
        await learn()

        async def ask(question):
            return (await Think(prompt=question, max_tokens=3)).recalled[0].id

        found = await gather(ask("which cat has Ada?"), ask("When does the train leave?"))
        return [found, [p.id for p in await Pages() if p.recalled is not None]]

    assert always(main, step=2) == [[0, 3], []]


def test_what_is_forgotten_does_not_come_back():
    async def main():
        await Advise(demand=0.25)
        await learn()
        await Think(prompt="which cat has Ada?", max_tokens=2)
        await Forget(page=0)
        reply = await Think(prompt="which cat has Ada?", max_tokens=2)
        return [[p.id for p in reply.recalled], [p.text for p in await Pages()]]

    ids, texts = always(main)
    assert 0 not in ids
    assert FACTS[0] not in texts


class Broken(ToyEncoder):
    name = "broken"

    def embed(self, texts):
        raise ValueError("no such layer")


def asked_with(encoder):
    """Let a program think about a fact, on a system with this encoder."""

    async def main():
        await Advise(demand=0.25)
        await learn()
        before = await window()
        reply = await told(Think(prompt="which cat has Ada?", max_tokens=2))
        return [reply if isinstance(reply, str) else [p.id for p in reply.recalled], await window() == before]

    sim = boot(main)
    sim.archive = Archive(sim.store, encoder)
    return Ended(sim.run(1000)).value


def test_without_an_encoder_it_goes_by_words():
    assert asked_with(None) == [[0], False]


def test_a_broken_encoder_is_an_error_and_nothing_has_moved():
    error, same = asked_with(Broken())
    assert error == "EIO: the encoder broken failed: ValueError: no such layer"
    assert same
