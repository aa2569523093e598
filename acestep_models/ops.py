"""The layers every network is built of, as a value: torch's own by default, the host's casting layers inside ComfyUI.

A network never names `torch.nn.Linear`; it takes `ops` and asks for `ops.Linear`. So weights can be
streamed, quantised or patched without a branch in the model (spec/style.md §3.10, spec/host.md §2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = Callable[..., Any]

# torch 2.4 has no grouped-query option.
_HAS_GQA = "enable_gqa" in (inspect.getdoc(F.scaled_dot_product_attention) or "")
_HALF = (torch.float16, torch.bfloat16)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention with scale D^-0.5; each key head serves heads / kv consecutive query heads.

    q [B, heads, Lq, D], k and v [B, kv, Lk, D] -> [B, heads, Lq, D]. `mask` is bool (True = may be seen) and
    broadcasts to [B, heads, Lq, Lk]. `causal` needs Lq == Lk and no mask.
    """
    groups = q.shape[1] // k.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    # Grouped queries have a fused CUDA kernel only in half precision and without a mask; elsewhere torch would
    # fall back to a full matrix of scores, which costs far more than repeated key heads.
    if _HAS_GQA and mask is None and q.dtype in _HALF:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def cast(parameter: Tensor, like: Tensor) -> Tensor:
    """A raw parameter on the device and in the dtype of the tensor it meets."""
    return parameter.to(device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Ops:
    """Constructors with the signatures of torch.nn (all take `device=` and `dtype=`), and two functions."""

    Linear: Layer = nn.Linear
    Conv1d: Layer = nn.Conv1d
    ConvTranspose1d: Layer = nn.ConvTranspose1d
    RMSNorm: Layer = nn.RMSNorm
    Embedding: Layer = nn.Embedding
    attention: Callable[..., Tensor] = attention
    cast: Callable[[Tensor, Tensor], Tensor] = cast


TORCH_OPS = Ops()
META = torch.device("meta")
