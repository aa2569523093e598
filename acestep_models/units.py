"""Seconds, latent frames, plan codes and samples: every conversion of the pack is here.

A song of `seconds` (a multiple of 0.2) has exactly 25 · seconds frames, 5 · seconds codes and
48 000 · seconds samples (spec/audio.md §3, §5.1).
"""

from __future__ import annotations

import math

SAMPLE_RATE = 48_000
AUDIO_CHANNELS = 2
HOP = 1_920
FRAME_RATE = SAMPLE_RATE // HOP
FRAMES_PER_CODE = 5
CODE_RATE = FRAME_RATE // FRAMES_PER_CODE
LATENT_CHANNELS = 64
CODEBOOK_SIZE = 64_000

MIN_SECONDS = 10.0
MAX_SECONDS = 600.0
DEFAULT_SECONDS = 60.0
MAX_SONGS = 8


def seconds_to_codes(seconds: float) -> int:
    """The nearest whole number of 5 Hz codes."""
    return math.floor(seconds * CODE_RATE + 0.5)


def snap_seconds(seconds: float) -> float:
    """The multiple of 0.2 s nearest to `seconds`."""
    return seconds_to_codes(seconds) / CODE_RATE


def seconds_to_frames(seconds: float) -> int:
    """25 Hz latent frames of a song whose length is first brought to a multiple of 0.2 s."""
    return seconds_to_codes(seconds) * FRAMES_PER_CODE


def seconds_to_samples(seconds: float, rate: int = SAMPLE_RATE) -> int:
    """The sample that plays at `seconds`: the whole of them before it, below 0 too.

    A millionth of a sample too few counts as there: 1.16 · 48 000 is 55 679.999... in floating point, and upstream's
    int() takes the sample before the one that is meant (spec/audio.md §5.3).
    """
    return math.floor(seconds * rate + 1e-6)


def frames_to_seconds(frames: int) -> float:
    """Length in seconds of `frames` latent frames."""
    return frames / FRAME_RATE


def frames_to_samples(frames: int) -> int:
    """Samples per channel that the VAE makes of `frames` latent frames."""
    return frames * HOP
