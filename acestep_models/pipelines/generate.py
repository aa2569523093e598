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

    def run(self, runtime: Runtime, batch: ConditionBatch, noise: Tensor, schedule: Schedule, solve: Solve) -> Tensor:
        """Latents [B, 64, T], float32 on the CPU.

        Calls `solve(velocity, x, on_step)` once, with velocities out of a guide of its own (`schedule.guide()`), x
        [B, 64, T] the noise at the first time and `on_step` reporting progress and watching for a cancel.
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

    def run(self, runtime: Runtime, batch: ConditionBatch, noise: Tensor, schedule: Schedule, solve: Solve) -> Tensor:
        """See `Decoder.run`."""
        guide, rows = schedule.guide(), _guided_rows(batch) if schedule.guided else batch
        reserve = activation_bytes(
            self.handle.module.config, len(rows.tokens), noise.shape[-1], rows.tokens.shape[1], self.handle.dtype
        )
        dit = runtime.place(self.handle, reserve)
        network = _Network(dit, _placed(rows, runtime.device(self.handle), self.handle.dtype))

        def velocity(x: Tensor, t: float, *, corrector: bool = False) -> Tensor:
            if not guide.needs_null(t):
                return guide.velocity(x, t, network(x, t), corrector=corrector)
            cond, null = network(torch.cat([x, x]), t).chunk(2)
            return guide.velocity(x, t, cond, null, corrector)

        def on_step(done: int, music: Tensor, x: Tensor) -> None:
            runtime.progress(done, schedule.steps)
            runtime.check_cancelled()

        with torch.inference_mode():
            return solve(velocity, noise.to(network.rows.tokens.device), on_step).cpu()


def _guided_rows(batch: ConditionBatch) -> ConditionBatch:
    """The songs, then each of them once more with the null token in every place: 2·B rows."""
    null = batch.null.expand_as(batch.tokens)
    mask = None if batch.mask is None else batch.mask.repeat(2, 1)
    return ConditionBatch(torch.cat([batch.tokens, null]), mask, batch.context.repeat(2, 1, 1), batch.null)


def _placed(rows: ConditionBatch, device: torch.device, dtype: torch.dtype) -> ConditionBatch:
    mask = None if rows.mask is None else rows.mask.to(device)
    return ConditionBatch(rows.tokens.to(device, dtype), mask, rows.context.to(device, dtype), rows.null)


@dataclass(frozen=True, eq=False)
class _Network:
    """The network and what its rows read; called with fewer rows, it reads the first of them."""

    dit: DiT
    rows: ConditionBatch

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Raw velocity [B, 64, T], float32, at x [B, 64, T]."""
        count, rows = len(x), self.rows
        time = torch.full((count,), t, device=x.device)
        mask = None if rows.mask is None else rows.mask[:count]
        hidden = x.transpose(1, 2).to(rows.tokens.dtype)  # [B, T, 64]
        v: Tensor = self.dit(hidden, rows.context[:count], rows.tokens[:count], time, token_mask=mask)  # [B, T, 64]
        return v.transpose(1, 2).float()  # [B, 64, T]


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
        return sample(velocity, x, schedule, seeds, on_step)

    latents = decoder.run(runtime, batch, batch_noise(seeds, frames), schedule, solve)
    return Song(latents, SongMeta(tuple(blueprints), seeds, frames, schedule))
