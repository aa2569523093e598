"""The largest memory that a piece of work needed beyond what was there before it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

import torch

PAGE = 4096


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Peak:
    """`with Peak(device) as peak: ...` -> peak.growth in bytes, peak.seconds.

    On a card what torch allocated; on the CPU resident memory, looked at every 2 ms.
    """

    growth = 0
    seconds = 0.0

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            self._before = resident_bytes()
            self._watch.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.growth = torch.cuda.max_memory_allocated() - self._before
        else:
            self._done.set()
            self._watch.join()
        self.seconds = time.perf_counter() - self._start

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.growth = max(self.growth, resident_bytes() - self._before)
