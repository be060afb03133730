"""A look at a store from outside: what it finds, and that it changes nothing."""

import anyio
import pytest

from tokix.boot import boot
from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.policy import RR
from tokix.sim import Person, Simulation, World
from tokix.state import TRUTH
from tokix.storage import SqliteStore, StoreError, glance
from tokix.syscalls import Append, Recv, Spawn


async def main():
    await Spawn(program="child", args=["of main"])
    await Append(text="some words")
    await Recv()


async def child(word):
    await Recv()


def test_of_what_is_no_store_it_finds_nothing(tmp_path):
    for content in (None, b"", b"no database at all, but a longer text than a header" * 100):
        if content is not None:
            (tmp_path / TRUTH).write_bytes(content)
        assert glance.unfinished(tmp_path / TRUTH) == (None, ())
        assert glance.outcomes(tmp_path / TRUTH) == 0
    assert [path.name for path in tmp_path.iterdir()] == [TRUTH]


def test_it_sees_what_is_unfinished_while_a_kernel_has_the_store_open(tmp_path):
    store = SqliteStore(tmp_path / TRUTH)
    Simulation({"init": main, "child": child}, store, World(), policy=RR()).run()
    expected = ("toy", (("child", '["of main"]'),))
    assert glance.unfinished(tmp_path / TRUTH) == expected
    entries = glance.outcomes(tmp_path / TRUTH)
    assert entries == sum(len(store.journal(pid)) for pid in (1, 2)) > 0
    store.close()
    assert glance.unfinished(tmp_path / TRUTH) == expected


class Other(ToyMachine):
    name = "other"


async def nothing():
    await Recv()


@pytest.mark.parametrize("unfinished", [True, False])
def test_a_state_belongs_to_a_model_while_a_program_is_unfinished(tmp_path, unfinished):
    """A foreign process that a kill has left is nobody any more, and no reason to refuse another model."""
    calls = [Append(text="a word"), *([Spawn(program="child", args=["x"])] if unfinished else []), Recv()]
    store = SqliteStore(tmp_path / TRUTH)
    sim = Simulation({"init": nothing, "child": child}, store, World(person=Person(calls)), policy=RR()).run()
    assert [p.foreign for p in sim.kernel.procs.values()].count(True) == 1
    assert glance.unfinished(tmp_path / TRUTH).model == ("toy" if unfinished else None)

    async def again():
        async with boot(store=store, machine=Other(), programs={"init": nothing, "child": child}, drivers={}):
            pass

    if unfinished:
        with pytest.raises(StoreError, match="begun on the model toy, and this is other"):
            anyio.run(again)
    else:
        anyio.run(again)
    store.close()
