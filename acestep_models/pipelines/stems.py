"""A mix taken apart: one track after the other, and what none of them holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime import Handle, PartRuntime, Runtime
from ..vae.oobleck import Oobleck
from .decode import decode
from .encode import ConditionerModels
from .generate import Decoder, Song, SongMeta, Take, follow, plan_steps
from .listen import Source
from .task import Work, encode_work, work_frames


@dataclass(frozen=True, eq=False)
class Stems:
    """Tracks of a mix, each exactly as long as the mix, float32 on the CPU.

    Attributes:
        names: of the tracks, in order.
        waveforms: [2, N] each; up to 1919 samples at the end, which fill no latent frame, are zero.
        residual: the mix minus the sum of them, [2, N].
        metas: how each came to be.
    """

    names: tuple[str, ...]
    waveforms: tuple[Tensor, ...]
    residual: Tensor
    metas: tuple[SongMeta, ...]


def separate_stems(
    runtime: Runtime,
    decoder: Decoder,
    conditioner: ConditionerModels,
    vae: Handle[Oobleck],
    take: Take,
    source: Source,
    tracks: tuple[str, ...],
) -> Stems:
    """Each of `tracks` out of the source, all from the same noise.

    Every network is placed once: all tracks are read, then sampled (one progress over all of them), then decoded.

    Raises:
        ValueError: for no track, an unknown one, more than one blueprint, or a variant that cannot do it.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    if not tracks or len(set(tracks)) < len(tracks):
        raise ValueError(f"tracks: expected at least one, each once, got {', '.join(tracks) or 'none'}")
    if len(take.blueprints) != 1:
        raise ValueError(f"blueprint: stems are of one song, got {len(take.blueprints)}")
    works = [Work("extract", source, (track,), reference=take.reference) for track in tracks]
    songs = _sample(runtime, decoder, conditioner, take, works)
    waveforms = tuple(_exact(decode(runtime, vae, song.latents)[0], source.samples) for song in songs)
    residual = (source.waveform[0].double() - torch.stack(waveforms).double().sum(0)).float()  # [2, N]
    return Stems(tracks, waveforms, residual, tuple(song.meta for song in songs))


def _sample(
    runtime: Runtime, decoder: Decoder, conditioner: ConditionerModels, take: Take, works: list[Work]
) -> list[Song]:
    schedules = [plan_steps(decoder, take, work) for work in works]
    frames = work_frames(take.blueprints, works[0])
    plans = [encode_work(runtime, conditioner, take.blueprints, work, frames) for work in works]
    songs = []
    for index, (work, planned) in enumerate(zip(works, zip(schedules, plans, strict=True), strict=True)):
        runtime.say(f"{', '.join(work.tracks)}: {index + 1} of {len(works)}")
        part = PartRuntime(runtime, index, len(works))
        songs.append(follow(part, decoder, take, work, planned))
    return songs


def _exact(wave: Tensor, samples: int) -> Tensor:
    """wave [2, 1920 · T] with zeros up to `samples`."""
    return F.pad(wave, (0, samples - wave.shape[-1]))
