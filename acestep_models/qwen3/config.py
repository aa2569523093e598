"""The sizes of every Qwen3 that ACE-Step 1.5 uses (spec/planner.md §1.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..layers import LayerShape


@dataclass(frozen=True)
class Qwen3Config:
    """Field names are those of the published `config.json`; the embedding is always tied to the head.

    Raises:
        ValueError: a size below 1, an odd head, or key heads that do not divide the query heads.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 128
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or self.num_hidden_layers < 1:
            raise ValueError(f"Qwen3: vocab_size and num_hidden_layers must be at least 1, got {self}")
        _ = self.layer_shape

    @property
    def layer_shape(self) -> LayerShape:
        """The sizes of one layer."""
        return LayerShape(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            kv_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            hidden=self.intermediate_size,
            eps=self.rms_norm_eps,
        )


TEXT_ENCODER = Qwen3Config(
    vocab_size=151_669,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
)
LM_06B = replace(TEXT_ENCODER, vocab_size=217_204)
LM_17B = replace(LM_06B, hidden_size=2048, intermediate_size=6144)
LM_4B = replace(LM_06B, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32)


def activation_bytes(config: Qwen3Config, batch: int, tokens: int, dtype: torch.dtype) -> int:
    """Upper bound of what a pass over [batch, tokens] needs beside weights and cache.

    Two streams, their norms in fp32, the feed-forward part, queries and keys before and after rotation, and the
    scores that attention kernels without tiling write out.
    """
    heads, keys = config.num_attention_heads, config.num_key_value_heads
    values = 3 * config.hidden_size + 3 * config.intermediate_size + 4 * (heads + 2 * keys) * config.head_dim
    per_token = values * dtype.itemsize + 2 * config.hidden_size * 4
    scores = 2 * heads * tokens * tokens * dtype.itemsize
    return batch * (tokens * per_token + scores)
