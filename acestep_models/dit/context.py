"""What the decoder sees beside the noise: a source, and where it may write (spec/audio.md §2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def text_to_music_context(silence: Tensor) -> Tensor:
    """Nothing to keep, everything to write: silence [1, T, 64] -> source and mask of ones [1, T, 128]."""
    return torch.cat([silence, torch.ones_like(silence)], dim=-1)
