"""The stack that lyric encoder, timbre encoder, pooler and detokenizer share (spec/audio.md §2.4 to §2.6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers import EncoderLayer, rotary_table, sliding_band
from ..ops import TORCH_OPS, Ops
from .config import DiTConfig


class Encoder(nn.Module):
    """Linear into width E, `depth` pre-norm layers that see a band and everything in turn (band first), final norm."""

    def __init__(
        self,
        config: DiTConfig,
        inputs: int,
        depth: int,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        shape = config.encoder_shape
        self.embed_tokens = ops.Linear(inputs, shape.width, device=device, dtype=dtype)
        self.layers = nn.ModuleList(EncoderLayer(shape, ops, device, dtype) for _ in range(depth))
        self.norm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, inputs] -> [B, L, E]."""
        return self.transform(self.embed_tokens(x))

    def transform(self, h: Tensor) -> Tensor:
        """The layers and the final norm on embedded h [B, L, E]."""
        length, config = h.shape[1], self.config
        rope = rotary_table(length, config.head_dim, config.rope_theta, device=h.device, dtype=h.dtype)
        band = sliding_band(length, config.sliding_window, config.encoder_shape.groups, h)
        for index, layer in enumerate(self.layers):
            h = layer(h, rope=rope, mask=band if index % 2 == 0 else None)
        out: Tensor = self.norm(h)
        return out
