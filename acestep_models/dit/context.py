"""What the decoder sees beside the noise: a source, and where it may write (spec/audio.md §2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def text_to_music_context(source: Tensor) -> Tensor:
    """Nothing to keep, everything to write: source [1, T, 64] -> source and mask of ones [1, T, 128].

    The source is silence, or what the detokenizer makes of a plan's codes ("hints").
    """
    return torch.cat([source, torch.ones_like(source)], dim=-1)
