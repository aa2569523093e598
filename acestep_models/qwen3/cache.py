"""Keys and values of a text that grows token by token, in buffers of a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..layers import See
from .config import Qwen3Config


class KVCache:
    """Room for `capacity` positions of `batch` texts in every layer; `length` of them are filled.

    It belongs to one run. `Qwen3.forward` fills it: each layer appends through `layer(i)`, then the model
    moves `length` on.
    """

    def __init__(
        self,
        config: Qwen3Config,
        batch: int,
        capacity: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    @property
    def batch(self) -> int:
        """How many texts grow side by side."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """How many positions there is room for."""
        return self.keys.shape[3]

    def layer(self, index: int) -> LayerSlot:
        """The part of one layer."""
        return LayerSlot(self.keys[index], self.values[index], self.length)

    def check_room(self, batch: int, tokens: int) -> None:
        """Raises a ValueError unless [batch, tokens] new positions fit."""
        if batch != self.batch:
            raise ValueError(f"the cache was made for {self.batch} texts, got {batch}")
        if self.length + tokens > self.capacity:
            raise ValueError(
                f"the cache has {self.capacity} positions, {self.length} of them filled: {tokens} more do not fit. "
                "Make it as large as the prompt and everything to be written together"
            )

    def advance(self, tokens: int) -> None:
        """Count `tokens` positions that every layer has appended."""
        self.length += tokens

    def rewind(self, length: int = 0) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} positions, it cannot be rewound to {length}")
        self.length = length

    def row(self, index: int) -> KVCache:
        """One text of this cache as a cache of its own in the same memory, with a length of its own."""
        one = KVCache.__new__(KVCache)
        one.keys, one.values = self.keys[:, index : index + 1], self.values[:, index : index + 1]
        one.length = self.length
        return one

    def copy_from(self, other: KVCache) -> None:
        """Hold what `other`, of as many texts or of one, holds."""
        self.length, end = other.length, other.length
        self.keys[:, :, :, :end] = other.keys[:, :, :, :end]
        self.values[:, :, :, :end] = other.values[:, :, :, :end]

    def grow(self, capacity: int) -> None:
        """Move into larger buffers; what is filled stays."""
        end = self.length
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty((*old.shape[:3], capacity, old.shape[4]))
            new[:, :, :, :end] = old[:, :, :, :end]
            setattr(self, name, new)


@dataclass(frozen=True, eq=False)
class LayerSlot:
    """Views of one layer's buffers, [B, kv, capacity, D], of which `length` positions are filled."""

    keys: Tensor
    values: Tensor
    length: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k and v [B, kv, L, D] behind the filled part; return it together with them [B, kv, length + L, D]."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, see: See, mask: Tensor | None, causal: bool) -> Tensor:
        """As `LayerCache` asks."""
        return see(q, *self.append(k, v), mask, causal)


def visible(past: int, length: int, device: torch.device) -> Tensor | None:
    """Which keys each of `length` queries after `past` others sees, bool [1, 1, length, past + length].

    None where plain attention, causal from the first position on, says the same.
    """
    if past == 0 or length == 1:
        return None
    keys = torch.arange(past + length, device=device)
    return (keys <= keys[past:, None])[None, None]
