"""Flow edit: latents follow the difference between what two texts want of them (spec/audio.md §5.7)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import check_finite
from .loop import OnStep
from .noise import Noise, noised
from .schedule import Schedule
from .solvers import Velocity


@dataclass(frozen=True)
class FlowEdit:
    """Which steps are edited, and with what noise.

    Attributes:
        first: place of the schedule's first step among all steps, from 0; only the noise depends on it.
        steps: how many steps of the schedule, from its first on, follow the difference; the others the target alone.
        averaging: how many draws of noise each of them takes the mean over.
        noise: of each song.
    """

    first: int
    steps: int
    averaging: int
    noise: Noise

    def draw(self, index: int, place: int, like: Tensor) -> Tensor:
        """Noise [B, 64, T] of draw `place` of step `index` of the schedule, where `like` [B, 64, T] is."""
        number = (self.first + index) * self.averaging + place
        return self.noise.step(number, like.shape[-1]).to(like)

    def difference(self, velocity: Velocity, z: Tensor, source: Tensor, t: float, index: int) -> Tensor:
        """What the target wants of `z` beyond what the source's text wants of the source; all [B, 64, T]."""
        total = torch.zeros_like(z)
        for place in range(self.averaging):
            seen = noised(self.draw(index, place, source), source, t)
            # z - source first: while both are one, so are the two halves, bit by bit.
            wanted, had = velocity(torch.cat([seen + (z - source), seen]), t).chunk(2)
            total = total + (wanted - had)
        return total / self.averaging


def flow_edit(
    velocity: Velocity, source: Tensor, schedule: Schedule, edit: FlowEdit, on_step: OnStep | None = None
) -> Tensor:
    """`source` [B, 64, T], moved from what its own text describes to what another one does.

    While steps are edited, z moves along the difference; then noise is put on it once, and Euler's steps follow the
    target to music.

    Args:
        velocity: asked with [target; source] of 2·B items at edited steps, with B items of the target after them.
        source: clean latents.
        schedule: times from the first edited step on.
        edit: what is edited.
        on_step: as in `loop.sample`.

    Raises:
        ACEStepError: when the decoder answers with numbers that are not finite.
    """
    x = source
    for index, (t, t_next) in enumerate(pairwise(schedule.times)):
        if index == edit.steps:
            x = noised(edit.draw(index, 0, source), source, t) + (x - source)
        if index < edit.steps:
            x = music = x + (t_next - t) * edit.difference(velocity, x, source, t, index)
        else:
            v = velocity(x, t)
            x, music = x + (t_next - t) * v, x - t * v
        check_finite(f"decoder (DiT), step {index + 1} of {schedule.steps}", x)
        if on_step is not None:
            on_step(index + 1, music, x)
    return x
