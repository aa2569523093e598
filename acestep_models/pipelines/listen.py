"""Sound to latents, and latents to the codes that stand for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..audio.stereo import to_rate, to_stereo
from ..dit.config import codes_bytes
from ..errors import check_finite
from ..runtime import Handle, Runtime
from ..units import FRAMES_PER_CODE, HOP, LATENT_CHANNELS, MAX_SECONDS, SAMPLE_RATE
from ..vae.oobleck import Oobleck
from ..vae.room import ENCODING, prepare
from ..vae.tiling import TILE, posterior_tiled
from .encode import ConditionerModels

MIN_SOURCE_SECONDS = 1.0
SILENT = 1e-6  # upstream's limit: whatever stays below it is no sound
SMALL_TILE = 128


@dataclass(frozen=True, eq=False)
class Source:
    """A sound to work on.

    Attributes:
        latents: [1, 64, T], float32 on the CPU, T = samples // 1920; one more where latents that were sampled hold the
            last samples too.
        waveform: [1, 2, N] at 48 kHz, float32 on the CPU; what came in as 48 kHz stereo is here bit by bit.
    """

    latents: Tensor
    waveform: Tensor

    @property
    def samples(self) -> int:
        """Its exact length at 48 kHz."""
        return self.waveform.shape[-1]

    @property
    def seconds(self) -> float:
        """Its exact length."""
        return self.samples / SAMPLE_RATE

    @property
    def codes(self) -> int:
        """How many codes stand for it; the last one is filled up with silence."""
        return -(-self.latents.shape[-1] // FRAMES_PER_CODE)


def encode_source(
    runtime: Runtime,
    vae: Handle[Oobleck],
    waveform: Tensor,
    sample_rate: int,
    tile: int | None = TILE,
    seed: int | None = None,
) -> Source:
    """One sound [1, C, N] of 1 to 600 s, any rate, 1 to 8 channels, as latents of the VAE.

    `tile` is the most latent frames that are encoded at once, fewer where memory is short; None takes the sound whole,
    which needs memory for all of it. The latents are the same but for the last bits of a number.
    `seed` None takes the means; a number draws from what the VAE thinks likely, mean + std · noise (spec/audio.md §3),
    the same for the same number whatever the tile.

    Raises:
        ValueError: for sound that is too short, too long, silent, not finite, or more than one.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    check_sound(waveform, sample_rate)
    wave = to_source(waveform, sample_rate)
    frames = wave.shape[-1] // HOP
    network, work = prepare(runtime, vae, ENCODING, frames, tile)
    with torch.inference_mode():
        mean, std = posterior_tiled(network, wave, work)
    return Source(mean if seed is None else mean + std * posterior_noise(seed, frames), wave)


def posterior_noise(seed: int, frames: int) -> Tensor:
    """Standard normal noise [1, 64, frames], float32 on the CPU.

    The second half of what the seed gives: the first is the noise that a song of this seed starts from, and start
    noise would mix a thing with itself.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(2, LATENT_CHANNELS, frames, generator=generator)[1:]


def to_source(waveform: Tensor, sample_rate: int) -> Tensor:
    """waveform [B, C, N] at any rate -> [B, 2, N'] at 48 kHz, float32 on the CPU.

    Raises:
        ValueError: for more than 8 channels.
    """
    return to_rate(to_stereo(waveform.float().cpu()), sample_rate)  # [B, 2, N']


def check_sound(waveform: Tensor, sample_rate: int, name: str = "audio") -> None:
    """Whether there is one sound [1, C, N] to hear; `name` is what it is called in an error.

    Raises:
        ValueError: for sound that is too short, too long, silent, not finite, or more than one.
    """
    if waveform.ndim != 3 or len(waveform) != 1 or not waveform.numel():
        raise ValueError(
            f"{name}: expected one sound [1, channels, samples], got {list(waveform.shape)}; take one out of the batch"
        )
    seconds = waveform.shape[-1] / sample_rate
    if not MIN_SOURCE_SECONDS <= seconds <= MAX_SECONDS:
        advice = "cut a part out of it" if seconds > MAX_SECONDS else "give a longer one"
        raise ValueError(
            f"{name}: expected {MIN_SOURCE_SECONDS:g} to {MAX_SECONDS:g} seconds of sound, got {seconds:.10g}; {advice}"
        )
    bad = int((~waveform.isfinite()).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {waveform.numel()} samples are not finite numbers; load or make it again")
    if float(waveform.abs().max()) < SILENT:
        raise ValueError(
            f"{name}: {seconds:g} seconds of silence; there is nothing to hear in it, connect another sound"
        )


def source_codes(runtime: Runtime, models: ConditionerModels, source: Source) -> tuple[int, ...]:
    """The codes of a sound, one each 0.2 s, as upstream counts them (spec/audio.md §2.5).

    The last group of five frames is filled up with the first frames of silence.

    Raises:
        ACEStepError: when the tokenizer answers with numbers that are not finite.
    """
    runtime.check_cancelled()
    frames = source.latents.shape[-1]
    handle = models.code_tokenizer
    tokenizer = runtime.place(handle, codes_bytes(models.config, 1, frames, handle.dtype))
    device, dtype = runtime.device(handle), handle.dtype
    latents = source.latents.transpose(1, 2).to(device, dtype)  # [1, T, 64]
    silence = models.silence.take(FRAMES_PER_CODE).to(device, dtype)
    with torch.inference_mode():
        vectors, indices = tokenizer(latents, silence)  # [1, N, fsq_dim], [1, N]
    check_finite("audio tokenizer", vectors)
    runtime.check_cancelled()
    return tuple(indices[0].tolist())
