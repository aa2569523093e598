"""A song that was just made as the source of the next edit."""

from __future__ import annotations

import math

from torch import Tensor

from ..errors import check_finite
from ..runtime import Handle, Runtime
from ..units import HOP, LATENT_CHANNELS, SAMPLE_RATE, frames_to_seconds
from ..vae.oobleck import Oobleck
from .decode import decode
from .listen import Source, check_sound, to_source


def latent_source(
    runtime: Runtime, vae: Handle[Oobleck], latents: Tensor, sound: tuple[Tensor, int] | None = None
) -> Source:
    """A finished song [1, 64, T] as a source, its latents as they are; encoded again they would be others.

    `sound` is its waveform [1, C, N] and sample rate, of T frames or up to 1919 samples more or less at 48 kHz, as
    it comes with a splice; without it the latents are decoded.

    Raises:
        ValueError: for more than one song, or sound of another length, too short, too long, silent or not finite.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    if len(latents) != 1:
        raise ValueError(f"latent: expected one song [1, {LATENT_CHANNELS}, frames], got {list(latents.shape)}")
    kept = latents.float().cpu()
    waveform, rate = (decode(runtime, vae, kept), SAMPLE_RATE) if sound is None else sound
    check_sound(waveform, rate)
    check_finite("sampler (latents of the source)", kept)
    wave = to_source(waveform, rate)
    frames, whole = kept.shape[-1], wave.shape[-1] / HOP
    if frames not in (math.floor(whole), math.ceil(whole)):
        raise ValueError(
            f"audio: the latent has {frames} frames ({frames_to_seconds(frames):g} s), the sound "
            f"{wave.shape[-1] / SAMPLE_RATE:g} s; connect the sound that was decoded from this latent, or none"
        )
    return Source(kept, wave)
