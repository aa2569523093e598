"""Fading in and out (spec/audio.md §7.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def fade(wave: Tensor, sample_rate: int, fade_in: float = 0.0, fade_out: float = 0.0) -> Tensor:
    """A copy of `wave` [..., N] with straight ramps of `fade_in` and `fade_out` seconds, each at most its length."""
    faded = wave.clone()
    rise, fall = (min(int(seconds * sample_rate), wave.shape[-1]) for seconds in (fade_in, fade_out))
    if rise:
        faded[..., :rise] *= torch.linspace(0.0, 1.0, rise, device=wave.device)
    if fall:
        faded[..., -fall:] *= torch.linspace(1.0, 0.0, fall, device=wave.device)
    return faded
