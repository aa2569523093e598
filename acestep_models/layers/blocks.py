"""Feed-forward part, pre-norm layer, and the band that sliding layers see (spec/audio.md §2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import TORCH_OPS, Ops
from .attention import Attention, LayerCache
from .rotary import Rope
from .shape import LayerShape


def parameter(*shape: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Parameter:
    """A raw parameter, zero until it is loaded. Use it through `ops.cast`: the host leaves it where it lies."""
    return nn.Parameter(torch.zeros(*shape, device=device, dtype=dtype))


def sliding_mask(length: int, window: int, device: torch.device | str | None) -> Tensor | None:
    """Bool [length, length], True where |i - j| <= window; None when that hides nothing."""
    if length <= window + 1:
        return None
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= window  # [L, L]


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), no biases."""

    def __init__(
        self,
        width: int,
        hidden: int,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.gate_proj = ops.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        self.up_proj = ops.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        self.down_proj = ops.Linear(hidden, width, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, W] -> [B, L, W]."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class EncoderLayer(nn.Module):
    """Pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)). Also Qwen3's, with `causal` and `cache`."""

    def __init__(
        self,
        shape: LayerShape,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_layernorm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)
        self.self_attn = Attention(shape, ops, device, dtype)
        self.post_attention_layernorm = ops.RMSNorm(shape.width, eps=shape.eps, device=device, dtype=dtype)
        self.mlp = FeedForward(shape.width, shape.hidden, ops, device, dtype)

    def forward(
        self,
        x: Tensor,
        *,
        rope: Rope | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x [B, L, W] -> [B, L, W]; the arguments are those of `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), rope=rope, mask=mask, causal=causal, cache=cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
