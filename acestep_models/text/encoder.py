"""The two readings of a Qwen3 text encoder: contextual caption states and plain lyric embeddings.

Source: spec/audio.md §4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..prompts import too_long
from ..qwen3.model import Qwen3, Qwen3Config
from ..qwen3.model import activation_bytes as qwen3_bytes


def caption_states(
    model: Qwen3, ids: Sequence[int], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Last hidden states (after the final norm) of the caption prompt: Lt ids -> [1, Lt, H].

    `device` and `dtype` say where and in what to compute; unset means as the weights lie.

    Raises:
        ValueError: above `prompts.CAPTION_TOKENS` ids. Upstream cuts the text there without a word; the metas stand at
            the end of the prompt, so a cut would lose the tempo and the length.
    """
    _check_length("caption", len(ids))
    states: Tensor = model(_embed(model, ids, device, dtype))
    return states


def lyric_embeddings(
    model: Qwen3, ids: Sequence[int], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Rows of the embedding table, no transformer: Ll ids -> [1, Ll, H].

    Raises:
        ValueError: above `prompts.LYRIC_TOKENS` ids.
    """
    _check_length("lyric", len(ids))
    return _embed(model, ids, device, dtype)


def activation_bytes(config: Qwen3Config, tokens: int, dtype: torch.dtype) -> int:
    """Room that `caption_states` of `tokens` ids needs beside the weights; lyrics need less."""
    return qwen3_bytes(config, 1, tokens, dtype)


def _embed(model: Qwen3, ids: Sequence[int], device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    weight = model.embed_tokens.weight
    row = torch.tensor([list(ids)], dtype=torch.int64, device=device or weight.device)  # [1, L]
    return model.embed(row).to(dtype or weight.dtype)


def _check_length(prompt: str, tokens: int) -> None:
    if tokens == 0:
        raise ValueError(f"the {prompt} prompt has no tokens")
    if said := too_long(prompt, tokens):
        raise ValueError(said)
