"""Processes that share the work of a run: every one draws other songs of a step, and gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

# Processes wait so long for each other: the first one prepares all songs while the others wait for it.
PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class Workers:
    """Process `rank` of `count`; `state` is accelerate's, None where there is one process."""

    rank: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def single(cls) -> Workers:
        """One process that does everything."""
        return cls()

    @classmethod
    def accelerated(cls, cpu: bool = False) -> Workers:
        """The processes that `accelerate launch` started; one, where it did not.

        Args:
            cpu: compute on the CPU although there is a card.

        Raises:
            ValueError: if accelerate is not installed.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ValueError("training in several processes needs accelerate: pip install accelerate") from error
        state = PartialState(cpu=cpu, timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, state)

    @property
    def main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    @property
    def device(self) -> torch.device | None:
        """The device that accelerate gave this process."""
        return None if self.state is None else torch.device(self.state.device)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in each of them; the tensor itself where there is one."""
        if self.count == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Tensor = reduce(tensor, "sum")
        return summed

    def each(self, value: int, device: torch.device) -> list[int]:
        """The value of every process, by rank."""
        values = torch.zeros(self.count, dtype=torch.int64, device=device)
        values[self.rank] = value
        return [int(one) for one in self.sum(values).tolist()]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            self.state.wait_for_everyone()


def several_processes(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several (torchrun's and accelerate's variables)."""
    return int(environment.get("WORLD_SIZE", "1")) > 1
