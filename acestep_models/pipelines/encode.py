"""Text, facts and timbre of a song, turned into what the decoder reads: once a song, never once a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..blueprint import Blueprint
from ..dit.codes import AudioDetokenizer, AudioTokenizer
from ..dit.condition import ConditionEncoder
from ..dit.config import DiTConfig, codes_bytes, condition_bytes
from ..dit.context import task_context
from ..dit.silence import Silence
from ..errors import check_finite
from ..prompts import caption_prompt, lyric_prompt
from ..qwen3.model import Qwen3
from ..qwen3.tokenizer import Tokenizer
from ..runtime import Handle, Runtime
from ..tasks import instruction
from ..text.encoder import activation_bytes, caption_states, lyric_embeddings
from ..units import (
    DEFAULT_SECONDS,
    FRAMES_PER_CODE,
    MAX_SONGS,
    frames_to_seconds,
    seconds_to_frames,
)

if TYPE_CHECKING:  # a reference is heard by networks that know what is here
    from .reference import Reference


@dataclass(frozen=True, eq=False)
class ConditionerModels:
    """Everything that reads: the text encoder, and the networks around the decoder that run once a song.

    `variant` is that of the decoder it was loaded with, "" where nobody said.
    """

    text: Handle[Qwen3]
    tokenizer: Tokenizer
    condition: Handle[ConditionEncoder]
    code_tokenizer: Handle[AudioTokenizer]
    detokenizer: Handle[AudioDetokenizer]
    silence: Silence
    config: DiTConfig
    variant: str = ""


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


def check_count(blueprints: Sequence[Blueprint]) -> None:
    """Whether they are a batch.

    Raises:
        ValueError: for no song, or more than 8.
    """
    if not 1 <= len(blueprints) <= MAX_SONGS:
        raise ValueError(f"songs: expected 1 to {MAX_SONGS} in a batch, got {len(blueprints)}")


def song_frames(blueprints: Sequence[Blueprint]) -> int:
    """Latent frames of a batch: the length that its songs share, 60 s where neither seconds nor codes say.

    Raises:
        ValueError: for no song, more than 8, or songs of different length.
    """
    check_count(blueprints)
    lengths = {b.length for b in blueprints if b.length is not None}
    if len(lengths) > 1:
        told = ", ".join(f"{seconds:g}" for seconds in sorted(lengths))
        raise ValueError(
            f"seconds: songs of one batch have one length, got songs of {told} s; sample them one by one "
            "(BlueprintValues takes one song out, its json goes into LoadBlueprint), or give them one length"
        )
    return seconds_to_frames(lengths.pop() if lengths else DEFAULT_SECONDS)


def check_song(blueprint: Blueprint, frames: int) -> None:
    """Whether a song of `frames` latent frames can be made of nothing but its blueprint.

    Raises:
        ValueError: for a blueprint that says nothing, or codes of another length.
    """
    blueprint.require_complete()
    if blueprint.codes is not None and len(blueprint.codes) * FRAMES_PER_CODE != frames:
        raise ValueError(
            f"codes: a song of {frames_to_seconds(frames):g} s has {frames // FRAMES_PER_CODE} codes, got "
            f"{len(blueprint.codes)}; write the codes again or change the duration"
        )


def encode_song(
    runtime: Runtime, models: ConditionerModels, blueprint: Blueprint, frames: int, reference: Reference | None = None
) -> Conditioning:
    """Conditioning of one text-to-music song of `frames` latent frames, float32 on the CPU (spec/audio.md §2.4, §5.1).

    A song with codes follows them: the context carries what they sound like, and the instruction asks for it.
    A reference changes the timbre tokens and nothing else.

    Raises:
        ValueError: for a blueprint that says nothing, text longer than the encoder reads, or codes of another length.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    check_song(blueprint, frames)
    sentence = instruction("text2music" if blueprint.codes is None else "text2music+codes")
    tokens, null = encode_tokens(runtime, models, blueprint, frames, sentence, reference)
    source = models.silence.take(frames) if blueprint.codes is None else read_codes(runtime, models, blueprint.codes)
    return Conditioning(tokens, task_context(source), null)


def encode_tokens(
    runtime: Runtime,
    models: ConditionerModels,
    blueprint: Blueprint,
    frames: int,
    sentence: str,
    reference: Reference | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens [1, Ll + R + Lt, E] of a song and the null token [1, 1, E]; `sentence` is the task's instruction.

    One call of the condition encoder. Where there is no reference, silence stands for one.

    Raises:
        ValueError: for text longer than the encoder reads.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    text, lyrics = _read_text(runtime, models, blueprint, frames, sentence)
    timbre = models.silence.take(models.config.timbre_fix_frame) if reference is None else reference.latents
    reserve = condition_bytes(models.config, lyrics.shape[1], len(timbre), models.condition.dtype)
    encoder = runtime.place(models.condition, reserve)
    device, dtype = runtime.device(models.condition), models.condition.dtype
    with torch.inference_mode():
        tokens = encoder(*(part.to(device, dtype) for part in (text, lyrics, timbre)))
        null = encoder.null_tokens(1, tokens).float().cpu()
    tokens = check_finite("condition encoder", tokens.float().cpu())
    check_finite("condition encoder (null token)", null)
    runtime.check_cancelled()
    return tokens, null


def read_codes(runtime: Runtime, models: ConditionerModels, codes: Sequence[int]) -> Tensor:
    """What N codes stand for: latents [1, 5N, 64], float32 on the CPU (spec/audio.md §2.6).

    Raises:
        ValueError: for codes that the codebook does not have.
        ACEStepError: when a network answers with numbers that are not finite.
    """
    indices = torch.tensor(codes, dtype=torch.int64)[None]  # [1, N]
    quantizer = runtime.place(models.code_tokenizer)
    with torch.inference_mode():
        vectors = quantizer.vectors(indices.to(runtime.device(models.code_tokenizer)))  # [1, N, fsq_dim]
    reserve = codes_bytes(models.config, 1, len(codes) * FRAMES_PER_CODE, models.detokenizer.dtype)
    detokenizer = runtime.place(models.detokenizer, reserve)
    with torch.inference_mode():
        hints = detokenizer(vectors.to(runtime.device(models.detokenizer), models.detokenizer.dtype))  # [1, 5N, 64]
    runtime.check_cancelled()
    return check_finite("audio detokenizer (hints of the codes)", hints.float().cpu())


def _read_text(
    runtime: Runtime, models: ConditionerModels, blueprint: Blueprint, frames: int, sentence: str
) -> tuple[Tensor, Tensor]:
    """States of the caption [1, Lt, 1024] and embeddings of the lyrics [1, Ll, 1024]."""
    caption = caption_prompt(blueprint, frames_to_seconds(frames), sentence)
    caption_ids = models.tokenizer.encode_prompt(caption)
    lyric_ids = models.tokenizer.encode_prompt(lyric_prompt(blueprint))
    reserve = activation_bytes(models.text.module.config, max(len(caption_ids), len(lyric_ids)), models.text.dtype)
    encoder = runtime.place(models.text, reserve)
    device, dtype = runtime.device(models.text), models.text.dtype
    with torch.inference_mode():
        text = caption_states(encoder, caption_ids, device=device, dtype=dtype)
        lyrics = lyric_embeddings(encoder, lyric_ids, device=device, dtype=dtype)
    return check_finite("text encoder", text), check_finite("text encoder (lyric embeddings)", lyrics)


def encode_songs(
    runtime: Runtime,
    models: ConditionerModels,
    blueprints: Sequence[Blueprint],
    frames: int,
    reference: Reference | None = None,
) -> ConditionBatch:
    """Every song encoded by itself, then stacked; songs that read the same are encoded once."""
    return stack_once(blueprints, lambda blueprint: encode_song(runtime, models, blueprint, frames, reference))


def stack_once(blueprints: Sequence[Blueprint], encode: Callable[[Blueprint], Conditioning]) -> ConditionBatch:
    """One batch; `encode` is asked once for songs that read the same."""
    done: dict[tuple[object, ...], Conditioning] = {}
    for blueprint in blueprints:
        if _what_is_read(blueprint) not in done:
            done[_what_is_read(blueprint)] = encode(blueprint)
    return stack([done[_what_is_read(blueprint)] for blueprint in blueprints])


def _what_is_read(blueprint: Blueprint) -> tuple[object, ...]:
    """All that the decoder is told of a song; the rest of a blueprint is for people and for the planner."""
    b = blueprint
    return b.caption, b.lyrics, b.bpm, b.key, b.time_signature, b.language, b.codes


def stack(songs: Sequence[Conditioning]) -> ConditionBatch:
    """One batch out of songs of equal T; tokens are padded to the longest and the padding is masked."""
    lengths = [song.tokens.shape[1] for song in songs]
    longest = max(lengths)
    tokens = torch.cat([F.pad(song.tokens, (0, 0, 0, longest - song.tokens.shape[1])) for song in songs])  # [B, L, E]
    ragged = min(lengths) < longest
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None] if ragged else None  # [B, L]
    return ConditionBatch(tokens, mask, torch.cat([song.context for song in songs]), songs[0].null)
