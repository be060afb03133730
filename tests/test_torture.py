"""The corpus, killed before and after every commit, under many schedules, and with changed programs."""

import pytest

import corpus
from stores import KEY
from tokix.kernel.kernel import Kernel
from tokix.kernel.policy import FCFS, RR, Priority
from tokix.storage import SqliteStore
from tokix.syscalls import CALLS
from torture import Mortal, run


@pytest.fixture(scope="module")
def undisturbed():
    life = run()
    life.check()
    return life


def test_the_corpus_uses_every_call_and_meets_every_error(monkeypatch):
    calls, errors = set(), set()
    trap, reply = Kernel.trap, Kernel.reply

    def watched_trap(kernel, branch):
        calls.add(type(branch.call))
        trap(kernel, branch)

    def watched_reply(kernel, branch, value=None, error=None):
        errors.add(type(error))
        reply(kernel, branch, value, error)

    monkeypatch.setattr(Kernel, "trap", watched_trap)
    monkeypatch.setattr(Kernel, "reply", watched_reply)
    run().check()
    run([(40, "after")])
    assert set(CALLS) <= calls
    assert set(corpus.USED_ERRORS) - errors <= {corpus.EUNKNOWN}


def test_the_same_run_twice_is_the_same_to_the_row(undisturbed):
    again = run()
    assert again.store.commits == undisturbed.store.commits
    assert again.store.store.tables == undisturbed.store.store.tables
    assert again.world.screen == undisturbed.world.screen


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_commit_with_sqlite(undisturbed, when, key, tmp_path):
    if key:
        pytest.importorskip("sqlcipher3")
    for n in range(1, undisturbed.store.commits + 1, 10 if key else 1):
        folder = tmp_path / str(n)
        store = Mortal(lambda folder=folder: SqliteStore(folder / "kernel.db", key=key))
        life = run([(n, when)], store=store)
        assert life.kills == 1
        life.same_as(undisturbed)
        store.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("policy", "shape"),
    [(RR, {}), (Priority, {"frames": 200}), (RR, {"budget": 1, "frames": 40, "lanes": 3, "ahead": True})],
)
def test_killed_three_times(when, policy, shape):
    expected = run(policy=policy(), **shape)
    for n in range(1, expected.store.commits + 1, 6):
        life = run([(n, when), (n + 1 + n % 7, "after"), (n + 12, "before")], policy=policy(), **shape)
        assert life.kills >= 1
        life.same_as(expected)


@pytest.mark.parametrize("policy", [FCFS, RR, Priority, lambda: RR(3)], ids=["FCFS", "RR", "PRIORITY", "RR(3)"])
def test_no_schedule_changes_a_result(undisturbed, policy):
    for lanes in (1, 2, 5):
        for prefill in (1, 8, 64):
            for frames, budget in ((24, 2), (25, 1000), (60, 1000), (1000, 1)):
                shape = {"lanes": lanes, "prefill": prefill, "frames": frames, "budget": budget}
                for ahead in (False, True):
                    run(policy=policy(), ahead=ahead, **shape).same_as(undisturbed)


def test_a_changed_program_is_parked_with_a_diff_and_goes_on_when_it_is_repaired(undisturbed):
    async def worker(boss, parts):
        part = await corpus.Recv(sender=boss)
        await corpus.Think(prompt=f"{part.body} please")

    parked = 0
    for n in range(8, 60, 2):
        life = run([(n, "after"), (0, "")], changed={"worker": worker})
        life.same_as(undisturbed)
        parked += life.parked
    assert parked > 10


def test_a_missing_program_is_parked_and_goes_on_when_it_is_back(undisturbed):
    life = run([(30, "after"), (0, "")], changed={"worker": None})
    assert life.parked == 2
    life.same_as(undisturbed)
