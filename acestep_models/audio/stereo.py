"""Any sound as 48 kHz stereo, which is all that the VAE hears."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from ..units import AUDIO_CHANNELS, SAMPLE_RATE

LARGEST_FILTER = 25_000_000  # numbers, 100 MB

_HALF = math.sqrt(0.5)  # -3 dB: what a centre or a back speaker gives to each side (ITU-R BS.775)
_LEFT, _RIGHT, _BOTH, _NONE = (1.0, 0.0), (0.0, 1.0), (_HALF, _HALF), (0.0, 0.0)
_BACK_LEFT, _BACK_RIGHT = (_HALF, 0.0), (0.0, _HALF)
# channels -> what each gives to (left, right), in the order of WAV and FFmpeg; the bass channel is left out.
DOWNMIX = {
    3: (_LEFT, _RIGHT, _BOTH),
    4: (_LEFT, _RIGHT, _BACK_LEFT, _BACK_RIGHT),
    5: (_LEFT, _RIGHT, _BOTH, _BACK_LEFT, _BACK_RIGHT),
    6: (_LEFT, _RIGHT, _BOTH, _NONE, _BACK_LEFT, _BACK_RIGHT),
    7: (_LEFT, _RIGHT, _BOTH, _NONE, (0.5, 0.5), _BACK_LEFT, _BACK_RIGHT),
    8: (_LEFT, _RIGHT, _BOTH, _NONE, _BACK_LEFT, _BACK_RIGHT, _BACK_LEFT, _BACK_RIGHT),
}


def to_stereo(wave: Tensor) -> Tensor:
    """wave [B, C, N] -> [B, 2, N]: stereo as it is, mono on both sides, 3 to 8 channels mixed down.

    A mix is turned down as a whole, so that it cannot come out louder than the loudest channel could.

    Raises:
        ValueError: for more than 8 channels.
    """
    channels = wave.shape[1]
    if channels == AUDIO_CHANNELS:
        return wave
    if channels == 1:
        return wave.expand(-1, AUDIO_CHANNELS, -1).contiguous()  # [B, 2, N]
    if channels not in DOWNMIX:
        raise ValueError(
            f"audio: expected 1, 2 or at most {max(DOWNMIX)} channels (7.1), got {channels}; mix it down to stereo"
        )
    mix = torch.tensor(DOWNMIX[channels]).T.to(wave)  # [2, C]
    return (mix / mix.sum(dim=1, keepdim=True)) @ wave  # [B, 2, N]


def to_rate(wave: Tensor, rate: int) -> Tensor:
    """wave [B, C, N] at `rate` Hz -> [B, C, ~ 48 000 · N / rate]; 48 kHz as it is.

    An odd rate such as 44 101 Hz is taken for a neighbour with a simple ratio to 48 000, at most 1 in 10 000 beside (a
    fifth of a cent): done exactly, it would need a filter of gigabytes.

    Raises:
        ValueError: when another rate needs torchaudio and it cannot be used.
    """
    if rate == SAMPLE_RATE:
        return wave
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError) as error:  # OSError: built for another torch
        raise ValueError(
            f"audio: {rate} Hz has to become {SAMPLE_RATE} Hz, which needs torchaudio, and that cannot be loaded here "
            f"({error}); install the torchaudio that belongs to this torch, or convert the sound to {SAMPLE_RATE} Hz"
        ) from error
    most = math.isqrt(LARGEST_FILTER * rate // SAMPLE_RATE)
    ratio = Fraction(SAMPLE_RATE, rate).limit_denominator(most)
    out: Tensor = resample(wave, ratio.denominator, ratio.numerator)
    return out
