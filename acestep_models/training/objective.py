"""What the decoder is trained to say: x_t = t * eps + (1 - t) * x0, velocity eps - x0 (spec/lora.md §0, §1.5)."""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHTINGS = ("none", "min-snr")
SNR_LIMIT = 5.0


def noisy(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Latents x0 [B, T, C] on the way to the noise eps [B, T, C] at the times t [B] -> [B, T, C]."""
    t = t[:, None, None]  # [B, 1, 1]
    return t * eps + (1 - t) * x0


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """The target: eps - x0 [B, T, C]."""
    return eps - x0


def clean(x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """The song behind x_t [B, T, C] at the times t [B] if the velocity is v [B, T, C] -> [B, T, C]."""
    return x_t - t[:, None, None] * v


def item_losses(v: Tensor, target: Tensor, frames_mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each item over its own frames: v, target [B, T, C] -> [B], fp32.

    `frames_mask` [B, T] bool: False is padding, which counts neither as error nor as length.

    Raises:
        ValueError: if an item has no frame at all.
    """
    error = (v.float() - target.float()).square().mean(dim=-1)  # [B, T]
    if frames_mask is None:
        return error.mean(dim=1)
    lengths = frames_mask.sum(dim=1)  # [B]
    if not bool(lengths.all()):
        raise ValueError(f"frames_mask: item {int(lengths.argmin())} of the batch has no frame that counts")
    return torch.where(frames_mask, error, 0.0).sum(dim=1) / lengths


def weight(t: Tensor, weighting: str) -> Tensor:
    """How much an item at the time t [B] counts -> [B]. "min-snr" is min(snr, 5) / snr with snr = ((1 - t) / t)^2: the
    cleaner times count less (spec/lora.md §2.5).

    Raises:
        ValueError: for a weighting that there is not.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: expected one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    if weighting == "none":
        return torch.ones_like(t)
    noise_to_signal = (t / (1 - t)).square()  # 1 / snr; infinite at t = 1, where the weight is 1
    return torch.clamp(SNR_LIMIT * noise_to_signal, max=1.0)
