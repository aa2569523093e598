"""One loop for every task: it sees a velocity function, a start and a schedule, and knows nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from torch import Tensor

from ..errors import check_finite
from .noise import Noise
from .schedule import Schedule
from .solvers import SOLVERS, Velocity

OnStep = Callable[[int, Tensor, Tensor], None]
PostStep = Callable[[int, float, Tensor], Tensor]


def sample(
    velocity: Velocity,
    x: Tensor,
    schedule: Schedule,
    noise: Noise,
    on_step: OnStep | None = None,
    post_step: PostStep | None = None,
) -> Tensor:
    """Follow the velocities through the schedule's times, which fall to 0.

    Args:
        velocity: (x [B, 64, T], t) -> v [B, 64, T], guided already.
        x: the start at the first time, [B, 64, T].
        schedule: times, solver and correction.
        noise: of each item, for solvers that draw some at every step.
        on_step: called after each step with (steps done, estimate of the music, x); it may raise to stop.
        post_step: (index of the step from 0, the time it led to, x) -> x to go on with, after every correction and
            before `on_step` (spec/audio.md §6.5).

    Returns:
        Latents [B, 64, T].

    Raises:
        ValueError: for another number of seeds than of items.
        ACEStepError: when the decoder answers with numbers that are not finite.
    """
    if len(noise.seeds) != x.shape[0]:
        raise ValueError(f"seeds: expected one for each of {x.shape[0]} items, got {len(noise.seeds)}")
    step = SOLVERS[schedule.solver]
    for index, (t, t_next) in enumerate(pairwise(schedule.times)):
        x, music = step(velocity, x, t, t_next, partial(noise.step, index, x.shape[-1]))
        if schedule.dcw is not None:
            x = schedule.dcw.post_step(x, music, t)
        if post_step is not None:
            x = post_step(index, t_next, x)
        check_finite(f"decoder (DiT), step {index + 1} of {schedule.steps}", x)
        if on_step is not None:
            on_step(index + 1, music, x)
    return x
