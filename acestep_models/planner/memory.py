"""How many bytes a run of the language model needs beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..qwen3.model import Qwen3Config

MAX_POSITIONS = 40_960  # what Qwen3 was trained for
CHUNK = 512  # a long prompt is read in pieces of so many tokens


@dataclass(frozen=True)
class RunSize:
    """`branches`: texts and positions of each cache; `prompt`: tokens of the longest prompt; `width`: logits a text."""

    branches: Sequence[tuple[int, int]]
    prompt: int
    width: int


def cache_bytes(config: Qwen3Config, rows: int, positions: int, dtype: torch.dtype) -> int:
    """Keys and values of `rows` texts of `positions` tokens (spec/planner.md §7.1)."""
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return rows * positions * per_position


def run_bytes(config: Qwen3Config, size: RunSize, dtype: torch.dtype) -> int:
    """Caches, and the larger of what reading a piece of a prompt and writing a token need."""
    caches = sum(cache_bytes(config, rows, positions, dtype) for rows, positions in size.branches)
    rows = sum(rows for rows, _ in size.branches)
    return caches + max(_reading_bytes(config, size.prompt, dtype), _writing_bytes(config, rows, size.width, dtype))


def _reading_bytes(config: Qwen3Config, prompt: int, dtype: torch.dtype) -> int:
    """One layer over a piece of a prompt: streams, feed-forward part, heads, repeated keys, and scores written out."""
    tokens = min(prompt, CHUNK)
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    values = 3 * config.hidden_size + 3 * config.intermediate_size + 4 * (heads + 2 * keys) * config.head_dim
    scores = heads * prompt * (2 * tokens + 2 * config.head_dim)
    return (tokens * values + scores) * dtype.itemsize + tokens * 2 * config.hidden_size * 4


def _writing_bytes(config: Qwen3Config, rows: int, width: int, dtype: torch.dtype) -> int:
    """Logits, their probabilities in 64 bits and their order, beside one layer of one token a text."""
    return rows * (width * (dtype.itemsize + 2 * 4 + 5 * 8) + 16 * (1 << 16)) + _reading_bytes(config, rows, dtype)


def check_positions(prompt: int, written: int) -> None:
    """Raises a ValueError unless a prompt and what follows it stay within what the model was trained for."""
    if prompt == 0:
        raise ValueError("the planner's prompt has no tokens")
    if prompt + written > MAX_POSITIONS:
        raise ValueError(
            f"a prompt of {prompt} tokens and {written} tokens to be written are more than the {MAX_POSITIONS} "
            "positions of the language model. Shorten the lyrics or the song"
        )
