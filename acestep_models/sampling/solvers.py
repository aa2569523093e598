"""Ways to follow velocities from one time to the next: one row each (spec/audio.md §6.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Draw = Callable[[], Tensor]


class Velocity(Protocol):
    """What the decoder answers."""

    def __call__(self, x: Tensor, t: float, *, corrector: bool = False) -> Tensor:
        """Velocity [B, 64, T] at x [B, 64, T] and t; `corrector` marks a second look within one step."""


class Solver(Protocol):
    """A way to follow velocities from t to t_next."""

    def __call__(self, velocity: Velocity, x: Tensor, t: float, t_next: float, draw: Draw) -> tuple[Tensor, Tensor]:
        """(x at t_next, estimate of the music at t); both [B, 64, T]. `draw` gives this step's noise [B, 64, T]."""


def euler(velocity: Velocity, x: Tensor, t: float, t_next: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """One straight step x + (t_next - t)·v; at t_next = 0 it is the estimate of the music (spec/audio.md §6.1)."""
    v = velocity(x, t)
    return x + (t_next - t) * v, x - t * v


def heun(velocity: Velocity, x: Tensor, t: float, t_next: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """A step along the mean of the velocities at both of its ends, two calls; the last step takes one.

    Upstream's base model looks ahead to t = 0 too; there the host's models cannot be asked, and turbo is not.
    The estimate of the music is that of the first look.
    """
    if t_next <= 0.0:
        return euler(velocity, x, t, t_next, draw)
    v = velocity(x, t)
    ahead = velocity(x + (t_next - t) * v, t_next, corrector=True)
    return x + (t_next - t) * (v + ahead) / 2, x - t * v


def sde(velocity: Velocity, x: Tensor, t: float, t_next: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """To the estimate of the music, and back to t_next with fresh noise.

    Upstream's base model goes back to an unshifted time, which is not the one it is asked at next (spec/audio.md §8
    row 18); this is the schedule's own.
    """
    music = x - t * velocity(x, t)
    if t_next <= 0.0:
        return music, music
    return t_next * draw().to(x) + (1.0 - t_next) * music, music


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "sde": sde}
