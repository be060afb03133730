"""The time of day, which a model cannot know.

`now` is pure although it never gives the same twice: a second run changes nothing, and of a call that a crash cut off
nobody has seen the first answer. To wait is a system call, `Sleep`, and not here.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from tokix.drivers.base import Driver, op
from tokix.syscalls import Value


class Time(Value):
    """A moment, said in three ways."""

    #: ISO 8601, to the second.
    utc: str
    weekday: str
    #: Seconds since 1970.
    epoch: float


class Clock(Driver):
    """A clock."""

    @op(effect="pure", inline=True)
    def now(self) -> Time:
        """Tell date, time and weekday in UTC, and the seconds since 1970."""
        moment = datetime.fromtimestamp(time.time(), UTC)
        return Time(
            utc=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            weekday=_WEEKDAYS[moment.weekday()],  # not %A, which speaks the language of the host
            epoch=round(moment.timestamp(), 3),
        )


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
