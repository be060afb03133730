"""The benchmark that judges the policies: it repeats itself, and knows how long a program takes alone."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

from tokix.kernel.policy import POLICIES

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from load import Cost, Trace  # type: ignore[import-not-found]
from schedule import picture, simulated, slowed  # type: ignore[import-not-found]

OPTIONS = Namespace(cost=Cost(), lanes=4, prefill=64, frames=2000, slots=2000)


def judged(programs, policy, seed=1, load=1.5):
    trace = Trace(programs, seed, load, OPTIONS.cost, OPTIONS.lanes)
    run = simulated(trace, policy, OPTIONS)
    slowed(trace, run, OPTIONS.cost, OPTIONS.prefill)
    return {name: value for name, value in run.items() if "µs" not in name}


@pytest.mark.parametrize("policy", ["FCFS", "MIXED"])
def test_the_same_seed_gives_the_same_figures(policy):
    assert judged(6, policy) == judged(6, policy)


@pytest.mark.parametrize("seed", range(6))
def test_a_program_alone_takes_as_long_as_it_is_said_to_take(seed):
    """The figure of the simulator, against a sum that knows nothing of it. Children side by side are put simply."""
    run = judged(1, "RR", seed)
    assert run["slowdown, mean"] == pytest.approx(1, abs=0.05 if "slowdown of mapreduce, mean" in run else 0.005)


def test_the_picture_has_every_policy():
    runs = {name: judged(3, name) for name in POLICIES}
    assert all(f">{name}</text>" in picture(runs, "a title") for name in POLICIES)
