"""Programs of the corpus that remember: pages leave windows, are searched, forgotten, saved to files, and shared."""

import atexit
import tempfile
from shutil import rmtree

from tokix.syscalls import (
    Advise,
    Append,
    Embed,
    Evict,
    Exec,
    Forget,
    Fork,
    Map,
    Pages,
    Pin,
    Recall,
    Regions,
    Restore,
    Save,
    Sleep,
    Spawn,
    SyscallError,
    Think,
    Unlink,
    Unmap,
    Wait,
    gather,
    select,
)


async def errno(call):
    try:
        return await call
    except SyscallError as error:
        return error.errno


FACTS = ["Ada has a cat that is called Turing. ", "The key of the safe is under the mat. ", "Paper burns at 451. "]


async def rememberer():
    """More than the window holds: what leaves it is found again, by whom it belongs to, until it is forgotten."""
    await Append(role="system", text="You remember.", pinned=True)
    facts = [await Append(text=fact * 3, role="tool") for fact in FACTS]
    large = await Think(prompt="word " * 150, max_tokens=8)
    resident = [p.id for p in await Pages() if p.resident]
    cat = await Recall(query="which cat has Ada?", k=2, budget=300, load=True)
    loaded = [p.recalled for p in await Pages() if p.recalled is not None]

    async def branch(text):
        page = await Append(text=text)
        await Append(text="and more")
        await Evict(pages=[page])
        await Sleep(seconds=1)
        return [f.text for f in await Recall(query=text, k=1)], await errno(Forget(page=facts[0]))

    both = await gather(branch("alpha"), branch("beta"))
    cut = await select(Think(prompt="long " * 100, max_tokens=200), Sleep(seconds=3))
    await Forget(page=facts[0])
    wrong = [await errno(Forget(page=facts[0])), await errno(Evict(pages=[0])), await errno(Pin(page=facts[1]))]
    child = await Fork()
    kept = [f.id for f in await Recall(query="a key under a mat", k=2)]
    await Advise(victims="relevance", demand=0.25)
    asked = await Think(prompt="what burns?", max_tokens=4)
    kept += [asked.text, [f.id for f in asked.recalled]]
    seen = [large.text, resident, [f.id for f in cat], loaded, both, cut[0], wrong, kept]
    end = (await Wait(pid=child)).value if child else None
    return await Exec(program="archivist", args=[seen, end], fresh=child == 0)


async def archivist(*seen):
    found = [f.id for f in await Recall(query="paper that burns", k=1, load=True)]
    if found:
        child = await Fork()  # what was evicted before the Exec is in the store alone
        if child:
            await Forget(page=found[0])
            other = (await Wait(pid=child)).value[2]
            return [*seen, found, other, [f.id for f in await Recall(query="paper that burns", k=1)]]
        await Evict(pages=[p.id for p in await Pages() if p.resident and not p.pinned])
        found = [f.id for f in await Recall(query="paper that burns", k=3)]
    return [*seen, found, [round(x, 3) for v in await Embed(texts=["a cat"]) for x in v if x]]


#: Where contexts are saved.
SHELF = tempfile.mkdtemp(prefix="tokix-corpus-")
atexit.register(rmtree, SHELF, ignore_errors=True)


async def chronicler():
    """Its context is taken over by a child, with what had left the window; by now it says something else itself."""
    await Append(role="system", text="You write down what was.", pinned=True)
    pages = [await Append(text=fact * 2) for fact in FACTS]
    await Evict(pages=pages[:2])
    said = await Think(max_tokens=6)
    saved = await Save(path=f"{SHELF}/chronicle")
    child = await Spawn(program="heir")
    own = await Think(prompt="and then?", max_tokens=6)
    return [saved.tokens, said.text, own.text, (await Wait(pid=child)).value]


async def heir():
    restored = await Restore(path=f"{SHELF}/chronicle")
    found = [f.id for f in await Recall(query="the key", k=1)]
    again = await errno(Restore(path=f"{SHELF}/chronicle"))
    said = await Think(prompt="and then?", max_tokens=6)
    return [restored.tokens, [(p.id, p.resident) for p in await Pages()], found, again, said.text]


async def sharers():
    """Two write down what they know, and the one who started them finds it; another has no right to look."""
    await Map(region="board", append=True)
    for word in ("alpha", "beta"):
        await Spawn(program="sharer", args=[word])
    jailed = await Spawn(program="sharer", args=["gamma"], caps=["map:others"])
    ends = sorted([str((await Wait()).value) for _ in range(3)])
    found = sorted([(page.text, page.region) for page in await Recall(query="alpha or beta", k=9)])
    await Forget(page=0, region="board")
    left = len(await Pages(region="board"))
    await Unmap(region="board")
    names = [region.name for region in await Regions() if region.mapped]
    await Unlink(region="board")
    return [ends, found, left, names, jailed > 0]


async def sharer(word):
    refused = await errno(Map(region="board", append=True))
    if refused:
        return refused
    await Append(text=f"{word} is known", region="board")
    return word
