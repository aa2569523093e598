"""The noise of a song, at its start and on its way; it depends on the seed alone, not on device, precision or batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..blueprint import MAX_SEED, Blueprint
from ..units import LATENT_CHANNELS


def song_noise(seed: int, frames: int) -> Tensor:
    """Standard normal noise [1, 64, frames], float32 on the CPU: ComfyUI's own noise for the same seed."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(1, LATENT_CHANNELS, frames, generator=generator)


def song_seeds(seed: int, blueprints: Sequence[Blueprint]) -> tuple[int, ...]:
    """One seed a song: its blueprint's own, else `seed` plus its place, modulo 2^64."""
    own = enumerate(blueprints)
    return tuple(b.seed if b.seed is not None else (seed + i) % (MAX_SEED + 1) for i, b in own)


def batch_noise(seeds: Sequence[int], frames: int) -> Tensor:
    """Noise [B, 64, frames], one seed an item."""
    return torch.cat([song_noise(seed, frames) for seed in seeds])


def step_noise(seeds: Sequence[int], step: int, frames: int) -> Tensor:
    """Fresh noise [B, 64, frames] for step `step` (from 0), one seed an item.

    Seed and step are hashed together: their sum would repeat the noise of the next song of a batch.
    """
    return batch_noise([_mixed(seed, step) for seed in seeds], frames)


def _mixed(seed: int, step: int) -> int:
    """A seed of 64 bits out of both numbers, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
