"""From two velocities, with and without the condition, to the one that is followed (spec/audio.md §6.4, §6.5).

Everything is [B, 64, T], channels first: upstream's "over time" is the last dimension here, "over channels" the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS, TIME = 1, 2
NO_GUIDANCE = "none"
DEFAULT_GUIDANCE = "apg"

APG_MOMENTUM = -0.75
APG_THRESHOLD = 2.5
# Upstream writes 3.14, not pi.
ADG_ANGLE = 3.14 / 6
ADG_NORM_ANGLE = 3.14 / 3
ADG_LEAST_WEIGHT = 1e-3
TINY = 1e-10
# The host carries times in float32, where a bound of the interval such as 0.9 is not the same number.
TIME_TOLERANCE = 1e-6


class Guidance(Protocol):
    """A way to guide; an object of it may remember earlier steps and serves one sampling run."""

    def __call__(self, x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
        """The guided velocity at (x, t); all [B, 64, T]."""


def cfg(x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
    """Plain guidance: from the unconditioned velocity through the conditioned one and beyond; [B, 64, T]."""
    return v_null + scale * (v_cond - v_null)


class APG:
    """Adaptive projected guidance: only what is orthogonal to the condition, of bounded size, with negative momentum.

    The bound is on a norm over time, so it is tighter for long songs.
    """

    def __init__(self) -> None:
        self._average: Tensor | None = None

    def __call__(self, x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
        """The guided velocity [B, 64, T]; advances the momentum."""
        step = v_cond - v_null
        self._average = step if self._average is None else step + APG_MOMENTUM * self._average[: len(step)]
        norm = torch.linalg.vector_norm(self._average, dim=TIME, keepdim=True)  # [B, 64, 1]
        step = self._average * (APG_THRESHOLD / norm).clamp(max=1.0)
        return v_cond + (scale - 1.0) * _orthogonal(step, v_cond)


def _orthogonal(step: Tensor, v_cond: Tensor) -> Tensor:
    """The part of `step` that is orthogonal to `v_cond` over time, channel by channel; [B, 64, T].

    In float64, as upstream: it is a small difference of large numbers.
    """
    fine, direction = _double(step), F.normalize(_double(v_cond), dim=TIME)
    parallel = (fine * direction).sum(dim=TIME, keepdim=True) * direction
    return (fine - parallel).to(step.device, step.dtype)


def _double(x: Tensor) -> Tensor:
    """`x` in float64, on the CPU where its own device has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def adg(x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
    """Angle-based guidance: turns the estimate of the music, frame by frame, by at most 30 degrees; [B, 64, T]."""
    return _turned(x, t, (v_cond, v_null), scale, ADG_ANGLE)


def adg_wo_clip(x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
    """`adg` by any angle; [B, 64, T]."""
    return _turned(x, t, (v_cond, v_null), scale, None)


def adg_w_norm(x: Tensor, t: float, v_cond: Tensor, v_null: Tensor, scale: float) -> Tensor:
    """`adg` by at most 60 degrees; each channel keeps the norm over time that the conditioned estimate has."""
    return _turned(x, t, (v_cond, v_null), scale, ADG_NORM_ANGLE, keep_norm=True)


def _turned(
    x: Tensor, t: float, velocities: tuple[Tensor, Tensor], scale: float, most: float | None, keep_norm: bool = False
) -> Tensor:
    """Velocity [B, 64, T] towards the conditioned estimate, turned away from the unconditioned one.

    At t = 0 an estimate has no velocity, and plain guidance takes over, as upstream.
    """
    v_cond, v_null = velocities
    if t <= 0.0:
        return cfg(x, t, v_cond, v_null, scale)
    fine = _double(x)
    cond, null = fine - t * _double(v_cond), fine - t * _double(v_null)
    weight = max(scale - 1.0, 0.0) + ADG_LEAST_WEIGHT
    cosine = F.cosine_similarity(cond, null, dim=CHANNELS)[:, None]  # [B, 1, T]
    angle = cosine.clamp(-1.0 + 1e-6, 1.0 - 1e-6).acos()
    turn = weight * angle if most is None else (weight * angle).clamp(-most, most)
    away = cond - null
    away = away - null * (away * null).sum(CHANNELS, keepdim=True) / (null.square().sum(CHANNELS, keepdim=True) + 1e-8)
    # Upstream has a case for sines below 1e-3; its own clamp of the cosine leaves none below 1.4e-3.
    music = turn.cos() * cond + turn.sin() / angle.sin() * away
    if keep_norm:
        wanted, found = (torch.linalg.vector_norm(part, dim=TIME, keepdim=True) for part in (cond, music))
        music = music * wanted / found.clamp(min=TINY)
    velocity: Tensor = (fine - music) / t
    return velocity.to(x.device, v_cond.dtype)


def clamp_velocity(v: Tensor, x: Tensor, threshold: float) -> Tensor:
    """`v` [B, 64, T], item by item no longer than `threshold` times x [B, 64, T]."""
    size, room = (torch.linalg.vector_norm(part, dim=(CHANNELS, TIME), keepdim=True) + TINY for part in (v, x))
    shortened: Tensor = v * (threshold * room / size).clamp(max=1.0)
    return shortened


GUIDANCE: dict[str, Callable[[], Guidance]] = {
    "apg": APG,
    "cfg": lambda: cfg,
    "adg": lambda: adg,
    "adg_w_norm": lambda: adg_w_norm,
    "adg_wo_clip": lambda: adg_wo_clip,
}


class Guide:
    """Guidance, then clamp, then smoothing, for one sampling run: it remembers earlier steps, so make one a run.

    It works item by item; a call with fewer items than the one before goes on with the first of them.

    Args:
        kind: "none" or a name in GUIDANCE.
        scale: 1 leaves the conditioned velocity as it is.
        interval: guided where start <= t <= end.
        clamp: longest velocity as a multiple of x; 0 = any.
        ema: share of the previous velocity in the next, 0 = none of it.
    """

    def __init__(
        self, kind: str, scale: float, interval: tuple[float, float] = (0.0, 1.0), clamp: float = 0.0, ema: float = 0.0
    ) -> None:
        self._guidance: Guidance | None = None if kind == NO_GUIDANCE else GUIDANCE[kind]()
        # A corrector looks ahead from a step that has been guided already: momentum would act twice.
        self._corrector: Guidance | None = cfg if isinstance(self._guidance, APG) else self._guidance
        self._scale, self._interval, self._clamp, self._ema = scale, interval, clamp, ema
        self._previous: Tensor | None = None

    def needs_null(self, t: float) -> bool:
        """Whether `velocity` needs the unconditioned velocity at `t`."""
        start, end = self._interval
        return self._guidance is not None and start - TIME_TOLERANCE <= t <= end + TIME_TOLERANCE

    def velocity(
        self, x: Tensor, t: float, v_cond: Tensor, v_null: Tensor | None = None, corrector: bool = False
    ) -> Tensor:
        """The velocity to follow at (x, t).

        Args:
            x: [B, 64, T].
            t: time of x.
            v_cond, v_null: velocities with and without condition, [B, 64, T]; `v_null` is read where `needs_null(t)`.
            corrector: this is the second look of a step (Heun), at its far end.

        Raises:
            ValueError: where `v_null` is needed and missing.
        """
        v = self._guided(x, t, v_cond, v_null, corrector)
        if self._clamp > 0.0:
            v = clamp_velocity(v, x, self._clamp)
        return self._smoothed(v, corrector) if self._ema > 0.0 else v

    def _guided(self, x: Tensor, t: float, v_cond: Tensor, v_null: Tensor | None, corrector: bool) -> Tensor:
        guidance = self._corrector if corrector else self._guidance
        if guidance is None or not self.needs_null(t):
            return v_cond
        if v_null is None:
            raise ValueError(f"v_null: guidance at t = {t:g} needs the velocity without condition, got None")
        return guidance(x, t, v_cond, v_null, self._scale)

    def _smoothed(self, v: Tensor, corrector: bool) -> Tensor:
        """`v` blended with the velocity of the step before; after a corrector that is the mean of both looks."""
        before = None if self._previous is None else self._previous[: len(v)]
        if before is not None:
            v = (1.0 - self._ema) * v + self._ema * before
        self._previous = (before + v) / 2 if corrector and before is not None else v
        return v
