"""The surroundings of a planner's run: as any node's, and a word at its beginning where the planner does not fit."""

from __future__ import annotations

import logging
from typing import Any

from ..acestep_models.planner.lm import LM, advice
from ..acestep_models.runtime import Handle
from .host.runtime import HostRuntime


class PlannerRuntime(HostRuntime):
    """Says once, before the slow part, what will happen and what to choose instead; `warning` keeps it."""

    def __init__(self, lm: LM) -> None:
        super().__init__()
        self.lm = lm
        self.warning = ""

    def place(self, handle: Handle[Any], reserve_bytes: int = 0) -> Any:
        """As everywhere, the planner as a whole if it can be; then look whether it is."""
        module = super().place(handle, reserve_bytes)
        if handle is self.lm.model:
            self.complete(handle, reserve_bytes)
            if not self.warning:
                self.warning = advice(self, self.lm)
                self.warn(self.warning)
        return module

    def warn(self, text: str) -> None:
        """Under the node and in the log at once; "" is no warning."""
        if text:
            self.say(text)
            logging.warning("ACE-Step 1.5: %s", text)

    def manner(self) -> tuple[str, ...]:
        """By whom and how fast it was written, and the warning if there was one."""
        return (f"planner: {self.lm.name}", self.last_words, self.warning)
