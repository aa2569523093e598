"""Models for use without ComfyUI: three paths in, everything that `generate` and `decode` want out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..dit.silence import Silence, silence_from_file, silence_from_vae
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
) -> SongModels:
    """Load a model from its split files, or give its diffusers folder three times.

    Args:
        model, text_encoder, vae: files or folders that `loading.probe` knows.
        variant: a name in `tasks.VARIANTS`; it sets the defaults.
        dtype: of weights and computation.
        tokenizer: a tokenizer.json, or a folder with vocab.json and merges.txt, for a text encoder that carries
            none; ComfyUI has one in comfy/text_encoders/qwen25_tokenizer.

    Raises:
        ValueError: for files that are damaged, of another model, or do not belong together.
    """
    song, text, sound = (probe(Path(path)) for path in (model, text_encoder, vae))
    voice = _handle(sound, "vae", dtype)
    conditioner = ConditionerModels(
        text=_handle(text, "text_encoder", dtype),
        tokenizer=_tokenizer(text, tokenizer),
        condition=_handle(song, "condition", dtype),
        code_tokenizer=_handle(song, "tokenizer", dtype),
        detokenizer=_handle(song, "detokenizer", dtype),
        silence=_silence(song, sound),
        config=song.config("condition"),  # type: ignore[arg-type]
    )
    check_vocabulary(conditioner.tokenizer, conditioner.text.module.config.vocab_size)
    chosen = variant_named(variant)
    decoder = PlainDecoder(_handle(song, "decoder", dtype), chosen, chosen.shift)
    return SongModels(decoder, conditioner, voice)


def _handle(checkpoint: Checkpoint, part: str, dtype: torch.dtype) -> Handle[Any]:
    return Handle(build_part(checkpoint, part, dtype=dtype), dtype)


def _tokenizer(checkpoint: Checkpoint, given: Path | None) -> Tokenizer:
    source = given or checkpoint.tokenizer_source()
    if source is None:
        raise ValueError(
            f"{checkpoint.path}: carries no tokenizer; give the path of its tokenizer.json, or of ComfyUI's "
            "comfy/text_encoders/qwen25_tokenizer, as `tokenizer`"
        )
    if isinstance(source, str):
        return Tokenizer.from_json(source)
    return Tokenizer.from_qwen_folder(source) if source.is_dir() else Tokenizer.from_file(source)


def _silence(song: Checkpoint, vae: Checkpoint) -> Silence:
    """The stored silence, else what the VAE makes of nothing; in float32, because every song hears it."""
    stored = song.silence_tensor()
    if stored is not None:
        return silence_from_file(stored)
    network = build_part(vae, "vae", dtype=torch.float32)
    with torch.inference_mode():
        return silence_from_vae(network.encode_mean)
