"""Layers that compute the same and keep less for the gradient: for a frozen decoder that is trained through."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import FeedForward


class LeanNorm(nn.Module):
    """RMSNorm with a frozen weight that keeps only its input in its own dtype; torch's keeps two copies in fp32 where
    it has no fused kernel."""

    def __init__(self, plain: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = plain.weight, plain.eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., W] -> [..., W]."""
        out: Tensor = _Norm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        wide, grad = x.float(), grad.float() * weight.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + ctx.eps)
        wide = wide * inverse
        grad = (grad - wide * (grad * wide).mean(-1, keepdim=True)) * inverse
        return grad.to(x.dtype), None, None


class LeanFeedForward(nn.Module):
    """The feed-forward part that keeps gate and up, not silu(gate) as well."""

    def __init__(self, plain: FeedForward) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = plain.gate_proj, plain.up_proj, plain.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, W] -> [B, L, W]."""
        product = _Gated.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
        out: Tensor = self.down_proj(product)
        return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return d_gate, F.silu(gate).mul_(grad)
