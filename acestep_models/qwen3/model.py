"""Qwen3 without a language-model head of its own: the embedding table is the head (spec/planner.md §1.1).

Module names are those of the published files without the optional prefix `model.`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import EncoderLayer, Rope, rotary_table
from ..ops import TORCH_OPS, Ops
from .cache import KVCache, visible
from .config import LM_06B, LM_4B, LM_17B, TEXT_ENCODER, Qwen3Config, activation_bytes
from .packed import PackedTexts

__all__ = ["LM_06B", "LM_17B", "LM_4B", "TEXT_ENCODER", "Qwen3", "Qwen3Config", "activation_bytes"]


class Qwen3(nn.Module):
    """A causal transformer over byte-pair tokens."""

    def __init__(
        self,
        config: Qwen3Config,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.ops = ops
        self.embed_tokens = ops.Embedding(config.vocab_size, config.hidden_size, device=device, dtype=dtype)
        shape = config.layer_shape
        layers = (EncoderLayer(shape, ops, device, dtype) for _ in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, device=device, dtype=dtype)

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the embedding table: ids [B, L] -> [B, L, H]."""
        rows: Tensor = self.embed_tokens(ids)
        return rows

    def forward(self, tokens: Tensor, *, cache: KVCache | None = None, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm: ids [B, L] or embeddings [B, L, H] -> [B, L, H].

        Each position sees itself and what came before it. With a `cache` that is also what earlier calls wrote into
        it, and this call's positions are added. `mask` is bool [B, cached + L], False = padding: it is seen by
        nobody, and positions count real tokens only, so that a padded text gives what it gives alone. What comes
        out at a padded position has no meaning.

        Raises:
            ValueError: a cache without room for B x L positions, or a mask of another shape.
        """
        x = tokens if tokens.is_floating_point() else self.embed(tokens)  # [B, L, H]
        batch, length = x.shape[:2]
        past = 0
        if cache is not None:
            cache.check_room(batch, length)
            past = cache.length
        seen = _visible(mask, past, batch, length, x.device)
        rope = self._rope(mask, past, x)
        for index, layer in enumerate(self.layers):
            slot = None if cache is None else cache.layer(index)
            x = layer(x, rope=rope, mask=seen, causal=seen is None and length > 1, cache=slot)
        if cache is not None:
            cache.advance(length)
        out: Tensor = self.norm(x)
        return out

    def packed(self, tokens: Tensor, texts: PackedTexts) -> Tensor:
        """Hidden states after the final norm of several texts' new tokens in one line: embeddings [T, H] -> [T, H]."""
        config = self.config
        rope = rotary_table(
            0, config.head_dim, config.rope_theta, device=tokens.device, dtype=tokens.dtype, positions=texts.start()
        )
        x = tokens[None]  # [1, T, H]
        for index, layer in enumerate(self.layers):
            x = layer(x, rope=rope, cache=texts.layer(index))
        texts.finish()
        out: Tensor = self.norm(x)[0]
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary: [..., H] -> [..., vocab_size]."""
        return F.linear(hidden, self.ops.cast(self.embed_tokens.weight, hidden))

    def _rope(self, mask: Tensor | None, past: int, x: Tensor) -> Rope:
        length, config = x.shape[1], self.config
        positions = None
        if mask is not None:
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]  # [B, L]
        return rotary_table(
            length,
            config.head_dim,
            config.rope_theta,
            device=x.device,
            dtype=x.dtype,
            start=past,
            positions=positions,
        )


def _visible(mask: Tensor | None, past: int, batch: int, length: int, device: torch.device) -> Tensor | None:
    """Which keys each query sees, bool [B or 1, 1, L, past + L]; None where plain causal attention says the same."""
    if mask is None:
        return visible(past, length, device)
    if mask.shape != (batch, past + length):
        raise ValueError(f"Qwen3: the mask must be [{batch}, {past + length}], got {list(mask.shape)}")
    keys = torch.arange(past + length, device=device)
    queries = keys[past:, None]  # [L, 1]
    # A padded query sees itself: a softmax over nothing would be NaN and spread through the values.
    return ((keys <= queries) & mask[:, None] | (keys == queries))[:, None]
