"""How far a run is, how fast, and how long it will take; the place where a run hears Cancel."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..runtime import Runtime

INTERVAL_SECONDS = 0.5


class Pace:
    """Counts the tokens of `songs` songs that are written side by side, `total` at most in each.

    `open_end`: a song may well end long before, so no time left is told.
    """

    def __init__(
        self,
        runtime: Runtime,
        what: str,
        total: int,
        songs: int = 1,
        clock: Callable[[], float] = time.monotonic,
        *,
        open_end: bool = False,
    ) -> None:
        self._runtime, self._what, self._total, self._songs, self._clock = runtime, what, total, songs, clock
        self._open_end = open_end
        self._start = self._spoken = clock()

    def step(self, done: int) -> None:
        """`done` tokens of each song are written. Raises the runtime's own cancel exception."""
        self._runtime.check_cancelled()
        self._runtime.progress(done, self._total)
        now = self._clock()
        if now - self._spoken >= INTERVAL_SECONDS:
            self._spoken = now
            left = (self._total - done) / done * (now - self._start)
            self._runtime.say(self._words(done) + ("" if self._open_end else f", {duration(left)} left"))

    def finish(self, done: int) -> None:
        """Nothing comes after `done` tokens, wherever the total lies."""
        self._runtime.progress(self._total, self._total)
        self._runtime.say(self._words(done))

    def _words(self, done: int) -> str:
        rate = done * self._songs / max(self._clock() - self._start, 1e-6)
        of = "" if self._open_end else f" of {self._total}"
        each = f" in each of {self._songs} songs" if self._songs > 1 else ""
        return f"{self._what} {done}{of}{each}, {_rounded(rate)} tokens/s"


def _rounded(rate: float) -> str:
    """Three digits, never an exponent."""
    return f"{rate:.3g}" if rate < 1000 else f"{rate:.0f}"


def duration(seconds: float) -> str:
    """Seconds for people: "32 s", "3 min 05 s"."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
