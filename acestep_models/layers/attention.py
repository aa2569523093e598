"""Grouped-query attention with normed queries and keys (spec/audio.md §2.1)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ..ops import TORCH_OPS, Ops
from .band import Band, See
from .rotary import Rope, apply_rotary
from .shape import LayerShape

KeysValues = tuple[Tensor, Tensor]


class LayerCache(Protocol):
    """Keys and values of the positions that one attention layer has already seen."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See, mask: Tensor | None, causal: bool) -> Tensor:
        """Store k and v [B, kv, L, D] of the new positions; what q [B, heads, L, D] sees of all of them, like q.

        `see` is `Ops.attention`; `mask` and `causal` are those of the whole pass.
        """


class Attention(nn.Module):
    """Projections without bias, RMSNorm over each head of q and k, rotary positions if given, softmax, output.

    Self-attention by default; with `context` the keys and values come from there.
    """

    JOINT = ("q_proj", "k_proj", "v_proj")

    def __init__(
        self,
        shape: LayerShape,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.ops = ops
        place = {"device": device, "dtype": dtype}
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = ops.Linear(shape.width, queries, bias=False, **place)
        self.k_proj = ops.Linear(shape.width, keys, bias=False, **place)
        self.v_proj = ops.Linear(shape.width, keys, bias=False, **place)
        self.o_proj = ops.Linear(queries, shape.width, bias=False, **place)
        self.q_norm = ops.RMSNorm(shape.head_dim, eps=shape.eps, **place)
        self.k_norm = ops.RMSNorm(shape.head_dim, eps=shape.eps, **place)

    def forward(
        self,
        x: Tensor,
        *,
        rope: Rope | None = None,
        mask: Tensor | Band | None = None,
        context: Tensor | KeysValues | None = None,
        causal: bool = False,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x [B, L, W] -> [B, L, W].

        `mask` is bool (True = may be seen) and broadcasts to [B, heads, L, keys], or the band of a sliding layer (no
        context, no cache); `context` [B, keys, W] or what `keys_values` made of it; `causal` (no mask, no context)
        hides the future; `cache` keeps the new keys and values and attends to all.
        """
        q, k, v = self._queries_keys_values(x, rope, context)  # [B, heads or kv, L, D]
        if isinstance(mask, Band):
            seen = mask.attend(q, k, v, self.ops.attention)  # [B, heads, L, D]
        elif cache is None:
            seen = self.ops.attention(q, k, v, mask, causal)  # [B, heads, L, D]
        else:
            seen = cache.attend(q, k, v, self.ops.attention, mask, causal)  # [B, heads, L, D]
        out: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return out

    def keys_values(self, x: Tensor, rope: Rope | None = None) -> KeysValues:
        """Keys and values of x [B, L, W], each [B, kv, L, D]; they may be computed once and used often."""
        k, v = self.ops.joined((self.k_proj, self.v_proj), x)
        return self._heads(k, self.k_norm, rope), self._split(v)

    def _queries_keys_values(
        self, x: Tensor, rope: Rope | None, context: Tensor | KeysValues | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if context is None:
            q, k, v = self.ops.joined((self.q_proj, self.k_proj, self.v_proj), x)
            return self._heads(q, self.q_norm, rope), self._heads(k, self.k_norm, rope), self._split(v)
        q = self._heads(self.q_proj(x), self.q_norm, rope)
        return q, *(context if isinstance(context, tuple) else self.keys_values(context, rope))

    def _heads(self, x: Tensor, norm: nn.Module, rope: Rope | None) -> Tensor:
        """Split [B, L, heads · D] into normed, rotated heads [B, heads, L, D]."""
        heads: Tensor = norm(x.unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return heads if rope is None else apply_rotary(heads, *rope)

    def _split(self, x: Tensor) -> Tensor:
        """[B, L, heads · D] -> [B, heads, L, D]."""
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return heads
