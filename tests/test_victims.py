"""Victims: what leaves together, what stays, and the four orders."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facts import small
from harness import always
from tokix.kernel.context import Page
from tokix.kernel.victims import ORDERS, groups, victims
from tokix.syscalls import Advise, Append, Fork, Pages, Wait


def page(id, role="user", text="", message=None, **more):
    return Page(role, 10, more.pop("pinned", False), text, id, id if message is None else message, **more)


def ids(found):
    return [[page.id for page in group] for group in found]


def test_an_answer_and_the_results_of_its_tools_leave_together():
    said = ["user", "assistant", "tool", "tool", "assistant", "user", "tool", "assistant", "user"]
    pages = [page(n, role) for n, role in enumerate(said)]
    assert ids(groups(pages)) == [[0], [1, 2, 3], [4], [5], [6], [7], [8]]
    assert ids(victims(pages)) == [[0], [1, 2, 3], [4], [5], [6], [7]]


def test_what_belongs_to_what_stays_stays():
    pages = [page(0), page(1, "assistant"), page(2, "tool")]
    assert ids(victims(pages)) == [], "the last user page, and the last page with the answer that called"
    pages = [page(0, "assistant"), page(1, "tool", pinned=True), page(2, "system"), page(3), page(4)]
    assert ids(victims(pages)) == [[3]]


def test_of_a_result_that_comes_last_and_is_longer_than_a_page_all_but_its_first_piece_go_alone():
    pages = [page(0), page(1, "assistant"), *(page(n, "tool", message=2) for n in (2, 3, 4))]
    assert ids(groups(pages)) == [[0], [1, 2], [3], [4]]
    assert ids(victims(pages)) == [[1, 2], [3]]
    assert ids(victims([*pages, page(5)])) == [[0], [1, 2, 3, 4]]


def test_copies_belong_to_nothing():
    pages = [page(0), page(1, "assistant", source=7), page(2, "tool", source=8), page(3, "tool"), page(4)]
    assert ids(groups(pages)) == [[0], [1], [2], [3], [4]]


TALK = [
    page(0, text="My cat is called Turing, and he likes fish."),
    page(1, "assistant", text="What a name for an animal!", importance=2),
    page(2, text="The train to Turin leaves at noon.", importance=5),
    page(3, "assistant", text="Then be there at eleven.", importance=-1),
    page(4, text="Paper burns at 451 degrees."),
    page(5, "assistant", text="That is what Turing would say of fish."),
    page(6, text="When does my train to Turin leave?"),
]


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("fifo", [0, 1, 2, 3, 4, 5]),
        ("lru", [1, 3, 4, 0, 5, 2]),
        ("importance", [3, 0, 4, 5, 1, 2]),
        ("relevance", [0, 1, 3, 4, 5, 2]),
    ],
)
def test_four_orders(policy, order):
    assert [group[0].id for group in victims(TALK, policy)] == order


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text("abc ", max_size=12))))
def test_an_order_leaves_nobody_out(said):
    pages = [page(n, role, text) for n, (role, text) in enumerate(said)]
    everybody = sorted(ids(victims(pages)))
    for policy in ORDERS:
        assert sorted(ids(victims(pages, policy))) == everybody
        assert victims(pages, policy) == victims(pages, policy)


@pytest.mark.parametrize("policy", ORDERS)
def test_a_program_chooses_an_order_and_a_fork_has_it(policy):
    async def main():
        await Advise(victims=policy, stub=False)
        await Append(text="dear Turing", importance=9)
        for n in range(5):
            await Append(text=f"note {n}")
        twin = await Fork()
        for n in range(16):
            await Append(text=f"result {n}", role="tool")
        await Append(text="who is dear Turing?")
        await Append(text="result 16", role="tool")
        here = [p.id for p in await Pages() if p.resident]
        if twin:
            await Wait(pid=twin)
        return here

    here = always(main, machine=small(256))
    assert (0 in here) == (policy != "fifo"), here


def test_who_is_least_important_leaves_first():
    async def main():
        await Advise(victims="importance")
        for n in range(8):
            await Append(role="tool", text=f"{n}" * 28, importance=n % 2)
        return [(p.id, p.importance) for p in await Pages() if p.resident]

    *others, _ = always(main, machine=small(256))
    assert [importance for _, importance in others] == [1] * len(others)
    assert len(others) > 2


def test_a_group_is_as_important_as_its_most_important_page():
    pages = [page(0, "assistant"), page(1, "tool", importance=5), page(2, importance=3), page(3), page(4)]
    assert ids(victims(pages, "importance")) == [[3], [2], [0, 1]]


def test_relevance_is_to_what_the_user_has_asked_and_not_to_a_copy():
    pages = [
        page(0, text="cats purr"),
        page(1, text="dogs bark"),
        page(2, text="cats?"),
        page(3, text="dogs", source=9),
    ]
    assert ids(victims([*pages, page(4, "assistant", text="so")], "relevance"))[-1] == [0]
