"""One loop for every task: it sees a velocity function, a start and times, and knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

from torch import Tensor

from ..errors import check_finite

Velocity = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]


class Solver(Protocol):
    """A way to follow velocities from t to t_next."""

    def __call__(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        """(x at t_next, estimate of the music at t); both [B, 64, T]."""


def euler(velocity: Velocity, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
    """One straight step x + (t_next - t)·v; at t_next = 0 it is the estimate of the music (spec/audio.md §6.1)."""
    v = velocity(x, t)
    return x + (t_next - t) * v, x - t * v


SOLVER_TABLE: dict[str, Solver] = {"euler": euler}


def sample(
    velocity: Velocity, x: Tensor, times: Sequence[float], solver: str = "euler", on_step: OnStep | None = None
) -> Tensor:
    """Follow the velocities through `times`, which fall to 0.

    Args:
        velocity: (x [B, 64, T], t) -> v [B, 64, T].
        x: the start at times[0], [B, 64, T].
        times: steps + 1 times.
        solver: a name in SOLVER_TABLE.
        on_step: called after each step with (steps done, estimate of the music, x); it may raise to stop.

    Returns:
        Latents [B, 64, T].

    Raises:
        ACEStepError: when the decoder answers with numbers that are not finite.
    """
    step = SOLVER_TABLE[solver]
    for index, (t, t_next) in enumerate(pairwise(times)):
        x, music = step(velocity, x, t, t_next)
        check_finite(f"decoder (DiT), step {index + 1} of {len(times) - 1}", x)
        if on_step is not None:
            on_step(index + 1, music, x)
    return x
