"""The numbers that fix one transformer layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerShape:
    """Width of the stream, heads, width of the feed-forward part, and the epsilon of every norm in it.

    Raises:
        ValueError: an odd head, or key heads that do not divide the query heads.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    eps: float = 1e-6

    @property
    def groups(self) -> int:
        """How many query heads share a key head."""
        return self.heads // self.kv_heads

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.kv_heads, self.head_dim, self.hidden) < 1:
            raise ValueError(f"layer: every size must be at least 1, got {self}")
        if self.head_dim % 2:
            raise ValueError(f"layer: head_dim must be even for rotary positions, got {self.head_dim}")
        if self.heads % self.kv_heads:
            raise ValueError(f"layer: {self.kv_heads} key heads do not divide {self.heads} query heads")
