"""The sizes of the audio networks and what a run of the decoder needs (spec/audio.md §1.6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..layers import LayerShape, band_elements
from ..units import FRAMES_PER_CODE, LATENT_CHANNELS

CAPTION_TOKENS = 256  # the longest caption (spec/audio.md §4)


@dataclass(frozen=True)
class DiTConfig:
    """Decoder, condition encoder, audio tokenizer and detokenizer; field names and 2B values as upstream.

    Raises:
        ValueError: sizes that no such network can have.
    """

    hidden_size: int = 2048
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 8
    head_dim: int = 128
    intermediate_size: int = 6144
    encoder_hidden_size: int = 2048
    encoder_intermediate_size: int = 6144
    encoder_num_attention_heads: int = 16
    encoder_num_key_value_heads: int = 8
    in_channels: int = 3 * LATENT_CHANNELS
    audio_acoustic_hidden_dim: int = LATENT_CHANNELS
    text_hidden_dim: int = 1024
    patch_size: int = 2
    rope_theta: float = 1e6
    sliding_window: int = 128
    rms_norm_eps: float = 1e-6
    num_lyric_encoder_hidden_layers: int = 8
    num_timbre_encoder_hidden_layers: int = 4
    num_attention_pooler_hidden_layers: int = 2
    timbre_fix_frame: int = 750
    pool_window_size: int = FRAMES_PER_CODE
    fsq_dim: int = 2048
    fsq_input_levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    is_turbo: bool | None = None
    model_version: str | None = None

    def __post_init__(self) -> None:
        _ = self.decoder_shape, self.encoder_shape  # each checks its own numbers
        if self.in_channels != 3 * self.audio_acoustic_hidden_dim:
            raise ValueError(
                f"in_channels must be source + mask + noise = 3 x {self.audio_acoustic_hidden_dim}, "
                f"got {self.in_channels}"
            )
        if self.fsq_dim != self.encoder_hidden_size:
            raise ValueError(f"fsq_dim {self.fsq_dim} must equal encoder_hidden_size {self.encoder_hidden_size}")
        if not self.fsq_input_levels or min(self.fsq_input_levels) < 2:
            raise ValueError(f"fsq_input_levels needs numbers of at least 2, got {self.fsq_input_levels}")
        if min(self.patch_size, self.pool_window_size, self.sliding_window, self.num_hidden_layers) < 1:
            raise ValueError("patch_size, pool_window_size, sliding_window, num_hidden_layers must be at least 1")

    @property
    def decoder_shape(self) -> LayerShape:
        """One layer of the decoder."""
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        return LayerShape(self.hidden_size, heads, kv_heads, self.head_dim, self.intermediate_size, self.rms_norm_eps)

    @property
    def encoder_shape(self) -> LayerShape:
        """One layer of the encoders, the pooler and the detokenizer."""
        heads, kv_heads = self.encoder_num_attention_heads, self.encoder_num_key_value_heads
        return LayerShape(
            self.encoder_hidden_size,
            heads,
            kv_heads,
            self.head_dim,
            self.encoder_intermediate_size,
            self.rms_norm_eps,
        )

    @property
    def timbre_special_token(self) -> bool:
        """Whether the timbre encoder puts its special token before the frames: XL does, 2B does not (§8, row 1)."""
        return self.encoder_hidden_size != self.hidden_size


XL = DiTConfig(
    hidden_size=2560,
    num_hidden_layers=32,
    num_attention_heads=32,
    intermediate_size=9728,
)


def activation_bytes(config: DiTConfig, batch: int, frames: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that one pass of the decoder needs beside its weights: `batch` songs of `frames` latent frames each.

    Counts what lives at once in the widest layer, the condition's `tokens`, and what the layers share; attention
    itself is taken to be fused, so that no matrix of scores exists.
    """
    patches = -(-frames // config.patch_size)
    keys = config.num_key_value_heads * config.head_dim
    held = 2 * config.num_hidden_layers * 2 * keys  # two `Told`: keys and values of all layers
    condition = batch * tokens * (config.hidden_size + held + 8 * keys)  # the keys are normed in fp32
    given = batch * frames * 2 * config.in_channels  # noise and source, and both side by side
    rows = _layer_elements(config.decoder_shape, batch * patches) + _shared_elements(config, True, patches)
    return (rows + condition + given) * dtype.itemsize


def condition_bytes(config: DiTConfig, lyrics: int, references: int, dtype: torch.dtype) -> int:
    """Bytes that the condition encoder needs: `lyrics` tokens, `references` of the full number of frames each."""
    shape, frames = config.encoder_shape, config.timbre_fix_frame + 1
    sung = _layer_elements(shape, lyrics) + _shared_elements(config, False, lyrics)
    heard = _layer_elements(shape, references * frames) + _shared_elements(config, False, frames)
    told = (CAPTION_TOKENS + lyrics) * config.text_hidden_dim
    given = told + references * (frames * config.audio_acoustic_hidden_dim + shape.width)
    return (max(sung, heard) + given) * dtype.itemsize


def codes_bytes(config: DiTConfig, batch: int, frames: int, dtype: torch.dtype) -> int:
    """Bytes that the audio tokenizer or detokenizer needs for `batch` items of `frames` latent frames."""
    shape = config.encoder_shape
    rows = batch * -(-frames // config.pool_window_size) * (config.pool_window_size + 1)
    return (_layer_elements(shape, rows) + 2 * rows * shape.width) * dtype.itemsize


def _layer_elements(shape: LayerShape, rows: int) -> int:
    """The stream before, in and after a norm, and the wider of: gate, up, their product; heads while they rotate."""
    return rows * (4 * shape.width + max(3 * shape.hidden, 5 * shape.heads * shape.head_dim))


def _shared_elements(config: DiTConfig, decoder: bool, length: int) -> int:
    """What the layers of a pass share: the band of the sliding ones and the tables of positions."""
    groups = (config.decoder_shape if decoder else config.encoder_shape).groups
    return band_elements(length, config.sliding_window, groups) + 2 * length * config.head_dim
