"""The layers every network is built of, as a value: torch's own by default, the host's casting layers inside ComfyUI.

A network never names `torch.nn.Linear`; it takes `ops` and asks for `ops.Linear`. So weights can be
streamed, quantised or patched without a branch in the model (spec/style.md §3.10, spec/host.md §2).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
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

    q [B, heads, Lq, D], k and v [B, kv, Lk, D] -> [B, heads, Lq, D]. `mask` is bool (True = may be seen), or
    numbers to add in the dtype of q, and broadcasts to [B, heads, Lq, Lk]. `causal` needs Lq == Lk and no mask.
    """
    groups = q.shape[1] // k.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    # Grouped queries have a fused CUDA kernel only in half precision and without a mask; elsewhere torch would
    # fall back to a full matrix of scores.
    if _HAS_GQA and mask is None and q.dtype in _HALF and q.shape[2] > 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    if q.shape[2] == 1 or not (causal or _minds_the_query(mask)):
        return _as_rows(q, k, v, mask)
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _minds_the_query(mask: Tensor | None) -> bool:
    """Whether what may be seen depends on the query or on its head."""
    return mask is not None and (mask.ndim < 4 or mask.shape[-2] > 1 or mask.shape[-3] > 1)


def _as_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The query heads of one key head under one another as rows of one head: no key is copied.

    q [B, heads, Lq, D] -> like q; Lq is 1 (alone, a query sees no future), or all queries see the same.
    """
    batch, heads, _, width = q.shape
    rows = q.reshape(batch, k.shape[1], -1, width)  # [B, kv, heads / kv · Lq, D]
    if mask is not None and mask.ndim > 2 and mask.shape[-3] == heads:
        mask = mask.unflatten(-3, (k.shape[1], -1)).squeeze(-2)  # [B, kv, heads / kv, Lk]
    return F.scaled_dot_product_attention(rows, k, v, attn_mask=mask).reshape(q.shape)


def cast(parameter: Tensor, like: Tensor) -> Tensor:
    """A raw parameter on the device and in the dtype of the tensor it meets."""
    return parameter.to(device=like.device, dtype=like.dtype)


def rows(embedding: nn.Module, start: int, stop: int, like: Tensor) -> Tensor:
    """Rows start .. stop - 1 of an embedding as the weight of a head, [stop - start, H], on the device and in the
    dtype of `like`. A view where the table is both already: take it once a run and do not write into it."""
    table: Tensor = embedding.get_parameter("weight")
    return table[start:stop].to(device=like.device, dtype=like.dtype)


def lies_still(module: nn.Module, like: Tensor) -> bool:
    """Whether every weight lies on the device of `like` and stays at its address, so that a pass may be recorded."""
    return all(parameter.device == like.device for parameter in module.parameters())


def joined(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """What linear layers without biases make of the same x [..., in], each [..., its out]; here one after another.

    One product over several matrices gives views of one tensor, which may be written into. A module says in `JOINT`
    which of its layers it asks for together.
    """
    return tuple(layer(x) for layer in layers)


@dataclass(frozen=True)
class Ops:
    """Constructors with the signatures of torch.nn (all take `device=` and `dtype=`), and five functions."""

    Linear: Layer = nn.Linear
    Conv1d: Layer = nn.Conv1d
    ConvTranspose1d: Layer = nn.ConvTranspose1d
    RMSNorm: Layer = nn.RMSNorm
    Embedding: Layer = nn.Embedding
    attention: Callable[..., Tensor] = attention
    cast: Callable[[Tensor, Tensor], Tensor] = cast
    rows: Callable[[nn.Module, int, int, Tensor], Tensor] = rows
    lies_still: Callable[[nn.Module, Tensor], bool] = lies_still
    joined: Callable[[Sequence[nn.Module], Tensor], tuple[Tensor, ...]] = joined


TORCH_OPS = Ops()
META = torch.device("meta")
