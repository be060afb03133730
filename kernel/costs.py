"""What the work of a machine costs: data that a machine brings, measured at load, and that switches are weighed by.

A context that loses its lane keeps its frames; that costs nothing. If it loses those too, they are brought back from
the swap file, or computed again, whichever is cheaper. Decisions count in these costs and never in wall time, so that a
schedule can be repeated.
"""

from __future__ import annotations

from typing import NamedTuple


class Costs(NamedTuple):
    """Microseconds of the machine's time."""

    #: A tick with one row of one token.
    tick: float = 15_000
    #: Each token more in a tick.
    token: float = 1_400
    #: One frame from memory to the swap file, or back.
    frame: float = 300

    def of(self, fed: int, moved: int) -> float:
        """Price a tick that feeds so many tokens and moves so many frames out or in."""
        return self.tick + (fed - 1) * self.token + moved * self.frame

    def recompute(self, tokens: int) -> float:
        """Price computing so many tokens again."""
        return tokens * self.token

    def swap(self, frames: int) -> float:
        """Price moving so many frames out and back."""
        return 2 * frames * self.frame
