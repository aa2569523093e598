"""Models for use without ComfyUI: three paths in, everything that `generate` and `decode` want out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..dit.silence import Silence, silence_from_file, silence_from_vae
from ..errors import check_finite
from ..loading import Checkpoint, build_part, probe
from ..qwen3.tokenizer import Tokenizer, check_vocabulary
from ..runtime import Handle
from ..tasks import variant_named
from ..vae.oobleck import Oobleck
from .encode import ConditionerModels
from .generate import PlainDecoder


@dataclass(frozen=True, eq=False)
class SongModels:
    """Decoder, readers and VAE of one model, on the CPU until a runtime places them."""

    decoder: PlainDecoder
    conditioner: ConditionerModels
    vae: Handle[Oobleck]


def open_models(
    model: Path,
    text_encoder: Path,
    vae: Path,
    variant: str,
    dtype: torch.dtype = torch.float32,
    tokenizer: Path | None = None,
    conditioner: Path | None = None,
) -> SongModels:
    """Load a model from its split files or folders, or give its one file or folder three times.

    Args:
        model, text_encoder, vae: files or folders that `loading.probe` knows.
        variant: a name in `tasks.VARIANTS`; it sets the defaults.
        dtype: of weights and computation.
        tokenizer: a tokenizer.json, or a folder with vocab.json and merges.txt, for a text encoder that carries
            none; ComfyUI has one in comfy/text_encoders/qwen25_tokenizer.
        conditioner: the whole model that `model` was made from, where that is a decoder alone (ComfyUI's ModelSave).

    Raises:
        ValueError: for files that are damaged, of another model, or do not belong together.
    """
    song, text, sound = (probe(Path(path)) for path in (model, text_encoder, vae))
    whole = song if conditioner is None else probe(Path(conditioner))
    song = song if conditioner is None else song.completed(whole)
    voice = _handle(sound, "vae", dtype)
    readers = ConditionerModels(
        text=_handle(text, "text_encoder", dtype),
        tokenizer=_tokenizer(text, tokenizer),
        condition=_handle(whole, "condition", dtype),
        code_tokenizer=_handle(whole, "tokenizer", dtype),
        detokenizer=_handle(whole, "detokenizer", dtype),
        silence=song_silence(whole, sound),
        config=whole.config("condition"),  # type: ignore[arg-type]
    )
    check_vocabulary(readers.tokenizer, readers.text.module.config.vocab_size)
    chosen = variant_named(variant)
    decoder = PlainDecoder(_handle(song, "decoder", dtype), chosen, chosen.shift)
    return SongModels(decoder, readers, voice)


def _handle(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> Handle[Any]:
    return Handle(build_part(checkpoint, part, dtype=dtype), dtype)


def _tokenizer(checkpoint: Checkpoint, given: Path | None) -> Tokenizer:
    source = given or checkpoint.tokenizer_source()
    if source is None:
        raise ValueError(
            f"{checkpoint.path}: carries no tokenizer; give the path of its tokenizer.json, or of ComfyUI's "
            "comfy/text_encoders/qwen25_tokenizer, as `tokenizer`"
        )
    return Tokenizer.from_source(source)


def song_silence(song: Checkpoint, vae: Checkpoint) -> Silence:
    """The silence stored with the model, else what its VAE makes of one second of nothing.

    It is context and timbre of every song, so it must not depend on precision or card: a VAE of its own, on the CPU
    (where convolutions are real float32, about a second), with weights that are folded and kept in float32.

    Raises:
        ACEStepError: when the VAE answers with numbers that are not finite.
    """
    stored = song.silence_tensor()
    if stored is not None:
        return silence_from_file(stored)
    network = build_part(vae, "vae", dtype=torch.float32)
    with torch.inference_mode():
        silence = silence_from_vae(network.encode_mean)
    check_finite("VAE encode (of silence)", silence.frames)
    return silence
