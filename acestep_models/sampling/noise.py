"""The noise of a song, at its start and on its way; it depends on the seed alone, not on device, precision or batch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..blueprint import MAX_SEED, Blueprint
from ..units import LATENT_CHANNELS


@dataclass(frozen=True)
class Retake:
    """Another seed, and how far a take turns from its own noise towards that one's.

    Attributes:
        seed: of the first song of the batch; song i has this + i, modulo 2^64, whatever its blueprint says.
        variance: 0 is the take itself, 1 is the take of the other seed.

    Raises:
        ValueError: for a value out of its range.
    """

    seed: int
    variance: float

    def seeds(self, count: int) -> tuple[int, ...]:
        """One a song of a batch of `count`."""
        return tuple((self.seed + i) % (MAX_SEED + 1) for i in range(count))

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"retake seed: expected 0 to {MAX_SEED}, got {self.seed}")
        if not 0.0 <= self.variance <= 1.0:
            raise ValueError(f"retake variance: expected 0 (the same song) to 1 (another one), got {self.variance:g}")


@dataclass(frozen=True)
class Noise:
    """All random numbers of a run.

    Attributes:
        seeds: one a song.
        retake: a second seed to turn to, at the start and at every step that draws.
    """

    seeds: tuple[int, ...]
    retake: Retake | None = None

    def start(self, frames: int) -> Tensor:
        """The noise [B, 64, frames] that a run begins with."""
        return self._turned(frames, lambda seed: seed)

    def step(self, index: int, frames: int) -> Tensor:
        """Fresh noise [B, 64, frames] for step `index`, from 0.

        Seed and step are hashed together: their sum would repeat the noise of the next song of a batch.
        """
        return self._turned(frames, lambda seed: _mixed(seed, index))

    def _turned(self, frames: int, derive: Callable[[int], int]) -> Tensor:
        noise = batch_noise([derive(seed) for seed in self.seeds], frames)
        if self.retake is None:
            return noise
        others = self.retake.seeds(len(self.seeds))
        turned = blend(noise, batch_noise([derive(seed) for seed in others], frames), self.retake.variance)
        # Noise turned towards itself stays; the formula, made for two independent ones, would make it louder.
        same = torch.tensor([seed == other for seed, other in zip(self.seeds, others, strict=True)])
        return torch.where(same[:, None, None], noise, turned)


def blend(noise: Tensor, other: Tensor, variance: float) -> Tensor:
    """cos(vπ/2)·noise + sin(vπ/2)·other, both [B, 64, T]: as loud as each of them (spec/audio.md §5.7).

    The cosine is written as a sine, which is exactly 0 at v = 1: both ends are one of the two, bit by bit.
    """
    return math.sin((1.0 - variance) * math.pi / 2) * noise + math.sin(variance * math.pi / 2) * other


def noised(noise: Tensor, music: Tensor, t: float) -> Tensor:
    """Where music [1 or B, 64, T] and noise [B, 64, T] meet at time t: t·noise + (1 - t)·music (spec/audio.md §5.6)."""
    return t * noise + (1.0 - t) * music


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


def _mixed(seed: int, step: int) -> int:
    """A seed of 64 bits out of both numbers, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
