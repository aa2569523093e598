"""What every transformer of the pack shares: attention, rotary positions, feed-forward and encoder layers."""

from __future__ import annotations

from .attention import Attention, KeysValues, LayerCache
from .band import Band, See, band_elements, count_blocks, sliding_band, sliding_mask
from .blocks import EncoderLayer, FeedForward, parameter
from .rotary import Rope, apply_rotary, rotary_table
from .shape import LayerShape

__all__ = [
    "Attention",
    "Band",
    "EncoderLayer",
    "FeedForward",
    "KeysValues",
    "LayerCache",
    "LayerShape",
    "Rope",
    "See",
    "apply_rotary",
    "band_elements",
    "count_blocks",
    "parameter",
    "rotary_table",
    "sliding_band",
    "sliding_mask",
]
