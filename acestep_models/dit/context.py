"""What the decoder sees beside the noise: a source, and where it may write (spec/audio.md §2.3, §5.1, §5.2)."""

from __future__ import annotations

import torch
from torch import Tensor

Span = tuple[int, int]


def task_context(source: Tensor, span: Span | None = None) -> Tensor:
    """source [1, T, 64] -> source unchanged, and a mask that is 1 where the decoder may write, else 0: [1, T, 128].

    The source is silence, the latents of a sound, or what the detokenizer makes of codes ("hints"). It may write in
    the frames from the first of `span` up to, not including, the second; everywhere where there is no span.
    """
    mask = torch.ones_like(source)
    if span is not None:
        mask[:, : span[0]] = 0
        mask[:, span[1] :] = 0
    return torch.cat([source, mask], dim=-1)
