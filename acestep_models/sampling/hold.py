"""A part of some latents is held while the rest is sampled, with the numbers of ComfyUI's own noise masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .noise import noised
from .solvers import Velocity


@dataclass(frozen=True, eq=False)
class Held:
    """Latents of which a part stays.

    Attributes:
        latents: [B, 64, T], float32 on the CPU.
        mask: [1 or B, 1, T], 0 where they stay and 1 where they are sampled anew; between is a mixture of both.

    Raises:
        ValueError: for latents that are not finite, a mask of another shape, or numbers of it that are not in 0 to 1.
    """

    latents: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        bad = int((~self.latents.isfinite()).sum())
        if bad:
            raise ValueError(
                f"latent: {bad} of {self.latents.numel()} values are not finite numbers, and a held part would carry "
                "them into the new one; make the latent again"
            )
        count, frames = self.count, self.frames
        shape = list(self.mask.shape)
        if len(shape) != 3 or shape[0] not in (1, count) or shape[1:] != [1, frames]:
            raise ValueError(
                f"noise_mask: expected the shape [1 or {count}, 1, {frames}] for a latent of {count} song(s) and "
                f"{frames} frames, got {shape}; make it with SpanMask (masks for pictures do not fit)"
            )
        if not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            low, high = float(self.mask.min()), float(self.mask.max())
            raise ValueError(f"noise_mask: expected numbers of 0 (stays) to 1 (anew), got {low:g} to {high:g}")

    @property
    def count(self) -> int:
        """How many songs they are."""
        return len(self.latents)

    @property
    def frames(self) -> int:
        """Their length."""
        return self.latents.shape[-1]


class Hold:
    """What a run does at each look and at its end, so that the held part stays.

    Mirrors KSamplerX0Inpaint of the host: the decoder sees the held part at the noise of its time, and every
    estimate of the music is the held latents there.

    Args:
        held: what stays.
        noise: [B, 64, T] that the run starts from; its device is the run's.
    """

    def __init__(self, held: Held, noise: Tensor) -> None:
        self._clean, self._mask, self._noise = held.latents.to(noise), held.mask.to(noise), noise

    def velocity(self, inner: Velocity) -> Velocity:
        """`inner` for a song of which a part is held."""

        def velocity(x: Tensor, t: float, *, corrector: bool = False) -> Tensor:
            seen = x * self._mask + noised(self._noise, self._clean, t) * (1.0 - self._mask)
            music = seen - t * inner(seen, t, corrector=corrector)
            music = music * self._mask + self._clean * (1.0 - self._mask)
            return (x - music) / t

        return velocity

    def finish(self, x: Tensor) -> Tensor:
        """x [B, 64, T] with the held part bit by bit: the sum of its steps is that only up to rounding."""
        return torch.where(self._mask == 0.0, self._clean, x)
