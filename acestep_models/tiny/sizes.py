"""The sizes of the tiny models: every path alive, the numbers of the contract real (spec/audio.md §9.1).

Real are 64 latent channels, 192 inputs, patch 2, hop 1920 at 48 kHz, 5 frames a code, 64 000 codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..dit.config import DiTConfig
from ..qwen3.model import Qwen3Config
from ..vae.config import OobleckConfig

FAMILIES = ("2b", "xl")

_DECODER = DiTConfig(
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=128,
    encoder_hidden_size=64,
    encoder_intermediate_size=128,
    encoder_num_attention_heads=4,
    encoder_num_key_value_heads=2,
    text_hidden_dim=32,
    sliding_window=8,
    num_lyric_encoder_hidden_layers=2,
    num_timbre_encoder_hidden_layers=2,
    fsq_dim=64,
    is_turbo=True,
    model_version="turbo",
)
# XL: a wider decoder than encoder, and heads that together are wider than the decoder.
DECODERS = {"2b": _DECODER, "xl": replace(_DECODER, hidden_size=96, num_attention_heads=8, intermediate_size=160)}
VAE = OobleckConfig(channel_multiples=(1, 1, 1, 2, 2), decoder_channels=4)


@dataclass(frozen=True)
class Sizes:
    """Every configuration of one set."""

    decoder: DiTConfig
    vae: OobleckConfig
    text_encoder: Qwen3Config
    lm: Qwen3Config


def sizes(family: str, text_rows: int, lm_rows: int) -> Sizes:
    """The sizes of a family; rows are those of the two tokenizers.

    Raises:
        ValueError: for a family that there is not.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    text = Qwen3Config(text_rows, 32, 64, 2, 4, 2, head_dim=16)
    lm = Qwen3Config(lm_rows, 64, 128, 2, 4, 2, head_dim=16)
    return Sizes(DECODERS[family], VAE, text, lm)
