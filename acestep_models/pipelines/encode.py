"""Text, facts and (later) sounds of a song, turned into what the decoder reads: once a song, never once a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blueprint import Blueprint
from ..dit.codes import AudioDetokenizer, AudioTokenizer
from ..dit.condition import ConditionEncoder
from ..dit.config import DiTConfig, condition_bytes
from ..dit.context import text_to_music_context
from ..dit.silence import Silence
from ..errors import check_finite
from ..prompts import caption_prompt, lyric_prompt
from ..qwen3.model import Qwen3
from ..qwen3.tokenizer import Tokenizer
from ..runtime import Handle, Runtime
from ..text.encoder import activation_bytes, caption_states, lyric_embeddings
from ..units import DEFAULT_SECONDS, MAX_SONGS, frames_to_seconds, seconds_to_frames


@dataclass(frozen=True, eq=False)
class ConditionerModels:
    """Everything that reads: the text encoder, and the networks around the decoder that run once a song."""

    text: Handle[Qwen3]
    tokenizer: Tokenizer
    condition: Handle[ConditionEncoder]
    code_tokenizer: Handle[AudioTokenizer]
    detokenizer: Handle[AudioDetokenizer]
    silence: Silence
    config: DiTConfig


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the decoder reads of one song: tokens [1, L, E], context [1, T, 128], and the null token [1, 1, E]."""

    tokens: Tensor
    context: Tensor
    null: Tensor


@dataclass(frozen=True, eq=False)
class ConditionBatch:
    """Conditionings of B songs of one length.

    Attributes:
        tokens: [B, L, E]; shorter songs are padded with zeros at the end.
        mask: bool [B, L], False on padding; None when no song is padded.
        context: [B, T, 128].
        null: [1, 1, E], the token that stands for "no condition" at every place.
    """

    tokens: Tensor
    mask: Tensor | None
    context: Tensor
    null: Tensor


def song_frames(blueprints: Sequence[Blueprint]) -> int:
    """Latent frames of a batch: the length that its songs share, 60 s where none of them says.

    Raises:
        ValueError: for no song, more than 8, or songs of different length.
    """
    if not 1 <= len(blueprints) <= MAX_SONGS:
        raise ValueError(f"songs: expected 1 to {MAX_SONGS} in a batch, got {len(blueprints)}")
    lengths = {b.seconds for b in blueprints if b.seconds is not None}
    if len(lengths) > 1:
        raise ValueError(f"seconds: songs of one batch have one length, got {sorted(lengths)}; sample them one by one")
    return seconds_to_frames(lengths.pop() if lengths else DEFAULT_SECONDS)


def encode_song(runtime: Runtime, models: ConditionerModels, blueprint: Blueprint, frames: int) -> Conditioning:
    """Conditioning of one text-to-music song of `frames` latent frames, float32 on the CPU (spec/audio.md §2.4, §5.1).

    Raises:
        ValueError: for a blueprint that says nothing, or text longer than the encoder reads.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    blueprint.require_complete()
    text, lyrics = _read_text(runtime, models, blueprint, frames_to_seconds(frames))
    timbre = models.silence.take(models.config.timbre_fix_frame)
    reserve = condition_bytes(models.config, lyrics.shape[1], len(timbre), models.condition.dtype)
    encoder = runtime.place(models.condition, reserve)
    device, dtype = runtime.device(models.condition), models.condition.dtype
    with torch.inference_mode():
        tokens = encoder(*(part.to(device, dtype) for part in (text, lyrics, timbre)))
        null = encoder.null_tokens(1, tokens).float().cpu()
    tokens = check_finite("condition encoder", tokens.float().cpu())
    check_finite("condition encoder (null token)", null)
    runtime.check_cancelled()
    return Conditioning(tokens, text_to_music_context(models.silence.take(frames)), null)


def _read_text(
    runtime: Runtime, models: ConditionerModels, blueprint: Blueprint, seconds: float
) -> tuple[Tensor, Tensor]:
    """States of the caption [1, Lt, 1024] and embeddings of the lyrics [1, Ll, 1024]."""
    caption_ids = models.tokenizer.encode_prompt(caption_prompt(blueprint, seconds))
    lyric_ids = models.tokenizer.encode_prompt(lyric_prompt(blueprint))
    reserve = activation_bytes(models.text.module.config, max(len(caption_ids), len(lyric_ids)), models.text.dtype)
    encoder = runtime.place(models.text, reserve)
    device, dtype = runtime.device(models.text), models.text.dtype
    with torch.inference_mode():
        text = caption_states(encoder, caption_ids, device=device, dtype=dtype)
        lyrics = lyric_embeddings(encoder, lyric_ids, device=device, dtype=dtype)
    return check_finite("text encoder", text), check_finite("text encoder (lyric embeddings)", lyrics)


def encode_songs(
    runtime: Runtime, models: ConditionerModels, blueprints: Sequence[Blueprint], frames: int
) -> ConditionBatch:
    """Every song encoded by itself, then stacked; equal songs are encoded once."""
    done: dict[Blueprint, Conditioning] = {}
    for blueprint in blueprints:
        if blueprint not in done:
            done[blueprint] = encode_song(runtime, models, blueprint, frames)
    return stack([done[blueprint] for blueprint in blueprints])


def stack(songs: Sequence[Conditioning]) -> ConditionBatch:
    """One batch out of songs of equal T; tokens are padded to the longest and the padding is masked."""
    lengths = [song.tokens.shape[1] for song in songs]
    longest = max(lengths)
    tokens = torch.cat([F.pad(song.tokens, (0, 0, 0, longest - song.tokens.shape[1])) for song in songs])  # [B, L, E]
    ragged = min(lengths) < longest
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None] if ragged else None  # [B, L]
    return ConditionBatch(tokens, mask, torch.cat([song.context for song in songs]), songs[0].null)
