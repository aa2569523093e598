"""The latents of digital silence, which stand wherever there is no audio (spec/audio.md §3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..units import AUDIO_CHANNELS, HOP

HEAD = 8
PROBE_FRAMES = 25


@dataclass(frozen=True, eq=False)
class Silence:
    """frames [F, 64]; past their end they start again if `periodic`, else the last one stays.

    Raises:
        ValueError: no frames.
    """

    frames: Tensor
    periodic: bool = False

    def __post_init__(self) -> None:
        if self.frames.ndim != 2 or len(self.frames) == 0:
            raise ValueError(f"silence: expected frames [F, 64], got {list(self.frames.shape)}")

    def take(self, frames: int) -> Tensor:
        """The first `frames` frames [1, frames, 64]."""
        index = torch.arange(frames, device=self.frames.device)
        last = len(self.frames) - 1
        index = index % (last + 1) if self.periodic else index.clamp(max=last)
        return self.frames[index][None]


def silence_from_file(latents: Tensor) -> Silence:
    """The stored silence [1, 64, F] (`silence_latent.pt`, 600 s) as it is; longer songs repeat it, as upstream does.

    Raises:
        ValueError: another layout.
    """
    if latents.ndim != 3 or len(latents) != 1:
        raise ValueError(f"silence: expected a tensor [1, 64, frames], got {list(latents.shape)}")
    return Silence(latents[0].T.contiguous(), periodic=True)


def silence_from_vae(encode: Callable[[Tensor], Tensor]) -> Silence:
    """Silence for checkpoints that lack it: `encode` turns a wave [1, 2, N] into latent means [1, 64, T].

    The VAE sees 7 frames to each side, so of one second all frames from 7 to 17 are the same.
    """
    latents = encode(torch.zeros(1, AUDIO_CHANNELS, PROBE_FRAMES * HOP))  # [1, 64, 25]
    frames = latents[0].T  # [T, 64]
    steady = PROBE_FRAMES // 2
    return Silence(torch.cat([frames[:HEAD], frames[steady : steady + 1]]))
