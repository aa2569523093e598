"""A song from a blueprint: encode, draw noise, follow the decoder from noise to latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..blueprint import Blueprint
from ..dit.config import activation_bytes
from ..dit.transformer import DiT
from ..runtime import Handle, Runtime
from ..sampling.loop import OnStep, sample
from ..sampling.noise import batch_noise, song_seeds
from ..sampling.schedule import SamplingOptions, Schedule, resolve
from ..sampling.solvers import Velocity
from ..tasks import Variant
from .encode import ConditionBatch, ConditionerModels, encode_songs, song_frames

Solve = Callable[[Velocity, Tensor, OnStep], Tensor]


class Decoder(Protocol):
    """A diffusion transformer and how to run it: plain, or through ComfyUI's sampling machinery."""

    @property
    def variant(self) -> Variant:
        """What it was trained for."""

    @property
    def shift(self) -> float:
        """The shift that the model carries."""

    def run(
        self, runtime: Runtime, batch: ConditionBatch, noise: Tensor, times: Sequence[float], solve: Solve
    ) -> Tensor:
        """Latents [B, 64, T], float32 on the CPU.

        Calls `solve(velocity, x, on_step)` once, with x [B, 64, T] the noise at times[0] and `on_step` reporting
        progress and watching for a cancel.
        """


@dataclass(frozen=True)
class SongMeta:
    """How latents came to be; advisory: whoever reads it compares `frames` with the latents first."""

    blueprints: tuple[Blueprint, ...]
    seeds: tuple[int, ...]
    frames: int
    schedule: Schedule


@dataclass(frozen=True, eq=False)
class Song:
    """Latents [B, 64, T] (float32, CPU) and their history."""

    latents: Tensor
    meta: SongMeta


@dataclass(frozen=True, eq=False)
class PlainDecoder:
    """A decoder without a host: every velocity is one call of the network."""

    handle: Handle[DiT]
    variant: Variant
    shift: float

    def run(
        self, runtime: Runtime, batch: ConditionBatch, noise: Tensor, times: Sequence[float], solve: Solve
    ) -> Tensor:
        """See `Decoder.run`."""
        songs, frames = noise.shape[0], noise.shape[-1]
        reserve = activation_bytes(self.handle.module.config, songs, frames, batch.tokens.shape[1], self.handle.dtype)
        dit = runtime.place(self.handle, reserve)
        device, dtype = runtime.device(self.handle), self.handle.dtype
        tokens, context = batch.tokens.to(device, dtype), batch.context.to(device, dtype)
        mask = None if batch.mask is None else batch.mask.to(device)

        def velocity(x: Tensor, t: float) -> Tensor:
            time = torch.full((songs,), t, device=device)
            v: Tensor = dit(x.transpose(1, 2).to(dtype), context, tokens, time, token_mask=mask)  # [B, T, 64]
            return v.transpose(1, 2).float()  # [B, 64, T]

        def on_step(done: int, music: Tensor, x: Tensor) -> None:
            runtime.progress(done, len(times) - 1)
            runtime.check_cancelled()

        with torch.inference_mode():
            return solve(velocity, noise.to(device), on_step).cpu()


def generate(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    blueprints: Sequence[Blueprint],
    options: SamplingOptions,
    seed: int,
) -> Song:
    """Text to music for a batch of 1 to 8 songs of one length; song i draws its noise from `seed` + i, or its own seed.

    Raises:
        ValueError: for blueprints or options that cannot be sampled.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    frames = song_frames(blueprints)
    schedule = resolve(options, decoder.variant, decoder.shift)
    seeds = song_seeds(seed, blueprints)
    batch = encode_songs(runtime, conditioner, blueprints, frames)

    def solve(velocity: Velocity, x: Tensor, on_step: OnStep) -> Tensor:
        return sample(velocity, x, schedule.times, schedule.solver, on_step)

    latents = decoder.run(runtime, batch, batch_noise(seeds, frames), schedule.times, solve)
    return Song(latents, SongMeta(tuple(blueprints), seeds, frames, schedule))
