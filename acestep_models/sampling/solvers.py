"""Ways to follow velocities from one time to the next: one row each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]


class Solver(Protocol):
    """A way to follow velocities from t to t_next."""

    def __call__(self, velocity: Velocity, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
        """(x at t_next, estimate of the music at t); both [B, 64, T]."""


def euler(velocity: Velocity, x: Tensor, t: float, t_next: float) -> tuple[Tensor, Tensor]:
    """One straight step x + (t_next - t)·v; at t_next = 0 it is the estimate of the music (spec/audio.md §6.1)."""
    v = velocity(x, t)
    return x + (t_next - t) * v, x - t * v


SOLVERS: dict[str, Solver] = {"euler": euler}
