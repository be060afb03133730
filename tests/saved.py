"""A context in a file: who saves it, and what is told of one that was saved or restored."""

import pytest

from tokix.kernel.costs import Costs
from tokix.sim import World
from tokix.syscalls import Append, Save, Think

STORY = "Once upon a time there was a kernel that lost nothing, and nobody knew how it did that."
SWAP = Costs(tick=1000, token=1000, frame=1)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "story.context")


async def tell(path, tokens=20):
    """Have a conversation of a few frames, and save it."""
    await Append(role="system", text=STORY)
    await Think(prompt="go on", max_tokens=tokens)
    return await Save(path=path)


async def more():
    return (await Think(prompt="and then?", max_tokens=12)).tokens


def brief(restored):
    return [restored.tokens, restored.computed]


def fed(ended):
    return ended.kernel.scheduler.mmu.counters.fed


class Late(World):
    """Files take long: many ticks pass while one is read or written."""

    def carrying(self, effect):
        return 40.0


async def save_only(path):
    return (await tell(path)).model_dump()
