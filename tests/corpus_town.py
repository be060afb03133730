"""The outside of the corpus: devices of each effect class, a person, and what is typed."""

from collections import Counter

from tokix.sim import Person, World
from tokix.syscalls import (
    EINVAL,
    ENOENT,
    Count,
    DeviceInfo,
    OpInfo,
    Pages,
    Spawn,
    Think,
    Wait,
)


def _op(name, effect):
    return OpInfo(name=name, doc="", effect=effect, parameters={})


class Town(World):
    """`web` honours keys, `bank` does not; `web` is down for one address."""

    devices = (
        DeviceInfo(name="web", ops=[_op("get", "idempotent")]),
        DeviceInfo(name="bank", ops=[_op("pay", "unsafe"), _op("seen", "pure")]),
    )

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.answers, self.runs = {}, Counter()

    def invoke(self, effect):
        self.runs[effect.key] += 1
        match effect.device, effect.op, effect.args:
            case "web", "get", {"url": "broken"}:
                raise ENOENT("no such page")
            case "web", "get", {"url": url}:
                return self.answers.setdefault(effect.key, f"page of {url}")
            case "bank", "pay", {"bill": bill}:
                self.runs[bill] += 1
                return "paid"
            case "bank", "seen", {"key": key}:
                return self.runs[key] > 0
        raise EINVAL(str(effect.args))


def town():
    worker = Spawn(program="worker2", args=["from outside"])
    calls = [Count(text="abc"), worker, Wait(pid=-1), Think(prompt="I"), Pages()]
    return Town(lines=("first line\n", "second line\n"), person=Person(calls))
