"""Who pays for what the machine does: families and groups.

A family is a program with all that it starts: the processes below one that a shell, another client or init has spawned.
A group is a session: all families of one client, or of init. Nobody says so at `Spawn`; who spawns is enough. The
accounts are a policy's, and no more than that: a restart begins them anew, and when somebody runs is all that changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Each step of nice makes service dearer by a quarter, as in Linux: at nice 5 it costs three times what it does at 0.
DEARNESS = {nice: 1.25**nice for nice in range(-20, 20)}


@dataclass(slots=True, eq=False)
class Group:
    """A session: what shares the machine with other groups."""

    #: The pid that it began with, unique in a kernel.
    number: int = 0
    #: The service received, as the policy `clock` counts it; another policy begins anew.
    served: float = 0.0
    clock: object = None


@dataclass(slots=True, eq=False)
class Family:
    """A program and its descendants."""

    number: int = 0
    group: Group = field(default_factory=Group)
    #: The service received.
    served: float = 0.0


@dataclass(slots=True)
class Usage:
    """What the bursts of a program have come to so far."""

    bursts: int = 0
    tokens: int = 0
