"""What every transformer of the pack shares: attention, rotary positions, feed-forward and encoder layers."""

from __future__ import annotations

from .attention import Attention, LayerCache, See
from .blocks import EncoderLayer, FeedForward, parameter, sliding_mask
from .rotary import Rope, apply_rotary, rotary_table
from .shape import LayerShape

__all__ = [
    "Attention",
    "EncoderLayer",
    "FeedForward",
    "LayerCache",
    "LayerShape",
    "Rope",
    "See",
    "apply_rotary",
    "parameter",
    "rotary_table",
    "sliding_mask",
]
