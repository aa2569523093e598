"""Parts of a song that stay while the rest is made: what is put back after a step (spec/audio.md §5.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .noise import noised


@dataclass(eq=False)
class Injection:
    """Puts the kept part back, as noisy as the step has left everything else: a `post_step` of the loop.

    Attributes:
        mask: [1, 1, T], True where something new is made.
        clean: what is kept, [1, 64, T].
        noise: that the run began with, [B, 64, T].
        steps: so many of the first steps do it.
    """

    mask: Tensor
    clean: Tensor
    noise: Tensor
    steps: int

    def __call__(self, index: int, t_next: float, x: Tensor) -> Tensor:
        """x [B, 64, T] after step `index`, which led to time `t_next`."""
        if index >= self.steps:
            return x
        # To the device of the run once: `to` gives back what lies there already.
        self.mask, self.clean, self.noise = self.mask.to(x.device), self.clean.to(x), self.noise.to(x)
        return torch.where(self.mask, x, noised(self.noise, self.clean, t_next))


def injected_steps(share: float, steps: int, distilled: bool) -> int:
    """How many of the first steps inject: share · steps, a half to the even number; never a turbo model's last one.

    Upstream's turbo decoder leaves its loop before the last step would (spec/audio.md §5.4).
    """
    return min(round(share * steps), steps - 1 if distilled else steps)
