"""The sizes of the VAE (spec/audio.md §1.6, §3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..units import AUDIO_CHANNELS, LATENT_CHANNELS, SAMPLE_RATE


@dataclass(frozen=True)
class OobleckConfig:
    """The 48 kHz Oobleck; field names and values as diffusers' AutoencoderOobleck.

    Raises:
        ValueError: an odd ratio (lengths would not be exact), or sizes that do not belong together.
    """

    encoder_hidden_size: int = 128
    downsampling_ratios: tuple[int, ...] = (2, 4, 4, 6, 10)
    channel_multiples: tuple[int, ...] = (1, 2, 4, 8, 16)
    decoder_channels: int = 128
    decoder_input_channels: int = LATENT_CHANNELS
    audio_channels: int = AUDIO_CHANNELS
    sampling_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        ratios, multiples = self.downsampling_ratios, self.channel_multiples
        if not ratios or len(ratios) != len(multiples):
            raise ValueError(f"VAE: {len(ratios)} downsampling_ratios need as many channel_multiples, got {multiples}")
        if any(ratio < 2 or ratio % 2 for ratio in ratios):
            raise ValueError(f"VAE: downsampling_ratios must be even, got {ratios}")
        if self.encoder_hidden_size != 2 * self.decoder_input_channels:
            raise ValueError(
                "VAE: encoder_hidden_size is mean and scale and must be 2 x decoder_input_channels = "
                f"{2 * self.decoder_input_channels}, got {self.encoder_hidden_size}"
            )

    @property
    def hop(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.downsampling_ratios)

    @property
    def encoder_widths(self) -> tuple[int, ...]:
        """Channels before, between and after the encoder's blocks."""
        return _widths(self.encoder_hidden_size, self.channel_multiples)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels before, between and after the decoder's blocks."""
        return _widths(self.decoder_channels, self.channel_multiples)[::-1]


def _widths(base: int, multiples: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(base * multiple for multiple in (1, *multiples))
