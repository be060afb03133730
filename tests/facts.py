"""Facts to remember, and a window that is too small for them."""

from tokix.kernel.arch.toy import ToyMachine
from tokix.kernel.context import STUB
from tokix.syscalls import Append, Evict, Pages

FACTS = (
    "Ada has a cat that is called Turing.",
    "The key of the safe is under the mat.",
    "Paper burns at 451 degrees.",
    "The train to Turin leaves at noon.",
)
#: A window of 256 tokens: pages leave above 230, until at most 153 are used; a page has 32 at most.
SMALL = {"machine": ToyMachine(frames=64, window=256, ends=False)}


def small(window=256, frames=64):
    return ToyMachine(frames=frames, window=window, ends=False)


async def listed():
    """List the pages, without the stub."""
    return [page for page in await Pages() if page.id != STUB]


async def resident():
    return [page.id for page in await listed() if page.resident]


async def learn():
    """Append the facts and push them out."""
    ids = [await Append(text=fact, role="tool") for fact in FACTS]
    await Evict(pages=ids)
    return ids
