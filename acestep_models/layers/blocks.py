"""Feed-forward part and pre-norm layer (spec/audio.md §2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import TORCH_OPS, Ops
from .attention import Attention, LayerCache
from .band import Band
from .rotary import Rope
from .shape import LayerShape


def parameter(*shape: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> nn.Parameter:
    """A raw parameter, zero until it is loaded. Use it through `ops.cast`: the host leaves it where it lies."""
    return nn.Parameter(torch.zeros(*shape, device=device, dtype=dtype))


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), no biases."""

    JOINT = ("gate_proj", "up_proj")

    def __init__(
        self,
        width: int,
        hidden: int,
        ops: Ops = TORCH_OPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.ops = ops
        self.gate_proj = ops.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        self.up_proj = ops.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        self.down_proj = ops.Linear(hidden, width, bias=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, W] -> [B, L, W]."""
        gate, up = self.ops.joined((self.gate_proj, self.up_proj), x)
        if torch.is_grad_enabled():
            product = F.silu(gate) * up
        else:  # the same numbers, in the place of the gate: these are the widest tensors of a pass
            product = F.silu(gate, inplace=True).mul_(up)
        out: Tensor = self.down_proj(product)
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
        mask: Tensor | Band | None = None,
        causal: bool = False,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x [B, L, W] -> [B, L, W]; the arguments are those of `Attention`."""
        x = x + self.self_attn(self.input_layernorm(x), rope=rope, mask=mask, causal=causal, cache=cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
