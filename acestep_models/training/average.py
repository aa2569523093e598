"""A running average of the adapter's parameters: smoother than the last step (spec/lora.md §2.5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EMA:
    """average <- decay * average + (1 - decay) * parameters, in fp32 on the parameters' device.

    Early on the decay is smaller, (1 + n) / (10 + n) at update n, so that the start does not linger.
    """

    def __init__(self, decay: float, named: Mapping[str, Tensor]) -> None:
        if not (0 < decay < 1):
            raise ValueError(f"ema: expected a decay between 0 and 1, got {decay}")
        self.decay = decay
        self.values = {name: tensor.detach().float().clone() for name, tensor in named.items()}

    @torch.no_grad()
    def update(self, named: Mapping[str, Tensor], step: int) -> None:
        """Take in the parameters after `step` (0 is the first)."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(named[name].detach().to(value), 1 - keep)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Go on from saved averages.

        Raises:
            ValueError: if they are of other parameters.
        """
        if values.keys() != self.values.keys():
            odd = sorted(values.keys() ^ self.values.keys())
            raise ValueError(f"the saved averages are of other parameters: {odd[0]} and {len(odd) - 1} more differ")
        for name, value in self.values.items():
            value.copy_(values[name])
