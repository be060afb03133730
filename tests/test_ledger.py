"""The ledger: what a step changes is what the store lacks, and nothing else."""

from __future__ import annotations

from tokix.kernel.ledger import Ledger

KEY, ROW = (1, "", 3), (1, "", 3, 3, "user", 4, 0.5, "a cat")


def test_a_row_that_is_made_and_erased_in_one_step_never_gets_there() -> None:
    ledger = Ledger()
    ledger.insert("page", KEY, ROW)
    ledger.erase("page", KEY)
    assert ledger.taken() == {}
    ledger.insert("page", KEY, ROW)
    assert ledger.taken() == {"page": {KEY: ROW}}
    ledger.erase("page", KEY)
    assert ledger.taken() == {"page": {KEY: None}}


def test_an_older_row_is_deleted_whatever_came_into_its_place_meanwhile() -> None:
    ledger = Ledger()
    ledger.erase("page", KEY)
    ledger.insert("page", KEY, ROW)
    ledger.erase("page", KEY)
    assert ledger.taken() == {"page": {KEY: None}}


def test_a_copy_has_all_that_the_step_has_changed_so_far_and_nothing_later() -> None:
    ledger, own = Ledger(), (2, "", 3)
    ledger.insert("page", KEY, ROW)
    ledger.erase("page", (1, "", 2))
    ledger.copy((1, ""), (2, ""))
    ledger.insert("page", (1, "", 4), (1, "", 4, *ROW[3:]))
    rows = ledger.rows["page"]
    assert rows[2, ""] == (1, "")
    assert rows[own] == (*own, *ROW[3:])
    assert rows[2, "", 2] is None
    assert (2, "", 4) not in rows
    ledger.erase("page", own)
    assert own not in ledger.taken()["page"], "it was never in the store"


def test_what_was_about_to_come_into_a_space_goes_with_it() -> None:
    ledger = Ledger()
    ledger.insert("page", KEY, ROW)
    ledger.drop(1, "")
    assert ledger.rows["page"] == {(1, ""): None}
    ledger.erase("page", KEY)
    assert ledger.taken()["page"] == {(1, ""): None, KEY: None}
