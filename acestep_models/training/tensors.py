"""One prepared song as a .pt, with upstream's keys and ours beside them (spec/lora.md §1.4)."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..units import LATENT_CHANNELS
from .examples import FRAME_STEP, Example
from .files import atomic
from .marks import mark, tensor_mark

OURS = "acestep"  # the key in a file's metadata under which only this pack writes
# A damaged archive raises whatever its bytes lead to.
_DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, eq=False)
class Stored:
    """What is in a file: the song, the null token [1, E] where somebody wrote it, and what is said of it."""

    example: Example
    null: Tensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def write_stored(path: Path, stored: Stored, silence: Tensor, fingerprint: str) -> None:
    """Write one song, whole or not at all; silence is [T, 64].

    Raises:
        ACEStepError, OSError: of the disk.
    """
    values = _tensors(stored, silence)
    own = {"version": 1, "fingerprint": fingerprint, "checksum": _checksum(values)}
    with atomic(path) as draft:
        torch.save({**values, "metadata": {**stored.metadata, OURS: own}}, draft)


def read_stored(path: Path, name: str, repeat: int = 1) -> Stored:
    """The song in a .pt of ours, upstream's or another trainer's, as normal tensors in float32.

    Padding of the conditions, which others write, is taken out; what is over ten frames at the end is dropped.

    Raises:
        ValueError: for a file that cannot be read, is damaged, or holds something else.
    """
    values = _load(path)
    metadata = values.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    own = metadata.get(OURS)
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    if isinstance(own, dict) and own.get("checksum") != _checksum(tensors):
        raise ValueError(f"{path}: the file is damaged (its checksum is another); remove it and prepare the song again")
    with torch.inference_mode(False):
        latents = _matrix(path, tensors, "target_latents", LATENT_CHANNELS)
        frames = len(latents) // FRAME_STEP * FRAME_STEP
        if not frames:
            raise ValueError(f"{path}: target_latents: expected {FRAME_STEP} frames at least, got {len(latents)}")
        hints = _matrix(path, tensors, "hint_latents", LATENT_CHANNELS) if "hint_latents" in tensors else None
        if hints is not None and len(hints) < frames:
            raise ValueError(f"{path}: hint_latents: expected {frames} frames, got {len(hints)}; prepare it again")
        example = Example(
            name,
            latents[:frames].clone(),
            _without_padding(path, tensors),
            None if hints is None else _matrix(path, tensors, "hinted_hidden_states"),
            None if hints is None else hints[:frames].clone(),
            repeat,
        )
        null = _matrix(path, tensors, "null_condition_emb") if "null_condition_emb" in tensors else None
    return Stored(example, null, metadata)


def fingerprint_of(stored: Stored) -> str:
    """What `write_stored` was told; "" for the files of others."""
    own = stored.metadata.get(OURS)
    return str(own.get("fingerprint", "")) if isinstance(own, dict) else ""


def _tensors(stored: Stored, silence: Tensor) -> dict[str, Tensor]:
    example = stored.example
    values = {
        "target_latents": example.latents,
        "attention_mask": torch.ones(len(example.latents)),
        "encoder_hidden_states": example.plain,
        "encoder_attention_mask": torch.ones(len(example.plain)),
        "context_latents": torch.cat([silence, torch.ones_like(silence)], dim=-1),  # [T, 128]
        "hinted_hidden_states": example.hinted,
        "hint_latents": example.hints,
        "null_condition_emb": stored.null,
    }
    return {key: value.clone() for key, value in values.items() if value is not None}


def _checksum(values: Mapping[str, Tensor]) -> str:
    """torch.load does not look at the checksums of its archive."""
    return mark(*(f"{key} {tensor_mark(value)}" for key, value in sorted(values.items())))


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.inference_mode(False):
            values = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise ValueError(
            f"{path}: cannot be read as prepared tensors ({type(error).__name__}); remove it and prepare the song again"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a dictionary of tensors, got {type(values).__name__}; choose another file")
    return values


def _matrix(path: Path, values: Mapping[str, Tensor], key: str, width: int | None = None) -> Tensor:
    """values[key] as [rows, width], float32; a batch of one is taken off."""
    if key not in values:
        raise ValueError(f"{path}: has no {key}; this is no song that was prepared for training ACE-Step 1.5")
    tensor = values[key]
    tensor = tensor[0] if tensor.ndim == 3 and len(tensor) == 1 else tensor
    if tensor.ndim != 2 or not len(tensor) or (width is not None and tensor.shape[1] != width):
        expected = f"[rows, {width or 'width'}]"
        raise ValueError(f"{path}: {key}: expected {expected}, got {list(values[key].shape)}; prepare the song again")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{path}: {key}: holds NaN or infinity; remove it and prepare the song again")
    return tensor.float().clone()


def _without_padding(path: Path, values: Mapping[str, Tensor]) -> Tensor:
    """[L, E]; inference has no padding, and the decoder would look at it."""
    tokens = _matrix(path, values, "encoder_hidden_states")
    mask = values.get("encoder_attention_mask")
    if mask is None:
        return tokens
    valid = mask.reshape(-1) != 0
    if len(valid) != len(tokens) or not bool(valid.any()):
        raise ValueError(
            f"{path}: encoder_attention_mask: expected {len(tokens)} entries, some of them set, got "
            f"{int(valid.sum())} set of {len(valid)}; prepare the song again"
        )
    return tokens[valid]
