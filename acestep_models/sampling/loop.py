"""One loop for every task: it sees a velocity function, a start and times, and knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from ..errors import check_finite
from .solvers import SOLVERS, Velocity

OnStep = Callable[[int, Tensor, Tensor], None]


def sample(
    velocity: Velocity, x: Tensor, times: Sequence[float], solver: str = "euler", on_step: OnStep | None = None
) -> Tensor:
    """Follow the velocities through `times`, which fall to 0.

    Args:
        velocity: (x [B, 64, T], t) -> v [B, 64, T].
        x: the start at times[0], [B, 64, T].
        times: steps + 1 times.
        solver: a name in SOLVERS.
        on_step: called after each step with (steps done, estimate of the music, x); it may raise to stop.

    Returns:
        Latents [B, 64, T].

    Raises:
        ACEStepError: when the decoder answers with numbers that are not finite.
    """
    step = SOLVERS[solver]
    for index, (t, t_next) in enumerate(pairwise(times)):
        x, music = step(velocity, x, t, t_next)
        check_finite(f"decoder (DiT), step {index + 1} of {len(times) - 1}", x)
        if on_step is not None:
            on_step(index + 1, music, x)
    return x
