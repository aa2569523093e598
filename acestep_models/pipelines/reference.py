"""Recordings whose timbre a song shall have: 30 seconds of each, as latents (spec/audio.md §5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime import Handle, Runtime
from ..units import HOP, SAMPLE_RATE
from ..vae.oobleck import Oobleck
from ..vae.room import ENCODING, place
from ..vae.tiling import encode_tiled
from .listen import check_sound, to_source

WINDOWS, WINDOW_SECONDS = 3, 10
WINDOW = WINDOW_SECONDS * SAMPLE_RATE
MAX_RECORDINGS = 8

Recording = tuple[Tensor, int]  # waveform [1, C, N] and its rate in Hz


@dataclass(frozen=True)
class Heard:
    """What was taken of a recording.

    Attributes:
        seconds: its own length.
        repeats: how often it was put one after another to fill 30 s; 1 for a recording that is long enough.
        starts: where the three windows of 10 s begin, in seconds of what was put together.
    """

    seconds: float
    repeats: int
    starts: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Reference:
    """The sound that a song shall have; R recordings become R timbre tokens.

    Attributes:
        latents: [R, 750, 64], float32 on the CPU: 30 s of each recording.
        heard: what was taken of each recording.
    """

    latents: Tensor
    heard: tuple[Heard, ...] = ()


def encode_reference(
    runtime: Runtime, vae: Handle[Oobleck], recordings: Sequence[Recording], seed: int | None = None
) -> Reference:
    """1 to 8 recordings [1, C, N] of 1 to 600 s, any rate, 1 to 8 channels, as the means of the VAE.

    `seed` None takes the windows where diffusers does, at 0, N // 3 and N - 10 s; a number takes one at random in each
    third, as upstream does. It is drawn for each recording by itself: others beside it change nothing.

    Raises:
        ValueError: for no recording or too many, or one that is too short, too long, silent or not finite.
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    if not 1 <= len(recordings) <= MAX_RECORDINGS:
        raise ValueError(f"reference: expected 1 to {MAX_RECORDINGS} recordings, got {len(recordings)}")
    for number, (waveform, rate) in enumerate(recordings, 1):
        check_sound(waveform, rate, f"reference, recording {number}" if len(recordings) > 1 else "reference")
    excerpts = [_excerpt(to_source(waveform, rate), seed) for waveform, rate in recordings]
    waves = torch.cat([wave for wave, _ in excerpts])  # [R, 2, 30 s]
    network, tile = place(runtime, vae, ENCODING, waves.shape[-1] // HOP)
    with torch.inference_mode():
        latents = encode_tiled(network, waves, runtime=runtime, device=runtime.device(vae), dtype=vae.dtype, tile=tile)
    return Reference(latents.transpose(1, 2).contiguous(), tuple(heard for _, heard in excerpts))  # [R, 750, 64]


def window_starts(samples: int, seed: int | None) -> tuple[int, ...]:
    """Where the three windows begin in a sound of `samples`, at least 30 s at 48 kHz."""
    third = samples // WINDOWS
    if seed is None:
        return 0, third, samples - WINDOW
    generator = torch.Generator("cpu").manual_seed(seed)
    spare = torch.randint(third - WINDOW + 1, (WINDOWS,), generator=generator)
    return tuple(part * third + int(start) for part, start in enumerate(spare))


def _excerpt(wave: Tensor, seed: int | None) -> tuple[Tensor, Heard]:
    """wave [1, 2, N] at 48 kHz -> its three windows one after another [1, 2, 1 440 000]."""
    repeats = -(-WINDOWS * WINDOW // wave.shape[-1])
    long = wave.repeat(1, 1, repeats)  # [1, 2, repeats · N]
    starts = window_starts(long.shape[-1], seed)
    pieces = torch.cat([long[..., start : start + WINDOW] for start in starts], dim=-1)
    heard = Heard(wave.shape[-1] / SAMPLE_RATE, repeats, tuple(start / SAMPLE_RATE for start in starts))
    return pieces, heard
